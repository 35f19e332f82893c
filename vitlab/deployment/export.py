"""A model as a file that runs without vitlab, ONNX, and calibrated before that.

It takes normalized images (B, C, H, W) of the model's own size, for any B, and returns the outputs of evaluation:
logits, or the embedding where there are no classes. What is traced is a copy: the model that is given stays as it is.
"""

import copy
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from scipy.optimize import minimize_scalar
from torch.export import Dim
from torch.nn.attention import SDPBackend, sdpa_kernel

from vitlab.data import ImageDataModule
from vitlab.data.dataset import Split
from vitlab.evaluation.predictions import calibration_error, negative_log_likelihood
from vitlab.models.backbone import ImageModel, in_eval_mode

FREE_BATCH = ({0: Dim("batch")},)
TRACED_BATCH = 2  # torch.export takes sizes of 0 and 1 for constants
CHECKED_BATCHES = (1, 3)  # not the traced one, which a size that was taken for a constant would pass

# How far outputs of an ONNX file may be from the model's, in units of the largest. Sums in another order leave 1e-7 to
# 1e-5 in float32, the more the deeper the model; a wrong weight, mask or axis leaves more than 1e-2.
TOLERANCE = 1e-4


def export_onnx(model: ImageModel, path: str | Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write an ONNX file with the input `images` and the output `logits`, once onnxruntime finds the same outputs.

    Weights of more than 2 GB, which ONNX cannot hold, go into a second file in the same folder.
    """
    import onnxruntime

    path = Path(path)
    eager = copy.deepcopy(model).to("cpu", torch.float32).eval()
    # The exporter flattens heads and windows by views where the layout of the attention's output allows them, and then
    # replaces the attention by its arithmetic, whose output lies in memory as that of this kernel.
    images = torch.zeros(TRACED_BATCH, model.in_chans, *model.img_size)
    with sdpa_kernel(SDPBackend.MATH):
        with torch.no_grad():
            traced = torch.export.export(eager, (images,), dynamic_shapes=FREE_BATCH)
        names: dict[str, Any] = {"input_names": ["images"], "output_names": ["logits"]}
        program = torch.onnx.export(traced, **names, dynamic_shapes=FREE_BATCH, dynamo=True, verbose=False)
    assert program is not None
    program.model.metadata_props.update(metadata or {})
    with TemporaryDirectory(dir=path.parent) as folder:
        draft = Path(folder, path.name)
        program.save(draft)
        session = onnxruntime.InferenceSession(draft, providers=["CPUExecutionProvider"])
        generator = torch.Generator().manual_seed(0)  # its own: the caller's random numbers stay what they were
        for batch in CHECKED_BATCHES:
            images = torch.randn(batch, eager.in_chans, *eager.img_size, generator=generator)
            (found,) = session.run(["logits"], {"images": images.numpy()})
            with torch.no_grad():
                expected = eager(images)
            largest = expected.abs().max().clamp(min=torch.finfo(expected.dtype).tiny)  # a classifier may begin at zero
            error = (torch.from_numpy(found) - expected).abs().max() / largest
            if not error <= TOLERANCE:  # also where it is nan
                raise RuntimeError(
                    f"{path.name} does not give what the model gives: for {batch} random images its logits are off by "
                    f"{error:.1e} of the largest, more than {TOLERANCE:.0e}.\n"
                    "A forward that is not a function of the images alone cannot be exported."
                )
        for file in sorted(Path(folder).iterdir(), reverse=True):  # weights before the file that names them
            file.replace(path.with_name(file.name))


# ---- calibration


@torch.no_grad()
def calibrate(model: ImageModel, data: ImageDataModule) -> str:
    """Divide a classifier's last layer by the temperature T with which the validation images are likeliest.

    T minimizes their NLL (Guo et al. 2017, "On calibration of modern neural networks", section 4.2). Every file of the
    weights then gives calibrated probabilities, and no prediction changes. Return what it does to others, in words.
    """

    def logits_of(split: Split) -> np.ndarray:
        with in_eval_mode(model):
            batches = data.batches(split, next(model.parameters()).device)
            return torch.cat([model(images) for (images,), _ in batches]).float().cpu().numpy()

    if data.labels("val").ndim > 1 or not model.num_classes:
        raise ValueError("--calibrate: a temperature is for probabilities of one class each; leave it out.")
    val, truth = logits_of("val"), data.labels("val")
    split: Split = "val" if data.tests_on_validation else "test"
    before, labels = logits_of(split), data.labels(split)
    fit = minimize_scalar(lambda x: negative_log_likelihood(val / np.exp(x), truth), bounds=(-5, 5), method="bounded")
    temperature = np.exp(fit.x)
    if abs(fit.x) > 4.9:  # all are classified correctly, or none better than by chance
        raise ValueError(f"--calibrate: no temperature fits the {len(val):,} validation images; give more of them.")
    for parameter in model.head_parameters():
        parameter.div_(temperature)
    after = logits_of(split)
    if not np.allclose(after, before / temperature, rtol=1e-3, atol=1e-3 * np.abs(before).max()):
        raise ValueError("--calibrate: the outputs are not linear in the classifier's weights; leave it out.")
    measures = calibration_error, negative_log_likelihood
    (ece, was), (nll, once) = ([measure(each, labels) for each in (after, before)] for measure in measures)
    return (
        f"Logits are divided by the temperature {temperature:.3f}, fitted on {len(val):,} validation images. On "
        f"{'these' if split == 'val' else f'{len(labels):,} test'} images the calibration error (ECE) is {ece:.1%} "
        f"instead of {was:.1%}, the NLL {nll:.3f} instead of {once:.3f}."
    )
