"""Embeddings of a whole split by a frozen encoder, computed once.

N images, C the width of the embedding.
"""

from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from vitlab.atomic_files import written_whole
from vitlab.evaluation.labels import require_classes
from vitlab.models import ImageModel

Features = tuple[Tensor, Tensor]
"""Embeddings (N, C) float32 and labels (N,) int64, on the CPU."""


@torch.no_grad()  # not inference_mode: the linear probe differentiates through what comes out
def extract(encoder: ImageModel, batches: Iterable[tuple[list[Tensor], Tensor]], most: int | None = None) -> Features:
    """Embed the images of `batches`, which lie on the encoder's device; stop after `most` images.

    The encoder is put into eval mode for it, and back into what it was.

    Raises:
        ValueError: labels that are no classes.
    """
    training = encoder.training
    encoder.eval()
    embeddings, labels, seen = [], [], 0
    with encoder.biases_kept():
        for (images,), targets in batches:
            require_classes(targets)
            embeddings.append(encoder.embed(images).float().cpu())
            labels.append(targets.cpu())
            seen += len(targets)
            if most is not None and seen >= most:
                break
    encoder.train(training)
    return torch.cat(embeddings)[:most], torch.cat(labels)[:most]


def read_cache(path: Path, key: str) -> dict[str, Features] | None:
    """Return the splits that `write_cache` kept under this key, or None where there are none."""
    try:
        if path.with_suffix(".key").read_text() != key:
            return None
        tensors = load_file(path)
        splits = sorted({name.partition("/")[0] for name in tensors})
        return {split: (tensors[f"{split}/features"], tensors[f"{split}/labels"]) for split in splits}
    except (OSError, SafetensorError, KeyError, ValueError):  # none, damaged, or another file of this name
        return None


def write_cache(path: Path, key: str, splits: dict[str, Features]) -> None:
    """Keep the features of some splits; `key` says of which weights and data they are."""
    tensors: dict[str, Tensor] = {}
    for split, (features, labels) in splits.items():
        tensors |= {f"{split}/features": features.contiguous(), f"{split}/labels": labels.contiguous()}
    path.with_suffix(".key").unlink(missing_ok=True)  # never an old key beside new features
    with written_whole(path) as file:
        file.write(save(tensors))
    path.with_suffix(".key").write_text(key)
