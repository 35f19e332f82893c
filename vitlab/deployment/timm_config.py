"""`config.json` beside exported weights: `timm.create_model("local-dir:FOLDER", pretrained=True)` opens the folder.

It has the keys of timm (`save_config_for_hf`) and of transformers' TimmWrapper. It is kept only if timm, given the
folder, builds a model that gives what ours gives, and a transform that frames as ours does.
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

BASES = {  # models whose arguments `model_args` replaces, for those that have no name in timm
    VisionTransformer: "vit_base_patch16_224",
    SwinTransformer: "swin_tiny_patch4_window7_224",
    SwinTransformerV2: "swinv2_tiny_window8_256",
}
LEFT_OFF = ("num_classes", "dynamic_img_size", "dynamic_img_pad")  # how other sizes are taken, timm leaves off


def write_timm_config(exported: Exported, folder: Path) -> Path | None:
    """Write `config.json` beside `model.safetensors`; None, and no such file, where timm has no such model."""
    import timm

    path, encoder, framing = folder / "config.json", exported.encoder, exported.data.framing
    path.unlink(missing_ok=True)  # of an earlier export
    if type(encoder) not in (*BASES, TimmModel) or framing.size != exported.data.image_size:
        return None
    architecture, arguments = _architecture(exported)
    known: Any = timm.get_pretrained_cfg(architecture)
    labels: dict[str, Any] = {"architectures": ["TimmWrapperModel"]}
    if encoder.num_classes:
        names = exported.data.class_names
        labels = {"architectures": ["TimmWrapperForImageClassification"], "label_names": names}
        labels |= {"id2label": dict(enumerate(names)), "label2id": {name: i for i, name in enumerate(names)}}
    config = {
        "architecture": architecture,
        "model_type": "timm_wrapper",
        "num_classes": encoder.num_classes,
        "num_features": encoder.num_features,
        **labels,
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
    try:
        if _timm_gives_the_same(exported, folder):
            return path
    except Exception:  # of any kind, for arguments and weights that timm's model has not
        pass
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
