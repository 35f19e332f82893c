"""A model as a file that runs without vitlab, ONNX.

It takes normalized images (B, C, H, W) of the model's own size, for any B, and returns the outputs of evaluation:
logits, or the embedding where there are no classes. What is traced is a copy: the model that is given stays as it is.
"""

import copy
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch.export import Dim
from torch.nn.attention import SDPBackend, sdpa_kernel

from vitlab.models.backbone import ImageModel

FREE_BATCH = ({0: Dim("batch")},)
TRACED_BATCH = 2  # torch.export takes sizes of 0 and 1 for constants
CHECKED_BATCHES = (1, 3)  # not the traced one, which a size that was taken for a constant would pass

TOLERANCE = 1e-4
"""How far the outputs of an ONNX file may be from the model's, in units of the largest.

Sums in another order leave 1e-7 to 1e-5 in float32, the more the deeper the model; a wrong weight, mask or axis leaves
more than 1e-2.
"""


def export_onnx(model: ImageModel, path: str | Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write an ONNX file with the input `images` and the output `logits`, once it is found to give the same.

    Weights of more than 2 GB, which ONNX cannot hold, go into a second file in the same folder.

    Raises:
        RuntimeError: onnxruntime gives other outputs than the model; no file is written or replaced.
    """
    path = Path(path)
    eager = copy.deepcopy(model).to("cpu", torch.float32).eval()
    # The exporter flattens heads and windows by views where the layout of the attention's output allows them, and then
    # replaces the attention by its arithmetic, whose output lies in memory as that of this kernel.
    images = torch.zeros(TRACED_BATCH, model.in_chans, *model.img_size)
    with sdpa_kernel(SDPBackend.MATH):
        with torch.no_grad():
            traced = torch.export.export(eager, (images,), dynamic_shapes=FREE_BATCH)
        program = torch.onnx.export(
            traced,
            input_names=["images"],
            output_names=["logits"],
            dynamic_shapes=FREE_BATCH,
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    program.model.metadata_props.update(metadata or {})
    with TemporaryDirectory(dir=path.parent) as folder:
        draft = Path(folder, path.name)
        program.save(draft)
        _check(eager, draft)
        for file in sorted(Path(folder).iterdir(), reverse=True):  # weights before the file that names them
            file.replace(path.with_name(file.name))


def _check(model: ImageModel, path: Path) -> None:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    generator = torch.Generator().manual_seed(0)  # its own: the caller's random numbers stay what they were
    for batch in CHECKED_BATCHES:
        images = torch.randn(batch, model.in_chans, *model.img_size, generator=generator)
        (found,) = session.run(["logits"], {"images": images.numpy()})
        with torch.no_grad():
            expected = model(images)
        largest = expected.abs().max().clamp(min=torch.finfo(expected.dtype).tiny)  # a classifier may begin at zero
        error = (torch.from_numpy(found) - expected).abs().max() / largest
        if not error <= TOLERANCE:  # also where it is nan
            raise RuntimeError(
                f"{path.name} does not give what the model gives: for {batch} random images its logits are off by "
                f"{error:.1e} of the largest, more than {TOLERANCE:.0e}.\n"
                "A forward that is not a function of the images alone cannot be exported."
            )
