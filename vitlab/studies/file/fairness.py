"""What kind of setting a key of the configuration is: a comparison of architectures may differ in one kind only."""

import re
from collections.abc import Collection
from typing import Any

from vitlab.config import ABSENT, HARMLESS, Config, flatten, short, texts_of

FROM_DATA = r"^model\.backbone\.(img_size|in_chans|num_classes)$"  # an experiment refuses other values than the data's

# The first pattern that a key without its `init_args` matches gives its kind.
KINDS = (
    ("weights", r"\b(pretrained|checkpoint_path|init_from|teacher)\b"),
    ("regularization", r"\.(\w*drop(out)?|\w*drop(_path|_block)?(_rate|_prob)?|init|label_smoothing|weight_decay)$"),
    ("regularization", r"^data\.(augment|mixup|multi_crop)\b"),
    ("data", FROM_DATA),
    ("trainer", r"^model\.backbone\.grad_checkpointing$"),
    ("architecture", r"^model\.backbone\b"),
    ("recipe", r"^model\b|^data\.(batch_size|repeats)$"),
    ("recipe", r"^trainer\.(max_\w+|accumulate_grad_batches|gradient_clip_\w+|limit_train_batches)$"),
    ("data", r"^data\b"),
    ("trainer", r""),  # and what a run does: run.compile, run.not_finite
)
OFF = (ABSENT, None, False, 0)  # an argument that one class lacks and another turns off does not differ
SAID = {"lr": "learning rate", "model": "objective", "data": "data set", "max_epochs": "number of epochs"}
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
    """Return the settings of a configuration that choose its images, and how they look in evaluation."""
    return {key: value for key, value in flatten(config["data"], "data.").items() if kind_of(key) == "data"}


def name_of(key: str) -> str:
    """Return the setting's own name in a key: lr, batch_size, teacher; of a class, what it is a class of."""
    parts = short(key).removesuffix(".class_path").split(".")
    return "teacher" if "teacher" in parts else parts[-1]


def said(key: str) -> str:
    """Return the setting's name in a sentence: learning rate, batch size."""
    name = name_of(key)
    return SAID.get(name, name.replace("_", " "))


def own_classes(config: Config, recorded: Collection[str] = ()) -> list[str]:
    """Return the class paths in a configuration from outside `PACKAGES`, and those that a run recorded by hash."""
    named = {path for path, is_class in texts_of(config) if is_class and "." in path}
    own = {path for path in named if path.partition(".")[0] not in PACKAGES}
    return sorted(own | ({text for text, _ in texts_of(config)} & {*recorded}))
