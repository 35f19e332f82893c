"""Test images that fail together: of a patient, a scene or a writer, as their names or a table tell."""

from collections.abc import Sequence

import numpy as np
from referee.formats import counted

from vitlab.data.groups import find_groups, groups_by_name
from vitlab.studies.file.images import Images
from vitlab.studies.file.study import Study

EXAMPLES = 3


def groups_of(study: Study, images: Sequence[str]) -> np.ndarray | None:
    """Return the name of each image's group, (N,); None where images are independent.

    Raises:
        ValueError: an image without a group, or a single group.
    """
    try:
        return None if study.groups is None else np.array(groups_by_name(study.groups, images))
    except ValueError as error:
        raise ValueError(f"{study.path}: {error}") from None


def split_groups(study: Study, images: Images) -> str:
    """Say which groups have test images and images to train or validate on; empty if none has."""
    if study.groups is None or study.folds:  # folds keep groups together
        return ""
    test = images.image_names("test")
    others = [name for split in ("train", "val") if (names := images.image_names(split)) != test for name in names]
    found = find_groups(study.groups, [*test, *others])
    tested, known = found[: len(test)], {group for group in found[len(test) :] if group is not None}
    both = sorted(known & {*tested})
    if not both:
        return ""
    share = sum(group in both for group in tested)
    return (
        f"{counted(share, 'test image')} of {counted(len(both), 'group')} that are also trained or validated on, which "
        f"inflates accuracy: {', '.join(both[:EXAMPLES])}{' and more' * (len(both) > EXAMPLES)}. Move each group to "
        "one split, or use `folds`."
    )
