"""Weights in and out: read a file, find the encoder in it, turn its names into timm's, resize, report, write.

A file loads only if every difference from the model has a reason known here. The encoder of another architecture may
share many names; without the check it would load in part, train worse, and say nothing.
"""

import argparse
import pickle
import re
from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from vitlab.atomic_files import written_whole
from vitlab.config import rows_by_name
from vitlab.internals import pickled_name
from vitlab.models.backbone import ImageModel
from vitlab.models.layers import pair, resize_pos_embed
from vitlab.models.stored import stored_facts

Shape = tuple[int, ...]
Weights = dict[str, Tensor]

CONTAINERS = ("state_dict", "model", "teacher", "target_encoder", "student")
"""Where a checkpoint keeps its weights, the first that is there: a teacher before its student, as DINO evaluates."""

AVERAGED = re.compile(r"(^|[._])(ema|swa|averaged?)([._]|$)")
"""In the name of a container or a prefix: weights averaged over the training, taken before those of the last step."""

PREFIXES = ("", "encoder.", "teacher.", "teacher.module.backbone.", "teacher.module.", "average.module.", "backbone.")
"""Which of several encoders is meant in a file that does not name its own: the evaluated before the trained."""

BUFFERS = re.compile(r"(^|\.)(relative_position_index|relative_coords_table|attn_mask)$")
"""Follows from sizes: the model's own are right, a file's may not be."""

CLASSIFIER = re.compile(r"^(head|head_dist|head\.fc|fc|classifier)\.(weight|bias)$")

LEFTOVERS = re.compile(r"^(mask_token$|decoder|fc\.(fc|bn)\d)")
"""Parts of a pre-training that are not its encoder: SimMIM's mask token, MAE's decoder, MSN's projection head."""

FINAL_NORM = re.compile(r"^(fc_)?norm\.(weight|bias|running_mean|running_var)$")
"""Of a ViT, before or after pooling: MAE pre-trains with the first and fine-tunes with a new one of the second kind."""

COLORS = 3  # channels of the images that published weights were trained on


@dataclass(frozen=True)
class LoadReport:
    """What a file gave to a model, in the model's names.

    `resized` are grids of positions, bias tables, filters of other channels and, where the file gives its window, the
    offsets of Swin v2's continuous biases. `missing` parameters keep their initial values and `unexpected` tensors of
    the file are not used. `beside` are the parts of the file outside `prefix`: SimMIM's decoder in a checkpoint.
    `container` says which of several containers of weights was taken, `classes` which rows of the classifier.
    """

    path: str
    prefix: str
    matched: list[str]
    resized: dict[str, tuple[Shape, Shape]]
    missing: list[str]
    unexpected: list[str]
    beside: list[str]
    container: str = ""
    classes: str = ""

    def __str__(self) -> str:
        lines = [
            f"{self.path}{f', {self.prefix}*' if self.prefix else ''}: {len(self.matched)} matched, "
            f"{len(self.resized)} resized, {len(self.missing)} missing, {len(self.unexpected)} left over"
        ]
        for old, new in dict.fromkeys(self.resized.values()):
            names = [name for name, change in self.resized.items() if change == (old, new)]
            lines.append(f"  resized: {_some(names, 1)} from {old} to {new}")
        if self.missing:
            lines.append(f"  missing, left as initialized: {_some(self.missing)}")
        if self.unexpected:
            lines.append(f"  left over, not used: {_some(self.unexpected)}")
        if self.beside:
            lines.append(f"  beside {self.prefix}*, not used: {_some(self.beside)}")
        lines += [f"  {line}" for line in (self.container, self.classes) if line]
        return "\n".join(lines)


