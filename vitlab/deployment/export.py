"""A model as files that others open: ONNX, a `config.json` for timm, and calibrated before that.

It takes normalized images (B, C, H, W) of the model's own size, for any B, and returns the outputs of evaluation:
logits, or the embedding where there are no classes. What is traced is a copy: the model that is given stays as it is.
"""

import copy
import inspect
import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.export import Dim
from torch.nn.attention import SDPBackend, sdpa_kernel

from vitlab.atomic_files import write_text
from vitlab.config import named
from vitlab.data import ImageDataModule
from vitlab.data.dataset import Split
from vitlab.deployment.card import Exported
from vitlab.evaluation.features import extract
from vitlab.evaluation.predictions import calibration_error, fitted_temperature, negative_log_likelihood
from vitlab.models import SwinTransformer, SwinTransformerV2, TimmModel, VisionTransformer
from vitlab.models.backbone import ImageModel, in_eval_mode
from vitlab.models.layers import pair

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
    with sdpa_kernel(SDPBackend.MATH), torch.no_grad():
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
                wrong = f"{path.name} does not give the model's logits: they are off by {error:.1e} of the largest"
                raise RuntimeError(f"{wrong}. A forward must be a function of the images alone to be exported.")
        for file in sorted(Path(folder).iterdir(), reverse=True):  # weights before the file that names them
            file.replace(path.with_name(file.name))


# ---- calibration


@torch.no_grad()
def calibrate(model: ImageModel, data: ImageDataModule) -> str:
    """Divide a classifier's last layer by the temperature T with which the validation images are likeliest.

    Return what it does to other images, for the model card.
    """

    def logits_of(split: Split) -> np.ndarray:
        return extract(model, data.batches(split, next(model.parameters()).device), model)[0].numpy()

    if data.labels("val").ndim > 1 or not model.num_classes:
        raise ValueError("--calibrate: a temperature is for probabilities of one class each; leave it out.")
    val, truth = logits_of("val"), data.labels("val")
    split: Split = "val" if data.tests_on_validation else "test"
    before, labels = logits_of(split), data.labels(split)
    if np.isnan(temperature := fitted_temperature(val, truth)):
        raise ValueError(f"--calibrate: no temperature fits the {len(val):,} validation images; give more of them.")
    for parameter in model.head_parameters():
        parameter.div_(temperature)
    after = logits_of(split)
    if not np.allclose(after, before / temperature, rtol=1e-3, atol=1e-3 * np.abs(before).max()):
        raise ValueError("--calibrate: the outputs are not linear in the classifier's weights; leave it out.")
    measures = calibration_error, negative_log_likelihood
    (ece, was), (nll, once) = ([measure(each, labels) for each in (after, before)] for measure in measures)
    on = "these" if split == "val" else f"{len(labels):,} test"
    changes = f"the calibration error (ECE) is {ece:.1%} instead of {was:.1%}, the NLL {nll:.3f} instead of {once:.3f}"
    fitted = f"the temperature {temperature:.3f}, fitted on {len(val):,} validation images"
    return f"Logits are divided by {fitted}. On {on} images {changes}."


# ---- `config.json` beside exported weights: `timm.create_model("local-dir:FOLDER", pretrained=True)` opens the folder

BASES = {  # models whose arguments `model_args` replaces, for those that have no name in timm
    VisionTransformer: "vit_base_patch16_224",
    SwinTransformer: "swin_tiny_patch4_window7_224",
    SwinTransformerV2: "swinv2_tiny_window8_256",
}
LEFT_OFF = ("num_classes", "dynamic_img_size", "dynamic_img_pad")  # how other sizes are taken, timm leaves off


