"""Test images that fail together: of a patient, a scene or a writer, as their names tell."""

import re
from collections.abc import Sequence

import numpy as np

from vitlab.studies.file.study import Study


def groups_of(study: Study, images: Sequence[str]) -> np.ndarray | None:
    """Return the name of each image's group, (N,); None where images are independent.

    Raises:
        ValueError: an image without a group, or a single group.
    """
    if study.groups is None:
        return None
    matches = [re.search(study.groups, image) for image in images]
    if None in matches:
        image = images[matches.index(None)]
        raise ValueError(f"{study.path}: groups: {study.groups!r} does not match the test image {image}.")
    names = np.array([match[1] for match in matches if match])
    if len(set(names)) < 2:
        raise ValueError(
            f"{study.path}: groups: {study.groups!r} puts all test images into one group, {names[0]}; a variance needs "
            "two or more."
        )
    return names
