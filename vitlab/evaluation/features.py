"""Embeddings of a split by a frozen encoder, cached.

N images, C the width of the embedding.
"""

from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from vitlab.atomic_files import written_whole
from vitlab.evaluation.classify import require_classes
from vitlab.models import ImageModel
from vitlab.models.backbone import in_eval_mode

Features = tuple[Tensor, Tensor]
"""Embeddings (N, C) float32 and labels (N,) int64, on the CPU."""


@torch.no_grad()  # not inference_mode: the linear probe backpropagates through products of these
def extract(
    encoder: ImageModel,
    batches: Iterable[tuple[list[Tensor], Tensor]],
    most: int | None = None,
    embed: Callable[[Tensor], Tensor] | None = None,
) -> Features:
    """Embed the images of `batches`, on the encoder's device, in eval mode; stop after `most` images.

    Args:
        embed: What else to read of the encoder than its embedding, from images to (B, C).

    Raises:
        ValueError: the labels are not classes.
    """
    embeddings, labels, seen = [], [], 0
    with in_eval_mode(encoder), encoder.biases_kept():
        for (images,), targets in batches:
            require_classes(targets)
            embeddings.append((embed or encoder.embed)(images).float().cpu())
            labels.append(targets.cpu())
            seen += len(targets)
            if most is not None and seen >= most:
                break
    return torch.cat(embeddings)[:most], torch.cat(labels)[:most]


def read_cache(path: Path, key: str) -> dict[str, Features] | None:
    """Return the splits that `write_cache` wrote with this key, or None."""
    try:
        if path.with_suffix(".key").read_text() != key:
            return None
        tensors = load_file(path)
        splits = sorted({name.partition("/")[0] for name in tensors})
        return {split: (tensors[f"{split}/features"], tensors[f"{split}/labels"]) for split in splits}
    except (OSError, SafetensorError, KeyError, ValueError):  # missing, damaged, or an unrelated file
        return None


def write_cache(path: Path, key: str, splits: dict[str, Features]) -> None:
    """Write the features of some splits; `key` identifies weights and data."""
    tensors: dict[str, Tensor] = {}
    for split, (features, labels) in splits.items():
        tensors |= {f"{split}/features": features.contiguous(), f"{split}/labels": labels.contiguous()}
    path.with_suffix(".key").unlink(missing_ok=True)  # never an old key with new features
    with written_whole(path) as file:
        file.write(save(tensors))
    path.with_suffix(".key").write_text(key)