def write_timm_config(exported: Exported, folder: Path) -> Path | None:
    """Write `config.json` beside `model.safetensors`; None, and no such file, where timm has no such model.

    It has the keys of timm's `save_config_for_hf`, and stays only if timm then gives the outputs and the pixels that we
    give.
    """
    import timm

    path, encoder, framing = folder / "config.json", exported.encoder, exported.data.framing
    path.unlink(missing_ok=True)  # of an earlier export
    if type(encoder) not in (*BASES, TimmModel) or framing.size != exported.data.image_size:
        return None
    architecture, arguments = _architecture(exported)
    known: Any = timm.get_pretrained_cfg(architecture)
    config = {
        "architecture": architecture,
        "num_classes": encoder.num_classes,
        "num_features": encoder.num_features,
        **({"label_names": exported.data.class_names} if encoder.num_classes else {}),
        "model_args": arguments,
        "pretrained_cfg": {
            "input_size": [encoder.in_chans, *encoder.img_size],
            "fixed_input_size": known.fixed_input_size,
            "interpolation": framing.interpolation,
            "crop_pct": framing.crop_pct or 1.0,
            "crop_mode": "center" if framing.crop_pct else "squash",
            "mean": list(exported.data.mean),
            "std": list(exported.data.std),
            "first_conv": known.first_conv,  # what timm adapts to other channels and classes
            "classifier": known.classifier,
        },
    }
    write_text(path, json.dumps(config, indent=2, ensure_ascii=False))
    with suppress(Exception):  # of any kind, for arguments and weights that timm's model has not
        if _timm_gives_the_same(exported, folder):
            return path
    path.unlink()
    return None


def _architecture(exported: Exported) -> tuple[str, dict[str, Any]]:
    """Return timm's name of the encoder, and the arguments in which it differs from what has this name."""
    import timm

    backbone, encoder = exported.config["model"]["init_args"]["backbone"], exported.encoder
    defaults = {name: x.default for name, x in inspect.signature(named(backbone["class_path"])).parameters.items()}
    given = defaults | backbone.get("init_args", {})
    size: dict[str, Any] = {"img_size": tuple(encoder.img_size), "in_chans": encoder.in_chans}
    if isinstance(encoder, TimmModel):
        name = given["name"].partition(".")[0]
        if not timm.get_pretrained_cfg(name).fixed_input_size:  # type: ignore[union-attr]
            del size["img_size"]
        return name, size | (given["model_kwargs"] or {})
    name = backbone["class_path"].rpartition(".")[2]
    has_name = timm.is_model(name)
    base = name if has_name else "deit_base_distilled_patch16_224" if given.get("distilled") else BASES[type(encoder)]
    shared = inspect.signature(getattr(timm.models, type(encoder).__name__)).parameters.keys() - {*LEFT_OFF}
    defaults["img_size"] = pair(defaults["img_size"])
    given = {key: tuple(x) if isinstance(x, list) else x for key, x in (given | size).items() if key in shared}
    trained = {key: x for key, x in given.items() if x is not None and not key.endswith("_rate")}  # of training alone
    return base, {key: x for key, x in trained.items() if not (has_name and x == defaults[key])}


@torch.no_grad()
def _timm_gives_the_same(exported: Exported, folder: Path) -> bool:
    """Return whether timm opens the folder, and finds the outputs and the pixels that we find."""
    import timm

    encoder, data = exported.encoder, exported.data
    with torch.random.fork_rng([]):
        theirs: Any = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    transform: Any = timm.data.create_transform(**timm.data.resolve_model_data_config(theirs))
    y, x = np.mgrid[:90, :130]  # no square, with edges and slopes
    planes = np.stack([(x * (3 + i) + y * y // (20 + i)) % 256 for i in range(3)], axis=2).astype(np.uint8)
    photo = Image.fromarray(planes).convert("L" if data.in_chans == 1 else "RGB")
    framed = transform(photo)[None]
    images = torch.cat([framed, framed.flip(3)])
    with in_eval_mode(encoder):
        on_device = images.to(next(encoder.parameters()).device)
        ours = [encoder(on_device).cpu(), encoder.embed(on_device).cpu()]
    found = [theirs(images), theirs.forward_head(theirs.forward_features(images), pre_logits=True)]
    level = ((framed[0] - data.preprocessing(photo)).abs() * torch.tensor(data.std).view(-1, 1, 1) * 255).max()
    near = [torch.dist(x, y, p=float("inf")) <= TOLERANCE * y.abs().max() for x, y in zip(found, ours, strict=True)]
    return all(near) and bool(level <= 1.01)  # which resizing may round