def load_weights(
    model: nn.Module, path: str | Path, prefix: str | None = None, class_names: Sequence[str] = ()
) -> LoadReport:
    """Load a file of timm's, Microsoft's, Meta's or this project's, and report it.

    Filters of red, green and blue become filters of the model's channels as in timm's `adapt_input_conv`.

    Args:
        prefix: what the names of the encoder begin with in the file, like `encoder.`. None: what the checkpoint itself
            names, or else the one under which most names fit.
        class_names: of the model. Rows of a classifier follow them, where the file names its classes too.

    Raises:
        ValueError: a file without weights, or one that differs from the model without a reason.
    """
    target = _stored(model)
    own = target.state_dict()
    file, prefix, container = _encoder_in(path, own, prefix)
    part = {name[len(prefix) :]: tensor for name, tensor in file.items() if name.startswith(prefix)}
    facts = stored_facts(in_folder(Path(path)) or path)
    encoder = convert_names(part, own) | _from_rectangle(target, part, own, facts)
    classifier = _classifier_of(model, encoder)
    classes = _follow_names(encoder, own, classifier, facts.get("class_names", ()), class_names)

    fitting = {name: _fitted(target, name, tensor, own[name]) for name, tensor in encoder.items() if name in own}
    loaded = {name: tensor for name, tensor in fitting.items() if tensor is not None}
    report = LoadReport(
        path=str(path),
        prefix=prefix,
        matched=[name for name in loaded if encoder[name].shape == own[name].shape],
        resized={
            name: (tuple(encoder[name].shape), tuple(own[name].shape))
            for name in loaded
            if encoder[name].shape != own[name].shape
        }
        | _offsets_resized(target, part),
        missing=[name for name in own if name not in loaded and not name.endswith("num_batches_tracked")],
        unexpected=[name for name in encoder if name not in loaded],
        beside=sorted({name.partition(".")[0] for name in file if not name.startswith(prefix)}),
        container=container,
        classes=classes,
    )
    other_shapes = {name: tuple(encoder[name].shape) for name, tensor in fitting.items() if tensor is None}
    _refuse_unexplained(report, type(model).__name__, other_shapes, classifier)
    target.load_state_dict({**own, **loaded})
    return report


