"""A fair comparison: kinds of settings, settings that the study sets itself, and test images that fail together."""

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal, Protocol

import numpy as np
from referee.formats import counted, listed

from vitlab.config import ABSENT, HARMLESS, Config, flatten, short, texts_of
from vitlab.data.tables import find_groups, groups_by_name
from vitlab.studies.file.format import as_yaml
from vitlab.studies.file.study import Study, seed_settings

Split = Literal["train", "val", "test"]


class Images(Protocol):
    """What a study reads of an `ImageDataModule`: its images without augmentation."""

    @property
    def class_names(self) -> list[str]: ...

    @property
    def grouping(self) -> str | None: ...

    def facts(self) -> dict[str, Any]: ...
    def image_names(self, split: Split) -> list[str]: ...
    def labels(self, split: Split) -> np.ndarray: ...
    def raw_images(self, split: Split, indices: Sequence[int]) -> list[np.ndarray]: ...


FROM_DATA = r"^model\.backbone\.(img_size|in_chans|num_classes)$"  # an experiment refuses other values than the data's

# The first pattern that a key without its `init_args` matches gives its kind.
KINDS = (
    ("weights", r"\b(pretrained|checkpoint_path|init_from|teacher)\b"),
    ("regularization", r"\.(\w*drop(out)?|\w*drop(_path|_block)?(_rate|_prob)?|init|label_smoothing|weight_decay)$"),
    ("regularization", r"^data\.(augment|mixup|multi_crop)\b"),
    ("data", FROM_DATA),
    ("trainer", r"^model\.backbone\.grad_checkpointing$"),
    ("architecture", r"^model\.backbone\b"),
    ("recipe", r"^model\b|^data\.(batch_size|repeats|balance)$"),
    ("recipe", r"^trainer\.(max_\w+|accumulate_grad_batches|gradient_clip_\w+|limit_train_batches)$"),
    ("data", r"^data\b"),
    ("trainer", r""),  # and what a run does: run.compile, run.not_finite
)
OFF = (ABSENT, None, False, 0)  # an argument that one class lacks and another turns off does not differ
LABELS = {"lr": "learning rate", "model": "objective", "data": "data set", "max_epochs": "number of epochs"}
PACKAGES = ("vitlab", "torch", "torchvision", "lightning", "timm")  # whose versions a run records
WITHOUT_EFFECT = tuple(key for key in HARMLESS if key not in ("run.compile", "run.not_finite"))


def kind_of(key: str) -> str:
    """Return architecture, regularization, recipe, data, weights or trainer."""
    return next(kind for kind, pattern in KINDS if re.search(pattern, short(key)))


def matters(key: str, values: dict[str, Any]) -> bool:
    """Return whether a difference of these values, by variant, can change a result or what it costs."""
    if re.search(FROM_DATA, short(key)):  # one backbone takes from the data what another states
        stated = [value for value in values.values() if value not in (ABSENT, None)]
        return any(value != stated[0] for value in stated)
    can_be_absent = kind_of(key) in ("regularization", "weights", "trainer")
    turned_off = can_be_absent and all(value in OFF for value in values.values())
    return not turned_off and not key.startswith(WITHOUT_EFFECT)


def data_of(config: Config) -> Config:
    """Return the settings that choose a configuration's images, and how they look in evaluation."""
    return {key: value for key, value in flatten(config["data"], "data.").items() if kind_of(key) == "data"}


def name_of(key: str) -> str:
    """Return the setting's own name in a key: lr, batch_size, teacher; of a class, what it is a class of."""
    parts = short(key).removesuffix(".class_path").split(".")
    return "teacher" if "teacher" in parts else parts[-1]


def label(key: str) -> str:
    """Return the setting's name in a sentence: learning rate, batch size."""
    name = name_of(key)
    return LABELS.get(name, name.replace("_", " "))


def own_classes(config: Config, recorded: Collection[str] = ()) -> list[str]:
    """Return the class paths in a configuration from outside `PACKAGES`, and those that a run recorded by hash."""
    named = {path for path, is_class in texts_of(config) if is_class and "." in path}
    own = {path for path in named if path.partition(".")[0] not in PACKAGES}
    return sorted(own | ({text for text, _ in texts_of(config)} & {*recorded}))


def groups_of(study: Study, images: Sequence[str]) -> np.ndarray | None:
    """Return the name of each image's group, (N,); None where images are independent."""
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
    share = sum(group in both for group in tested)
    of = f"{counted(share, 'test image')} of {counted(len(both), 'group')} that are also trained or validated on"
    remedy = "Move each group to one split, or use `folds`."
    return f"{of}, which inflates accuracy: {listed(both, 3)}. {remedy}" if both else ""


LENGTH = "trainer.max_epochs"


def overruled(study: Study) -> list[str]:
    """Return a sentence for each variant whose own length, or whose tuned setting, the study replaces.

    Any other setting that a study's file gives a variant, and the study another value, is refused; one in a file of the
    variant's is for its training alone. Budgets that are not in epochs set a length in proportion to the variant's own.
    """
    budgets = [point.budget for point in study.points]
    epochs = {budget.amount for budget in budgets if budget is not None and budget.kind == "epochs"}
    fixed: Mapping[str, Collection[object]] = {"run.test": {True}, "run.overwrite": {False}, LENGTH: epochs}
    drawn, folders = seed_settings(study.vary, 0, 0), ("run.root", "run.name", "run.wandb.group")
    reasons = {
        **dict.fromkeys(drawn, "`seeds` are the same for all variants, and `vary` says what they draw"),
        **dict.fromkeys(folders, "--root and the study's `name` set the folders of its runs"),
        "run.test": "every run of a study is tested",
        "run.overwrite": "such a run would start again each time; `compare --overwrite` replaces runs",
    }
    if study.branch:
        reasons["run.checkpoint.keep"] = "`branch` keeps the states that shorter runs continue"
    if epochs:
        reasons[LENGTH] = "`budget` sets it; without one, add trainer.max_epochs to `may_differ`"
    found: dict[str, list[str]] = {}
    for name, override in study.variants.items():
        for key, value in flatten(override).items():
            is_frozen = key == LENGTH and name in study.frozen  # which keeps its epochs
            if is_frozen or [*fixed.get(key, ())] == [value]:  # a list has no hash
                continue
            if key in reasons and key not in flatten(study.settings) and name not in study.files:
                what = f"variant {name!r} has {key}: {as_yaml(value)}"
                raise ValueError(f"{study.path}: {what}. Remove it: {reasons[key]}.")
            if key in study.tuned or (key == LENGTH and epochs):
                found.setdefault(name, []).append(f"{key}: {as_yaml(value)}")
    return [f"{name} has {listed(each)}, which the study's budget or tuning replaces." for name, each in found.items()]
