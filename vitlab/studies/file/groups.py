"""Test images that fail together: of a patient, a scene or a writer, as their names tell."""

from collections.abc import Sequence

import numpy as np

from vitlab.data.folds import groups_by_name
from vitlab.studies.file.study import Study


def groups_of(study: Study, images: Sequence[str]) -> np.ndarray | None:
    """Return the name of each image's group, (N,); None where images are independent.

    Raises:
        ValueError: an image without a group, or a single group.
    """
    if study.groups is None:
        return None
    try:
        return groups_by_name(study.groups, images)
    except ValueError as error:
        raise ValueError(f"{study.path}: {error}") from None