def _from_rectangle(target: nn.Module, part: Weights, own: Weights, facts: Mapping[str, Any]) -> Weights:
    """Return the positions of a file that knows its size at the model's grid, where either is no square; else nothing.

    From a file that does not know its grid, positions are taken to be of a square, or of the model's own grid.
    """
    grid = getattr(getattr(target, "patch_embed", None), "grid_size", None)  # timm's models may have one too
    if grid is None or not facts.get("img_size") or not {"pos_embed"} <= part.keys() & own.keys():
        return {}
    patch, _ = pair(target.patch_embed.patch_size)  # type: ignore[union-attr, arg-type]
    height, width = (-(-side // patch) for side in pair(facts["img_size"]))
    prefix = own["pos_embed"].shape[1] - grid[0] * grid[1]
    if grid == (height, width) or (height == width and grid[0] == grid[1]):
        return {}
    if part["pos_embed"].shape[1] != prefix + height * width:
        return {}
    return {"pos_embed": resize_pos_embed(part["pos_embed"], prefix, (height, width), grid)}


def _follow_names(
    encoder: Weights, own: Weights, classifier: Container[str], known: Sequence[str], wanted: Sequence[str]
) -> str:
    """Order the rows of a file's classifier as the model's classes, in place; return what there is to say of it."""
    if not wanted:
        return ""
    rows = rows_by_name(known, wanted)
    new = [name for name, row in zip(wanted, rows, strict=True) if row is None]
    heads = [name for name in own if name in encoder and (name in classifier or CLASSIFIER.match(name))]
    heads = [name for name in heads if own[name].shape == (len(wanted), *encoder[name].shape[1:])]
    if not known:
        said = f"classifier: the file does not name its classes, and gives its rows to {_some([*wanted])}"
        return said if any(own[name].shape == encoder[name].shape for name in heads) else ""
    heads = [name for name in heads if len(encoder[name]) == len(known)]
    if not heads or rows == [*range(len(known))]:
        return ""
    for name in heads:
        tensor = encoder.pop(name)
        if len(new) < len(wanted):
            given = [own[name][i] if row is None else tensor[row] for i, row in enumerate(rows)]
            encoder[name] = torch.stack([each.to(own[name]) for each in given])
    found = [name for name, row in zip(wanted, rows, strict=True) if row is not None]
    parts = [f"rows of {_some(found)} by name"] * bool(found) + [f"new for {_some(new)}"] * bool(new)
    return f"classifier: {', '.join(parts)}; the file knows {_some([*known])}"


def _encoder_in(path: str | Path, own: Weights, prefix: str | None) -> tuple[Weights, str, str]:
    """Return the weights in a file, what the names of the encoder begin with among them, and their container.

    Without a given prefix it is the one under which most of the model's names are found, if they are half of them.
    """
    weights, encoder_prefix, container = read_weights(path)
    file = {name.replace("_orig_mod.", ""): tensor for name, tensor in weights.items()}
    if prefix is None:
        inside = [name[len(encoder_prefix) :] for name in file if name.startswith(encoder_prefix)]
        found: Counter[str] = Counter()
        for parts in (name.split(".") for name in inside):
            found.update(
                "".join(f"{part}." for part in parts[:i]) for i in range(len(parts)) if ".".join(parts[i:]) in own
            )
        rank = {prefix: -i for i, prefix in enumerate(PREFIXES)}

        def preference(prefix: str) -> tuple[int, bool, int]:
            place = rank.get(prefix.removesuffix("net."), -len(PREFIXES))  # TimmModel's own level
            return found[prefix], bool(AVERAGED.search(prefix)), place

        best = max(found, key=preference, default="")
        prefix = encoder_prefix + (best if 2 * found[best] >= len(own) else "")
    return file, prefix, container


def load_classifier_rows(model: ImageModel, path: str | Path, rows: list[int], prefix: str | None = None) -> None:
    """Start each class from one row of the classifier in a file, which has other classes.

    Swin fine-tunes this way from ImageNet-22k (utils.py of microsoft/Swin-Transformer, load_pretrained).
    """
    own = _stored(model).state_dict()
    whole, prefix, _ = _encoder_in(path, own, prefix)
    part = {name[len(prefix) :]: tensor for name, tensor in whole.items() if name.startswith(prefix)}
    file = convert_names(part, own)
    names = [name for name in own if CLASSIFIER.match(name)]
    if not names or any(name not in file for name in names):
        raise ValueError(f"{path} has no classifier {', '.join(names)}, from which rows could be taken.")
    _stored(model).load_state_dict(own | {name: file[name][rows] for name in names})


def _fitted(model: nn.Module, name: str, tensor: Tensor, own: Tensor) -> Tensor | None:
    """Return a tensor of a file in the shape of the model's own, or None."""
    if tensor.shape == own.shape:
        return tensor
    if tensor.ndim == own.ndim == 4 and tensor.shape[1] == COLORS and tensor[:, 0].shape == own[:, 0].shape:
        from timm.models import adapt_input_conv  # here: timm takes seconds to import

        adapted: Tensor = adapt_input_conv(own.shape[1], tensor)
        return adapted
    return model.resized(name, tensor) if isinstance(model, ImageModel) else None


def save_weights(model: nn.Module, path: str | Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write safetensors that `timm.create_model(…, checkpoint_path=path)` takes for a model of the same size."""
    state = _stored(model).state_dict()
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    with written_whole(Path(path)) as file:  # safetensors' own `save_file` lets nobody else read the file
        file.write(save(tensors, dict(metadata or {})))


def from_hub(name: str, file: str) -> Path:
    """Download a file of the Hugging Face Hub; where the hub cannot be reached, take it from the cache."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError

    alone = not hub_answers(name, file)
    try:
        return Path(hf_hub_download(name, file, local_files_only=alone))
    except (HfHubHTTPError, OSError) as error:
        reason = "it cannot be reached, and its cache lacks the file" if alone else str(error).strip()
        raise FileNotFoundError(reason.partition("\n")[0]) from None


def hub_answers(name: str, file: str) -> bool:
    """Return whether the hub can be reached, tried once: a download would try for half a minute."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.errors import HfHubHTTPError

    try:
        get_hf_file_metadata(hf_hub_url(name, file))
    except Exception as error:  # of whichever HTTP package it uses, or of its offline mode
        return isinstance(error, HfHubHTTPError)  # an answer, which the download gives too
    return True


def in_folder(folder: Path) -> Path | None:
    """Return the weights in a folder as the hub has it; None without any."""
    return next(filter(Path.is_file, (folder / "model.safetensors", folder / "pytorch_model.bin")), None)


def read_weights(path: str | Path) -> tuple[Weights, str, str]:
    """Return the tensors in a .safetensors, .pth, .pt or .ckpt file, and the prefix of the encoder's names or "".

    Third, in words, which of several containers was taken, or "". A folder is read as the hub has it. No code that a
    pickle may hold is run.
    """
    path = Path(path)
    if path.is_dir():
        path = in_folder(path) or path
    if not path.is_file():
        raise FileNotFoundError(f"No weights at {path}.")
    if path.suffix == ".safetensors":
        try:
            return load_file(path), "", ""
        except SafetensorError as error:
            raise not_weights(path, error) from None
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):  # DeiT's and DINO's arguments, plain values
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise unsafe(path, error) from None
    except Exception as error:  # bytes that are not a pickle fail anywhere in the unpickler
        raise not_weights(path, error) from None
    encoder_prefix = content.get("vitlab_encoder", "") if isinstance(content, Mapping) else ""
    taken = ""
    while isinstance(content, Mapping):
        tensors = {name: tensor for name, tensor in content.items() if isinstance(tensor, Tensor)}
        sizes = {key: _size(inner) for key, inner in content.items()}
        raw = max([len(tensors), *(size for key, size in sizes.items() if not AVERAGED.search(str(key)))])
        averages = [key for key, size in sizes.items() if AVERAGED.search(str(key)) and size and size >= raw]
        key = next((key for key in (*averages, *CONTAINERS) if isinstance(content.get(key), Mapping)), None)
        if key is None and tensors:
            return tensors, encoder_prefix, taken
        if key is None:
            break
        others = [str(other) for other, size in sizes.items() if size and other != key]
        others += [f"{len(tensors)} tensors"] * bool(tensors)
        if others:
            taken = f"{key} taken{', the average' if key in averages else ''}; {_some(others)} not used"
        content = content[key]
    keys = ", ".join(map(str, content)) if isinstance(content, Mapping) else type(content).__name__
    raise ValueError(f"{path} contains no weights under {', '.join(CONTAINERS)} or at its top; its keys are {keys}.")


def unsafe(path: str | Path, error: pickle.UnpicklingError) -> ValueError:
    """Return the error for a file that `torch.load` refused without running any of it."""
    if culprit := pickled_name(error):
        remedy = "If you trust it, torch.load(weights_only=False) it once and save its tensors as safetensors."
        return ValueError(f"{path} contains {culprit} besides tensors, which reading could run as code. {remedy}")
    return not_weights(path, error)


def not_weights(path: str | Path, error: Exception) -> ValueError:
    """Return the error for a file of something else; of a text, like the web page of a failed download, its start."""
    text = ""
    with suppress(OSError, UnicodeDecodeError), Path(path).open(encoding="utf-8") as file:
        text = file.read(200).strip()
    if text and "".join(text.split()).isprintable():
        wrong = f"{path} is not a file of weights but a text, which begins with {text.splitlines()[0][:60]!r}"
        return ValueError(f"{wrong}. If it was downloaded, the download failed: get the file itself.")
    return ValueError(f"{path} is not a file of weights ({type(error).__name__} while reading it).")


def _size(content: object) -> int:
    """Return the number of tensors in a container, or in one that it holds."""
    if not isinstance(content, Mapping):
        return 0
    inside = (_size(inner) for key, inner in content.items() if key in CONTAINERS or AVERAGED.search(str(key)))
    return max([sum(isinstance(each, Tensor) for each in content.values()), *inside])


def convert_names(weights: Weights, own: Container[str] = ()) -> Weights:
    """Return weights under timm's names: from Microsoft's (Swin, Swin v2, SimMIM), Meta's (DeiT III, DINOv2), its own.

    Microsoft ends stage i with the patch merging that begins stage i + 1 in timm. DINOv2 with registers adds a position
    to the class token, timm to neither. A layer scale stays that is among the model's `own` names, as in timm's BEiT.
    """
    microsoft = "layers.0.downsample.reduction.weight" in weights
    if "register_tokens" in weights:
        weights = dict(weights)
        weights["reg_token"], positions = weights.pop("register_tokens"), weights["pos_embed"]
        weights["cls_token"], weights["pos_embed"] = weights["cls_token"] + positions[:, :1], positions[:, 1:]

    def rename(name: str) -> str:
        if name not in own:
            name = re.sub(r"\.gamma_([12])$", r".ls\1.gamma", name)
        name = name.replace(".rpe_mlp.", ".cpb_mlp.")
        if microsoft:
            name = re.sub(r"^layers\.(\d+)\.downsample", lambda m: f"layers.{int(m[1]) + 1}.downsample", name)
            name = re.sub(r"^head\.(weight|bias)$", r"head.fc.\1", name)
        return name

    return {rename(name): tensor for name, tensor in weights.items() if not BUFFERS.search(name)}


def _stored(model: nn.Module) -> nn.Module:
    return model.stored_module if isinstance(model, ImageModel) else model


def _offsets_resized(model: nn.Module, file: Weights) -> dict[str, tuple[Shape, Shape]]:
    """Return the shapes of Swin v2's tables of offsets that differ between file and model.

    Only Microsoft's files contain these tables. They are not loaded, but a model of another window without
    `pretrained_window_sizes` measures offsets differently than in the training.
    """
    changes = {
        name: (tuple(file[official].flatten(0, -2).shape), tuple(table.shape))
        for name, table in model.named_buffers()
        if name.endswith("relative_coords_table") and (official := name.replace(".cpb_mlp.", ".")) in file
    }
    return {name: (old, new) for name, (old, new) in changes.items() if old != new}


def _classifier_of(model: nn.Module, file: Iterable[str]) -> set[str]:
    """Return names of the classifier, which families of timm call differently, in the model or in a file."""
    from vitlab.models.timm_model import TimmModel

    if not isinstance(model, ImageModel):
        return set()
    tensors: list[Tensor] = [*model.head_parameters()]
    left_out = list[str]()
    if isinstance(model, TimmModel):
        tensors += [buffer for head in model.heads for buffer in head.buffers()]
        known = model.net.pretrained_cfg["classifier"] or ()  # whether the model has one or not
        prefixes = [f"{each.rpartition('.')[0] or each}." for each in ((known,) if isinstance(known, str) else known)]
        left_out = [] if model.num_classes else [name for name in file if name.startswith(tuple(prefixes))]
    own, target = {id(tensor) for tensor in tensors}, model.stored_module
    named = (*target.named_parameters(), *target.named_buffers())
    return {name for name, tensor in named if id(tensor) in own}.union(left_out)


def _refuse_unexplained(
    report: LoadReport, model: str, other_shapes: Mapping[str, Shape], classifier: Container[str]
) -> None:
    # MAE's two norms; a classifier that fits has learned behind the norm that it came with.
    new_norm = not any(FINAL_NORM.match(n) or CLASSIFIER.match(n) or n in classifier for n in report.matched)
    explained = [CLASSIFIER, LEFTOVERS] + ([FINAL_NORM] if new_norm else [])
    missing = [n for n in report.missing if n not in classifier and not any(rule.match(n) for rule in explained)]
    unexpected = [n for n in report.unexpected if n not in classifier and not any(rule.match(n) for rule in explained)]
    if not missing and not unexpected and report.matched:
        return
    shapes = [f"{n} {other_shapes[n]}" for n in missing if n in other_shapes]
    lines = [f"{report.path} does not fit {model}: {len(report.matched)} names and shapes match."]
    for what, names in (
        ("of another shape", shapes),
        ("missing from the file", [n for n in missing if n not in other_shapes]),
        ("unknown to the model", [n for n in unexpected if n not in other_shapes]),
    ):
        lines += [f"  {what}: {_some(names)}"] if names else []
    raise ValueError("\n".join([*lines, "Build the model that the file was made with, or give the file's prefix."]))


def _some(names: list[str], limit: int = 4) -> str:
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")
