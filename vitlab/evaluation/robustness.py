"""Top-1 accuracy of one model under several corruptions of the same images, each image decoded once."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import tee

import numpy as np
import torch
from torch import Tensor

from vitlab.models import ImageModel

Batches = Iterable[tuple[list[Tensor], Tensor]]
"""Of (images,) and labels."""
Kind = tuple[str, float]
"""A corruption's name and strength."""


def accuracies(
    model: ImageModel,
    batches: Batches,
    corruptions: Mapping[Kind, Callable[[Batches], Batches]],
    on_batch: Callable[[int], None] = lambda images_done: None,
) -> dict[Kind, float]:
    """Return the accuracy under each corruption.

    Args:
        model: In eval mode, on the batches' device.
        corruptions: Functions from a stream of batches to the corrupted stream; `iter` leaves the images clean.
        on_batch: Called after each batch with the number of images done.
    """
    clean, *copies = tee(batches, 1 + len(corruptions))
    streams = {kind: iter(corrupt(copy)) for (kind, corrupt), copy in zip(corruptions.items(), copies, strict=True)}
    correct = dict.fromkeys(corruptions, 0)
    images_done = 0
    with torch.inference_mode(), model.biases_kept():
        for _, labels in clean:
            for kind, stream in streams.items():  # one at a time: all copies together fill the memory
                (images,), _ = next(stream)
                correct[kind] += int((model(images).argmax(dim=1) == labels).sum())
            images_done += len(labels)
            on_batch(images_done)
    return {kind: count / images_done for kind, count in correct.items()}


def select_images(batches: Batches, chosen: np.ndarray) -> Iterator[tuple[list[Tensor], Tensor]]:
    """Yield from each batch the images whose positions in the split are chosen."""
    first = 0
    for (images,), labels in batches:
        here = chosen[(chosen >= first) & (chosen < first + len(labels))] - first
        first += len(labels)
        if len(here):
            rows = torch.from_numpy(here).to(labels.device)
            yield [images[rows]], labels[rows]
