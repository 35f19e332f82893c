"""timm's RandAugment (Cubuk et al., "RandAugment: Practical automated data augmentation with a reduced search space",
2020), with its settings checked and one crash repaired."""

import re
from collections.abc import Callable, Sequence
from typing import Any

from PIL import Image

from vitlab.internals import rand_augment

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
    parameters: dict[str, Any] = {
        "translate_const": int(0.45 * size),
        "img_mean": tuple(min(255, round(255 * x)) for x in mean),
    }
    if resampling is not None:
        parameters["interpolation"] = resampling
    transform, most_layers = rand_augment(description, parameters)
    if most_layers is not None and transform.num_layers > most_layers:
        raise ValueError(
            f"augment.rand_augment is {description!r}, but each of the {most_layers} weighted operations is "
            f"applied at most once; write -n{most_layers} or less."
        )
    return transform
