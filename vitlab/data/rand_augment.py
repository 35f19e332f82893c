"""timm's RandAugment (Cubuk et al., "RandAugment: Practical automated data augmentation with a reduced search space",
2020), with its settings checked and one crash repaired."""

import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from PIL import Image

# timm ignores parts that it does not understand: `-minc1` would be plain RandAugment of another strength.
_DESCRIPTION = re.compile(r"rand(-(m|n|mmax)\d+|-inc[01]|-(mstd|p)\d+(\.\d+)?|-t(weights|3a|3aw))*")


def check_description(text: str) -> None:
    """Reject a description that timm does not understand.

    Raises:
        ValueError: at least one part of it is not timm's.
    """
    if not _DESCRIPTION.fullmatch(text):
        raise ValueError(
            f"augment.rand_augment is {text!r}; write rand and any of -m9 (magnitude), -n2 (layers), "
            "-p0.5, -mstd0.5, -mmax10, -inc1, -t3a, e.g. rand-m9-mstd0.5-inc1, or null for none."
        )


def timms_rand_augment(
    description: str, size: int, mean: Sequence[float], resampling: Image.Resampling | None
) -> Callable[[Image.Image], Image.Image]:
    """Return RandAugment as timm's training pipeline configures it; `resampling` None: drawn for each operation.

    Raises:
        ValueError: more layers than operations; a weighted choice takes each at most once.
    """
    from timm.data.auto_augment import rand_augment_transform  # here: importing timm takes two seconds

    parameters: dict[str, Any] = {
        "translate_const": int(0.45 * size),
        "img_mean": tuple(min(255, round(255 * x)) for x in mean),
    }
    if resampling is not None:
        parameters["interpolation"] = resampling
    transform = rand_augment_transform(description, parameters)
    if transform.choice_weights is not None and transform.num_layers > len(transform.ops):
        raise ValueError(
            f"augment.rand_augment is {description!r}, but each of the {len(transform.ops)} weighted operations is "
            f"applied at most once; write -n{len(transform.ops)} or less."
        )
    for operation in transform.ops:
        if operation.name.startswith("Posterize"):
            operation.level_fn = partial(_at_least_one_bit, operation.level_fn)
    return transform


def _at_least_one_bit(level_fn: Callable[..., tuple[int]], level: float, settings: dict) -> tuple[int]:
    """Keep one bit where a high magnitude would keep none, which Pillow rejects."""
    (bits,) = level_fn(level, settings)
    return (max(bits, 1),)
