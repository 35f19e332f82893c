"""`config.json` beside exported weights, by which timm opens the folder as it opens one of the Hugging Face Hub:

    model = timm.create_model("local-dir:FOLDER", pretrained=True)
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))

It has timm's keys (`save_config_for_hf` in timm/models/_hub.py) and those of transformers' TimmWrapper. It is kept only
if timm, given the folder, builds a model that gives what ours gives, and a transform that frames as ours does.
"""

import inspect
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from vitlab.atomic_files import write_text
from vitlab.config import named
from vitlab.deployment.card import Exported
from vitlab.deployment.export import TOLERANCE
from vitlab.models import SwinTransformer, SwinTransformerV2, TimmModel, VisionTransformer
from vitlab.models.backbone import in_eval_mode
from vitlab.models.layers import pair

BASES = {
    VisionTransformer: "vit_base_patch16_224",
    SwinTransformer: "swin_tiny_patch4_window7_224",
    SwinTransformerV2: "swinv2_tiny_window8_256",
}
"""Models whose arguments `model_args` replaces, for those that have no name in timm."""

DISTILLED = "deit_base_distilled_patch16_224"
OTHER_SIZES = ("dynamic_img_size", "dynamic_img_pad")  # how they are taken, which timm leaves off


def write_timm_config(exported: Exported, folder: Path) -> Path | None:
    """Write `config.json` beside `model.safetensors`; None, and no such file, where timm has no such model."""
    path = folder / "config.json"
    config = timm_config(exported)
    if config is not None:
        write_text(path, json.dumps(config, indent=2, ensure_ascii=False))
        if _timm_gives_the_same(exported, folder):
            return path
    path.unlink(missing_ok=True)  # also of an earlier export
    return None


def timm_config(exported: Exported) -> dict[str, Any] | None:
    """Return the content of the file; None for an architecture of one's own, and for pictures that timm frames not."""
    import timm

    data, encoder, framing = exported.data, exported.encoder, exported.data.framing
    if type(encoder) not in (*BASES, TimmModel) or framing.size != data.image_size:
        return None
    architecture, arguments = _architecture(exported)
    known: Any = timm.get_pretrained_cfg(architecture)
    names = data.class_names if encoder.num_classes else []
    labels: dict[str, Any] = {
        "label_names": names,
        "id2label": {str(i): name for i, name in enumerate(names)},
        "label2id": {name: i for i, name in enumerate(names)},
    }
    return {
        "architecture": architecture,
        "architectures": ["TimmWrapperForImageClassification" if names else "TimmWrapperModel"],
        "model_type": "timm_wrapper",
        "num_classes": encoder.num_classes,
        "num_features": encoder.num_features,
        **(labels if names else {}),
        "model_args": arguments,
        "pretrained_cfg": {
            "input_size": [encoder.in_chans, *encoder.img_size],
            "fixed_input_size": known.fixed_input_size,
            "interpolation": framing.interpolation,
            "crop_pct": framing.crop_pct or 1.0,
            "crop_mode": "center" if framing.crop_pct else "squash",
            "mean": list(data.mean),
            "std": list(data.std),
            "first_conv": known.first_conv,  # what timm adapts to other channels and classes
            "classifier": known.classifier,
        },
    }


def _architecture(exported: Exported) -> tuple[str, dict[str, Any]]:
    """Return timm's name of the encoder, and the arguments in which it differs from what has this name."""
    import timm

    backbone, encoder = exported.config["model"]["init_args"]["backbone"], exported.encoder
    build = named(backbone["class_path"])
    defaults = {name: each.default for name, each in inspect.signature(build).parameters.items()}
    given = defaults | backbone.get("init_args", {})
    size = {"img_size": list(encoder.img_size), "in_chans": encoder.in_chans}
    if isinstance(encoder, TimmModel):
        name = given["name"].partition(".")[0]
        known: Any = timm.get_pretrained_cfg(name)
        own = size if known.fixed_input_size else {"in_chans": encoder.in_chans}
        return name, own | (given["model_kwargs"] or {})
    name = backbone["class_path"].rpartition(".")[2]
    has_name = timm.is_model(name)
    base = name if has_name else DISTILLED if given.get("distilled") else BASES[type(encoder)]
    theirs: Any = getattr(timm.models, type(encoder).__name__)  # of the same name as ours
    shared = inspect.signature(theirs).parameters.keys() - {"num_classes", *OTHER_SIZES}
    defaults["img_size"] = pair(defaults["img_size"])
    return base, {
        key: _plain(value)
        for key, value in (given | size).items()
        if key in shared and value is not None and not key.endswith("_rate")  # which only training uses
        if not (has_name and _plain(value) == _plain(defaults[key]))
    }


def _plain(value: Any) -> Any:
    """Return a value as JSON has it."""
    return list(value) if isinstance(value, tuple) else value


@torch.no_grad()
def _timm_gives_the_same(exported: Exported, folder: Path) -> bool:
    """Return whether timm opens the folder, and finds the outputs and the pixels that we find."""
    import timm

    encoder, data = exported.encoder, exported.data
    try:
        with torch.random.fork_rng([]):
            theirs: Any = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
        transform: Any = timm.data.create_transform(**timm.data.resolve_model_data_config(theirs))
        photo = _photo(data.in_chans)
        framed = transform(photo)[None]
        device = next(encoder.parameters()).device
        with in_eval_mode(encoder):
            images = torch.cat([framed, framed.flip(3)])
            ours = [encoder(images.to(device)).cpu(), encoder.embed(images.to(device)).cpu()]
        found = [theirs(images), theirs.forward_head(theirs.forward_features(images), pre_logits=True)]
        level = ((framed[0] - data.preprocessing(photo)).abs() * torch.tensor(data.std).view(-1, 1, 1) * 255).max()
    except Exception:  # of any kind, for arguments and weights that timm's model has not
        return False
    near = [torch.dist(x, y, p=float("inf")) <= TOLERANCE * y.abs().max() for x, y in zip(found, ours, strict=True)]
    return all(near) and bool(level <= 1.01)  # which resizing may round


def _photo(channels: int) -> Image.Image:
    """Return a picture that is no square, with edges and slopes."""
    y, x = np.mgrid[:90, :130]
    planes = [(x * (3 + i) + y * y // (20 + i)) % 256 for i in range(3)]
    return Image.fromarray(np.stack(planes, axis=2).astype(np.uint8)).convert("L" if channels == 1 else "RGB")
