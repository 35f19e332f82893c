"""What a study sets in its runs: what seeds draw, its `vary`, and the places of its axis, its `along`.

init          initial weights, and what the model draws in training: dropout, masks
order         the order of the training images
augmentation  crops, flips, mixing, views
images        which images `train_images` leaves to train on

What is not named keeps the draw of the first seed. An axis is one of numbers of training images, of budgets, or of the
values of any numeric setting; a study with an axis is the same study at each of its places, and a report about all:

    along: {train_images: [50, 100, 200]}     # of each variant and seed the same, nested, as many of each class
    along: {epochs: [4, 8, 16]}               # budgets: or images, flops
    along: {model.init_args.label_smoothing: [0.0, 0.1]}
"""

from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal, NamedTuple

from annotated_types import Len
from pydantic import AfterValidator, NonNegativeInt
from referee.formats import SPACE, joined

from vitlab.config import ABSENT, Config, flatten, load_yaml, locate, nest, short
from vitlab.experiment.chain import Source
from vitlab.studies.file.budget import Budget
from vitlab.studies.file.format import as_yaml, refuse_unknown

SETTINGS = {"init": "init_seed", "order": "data.init_args.order_seed", "augmentation": "data.init_args.augment_seed"}
IMAGES = "data.init_args.train_images_seed"  # as given, unless named
DRAWS = (*SETTINGS, "images")
BY_DEFAULT = tuple(SETTINGS)
NAMES = {
    "init": "the initialization",
    "order": "the data order",
    "augmentation": "the augmentation",
    "images": "the choice of training images",
}


def _distinct(values: list[Any]) -> list[Any]:
    if twice := [value for value in values if values.count(value) > 1]:
        raise ValueError(f"{values} contains {twice[0]} twice. Remove one.")
    return values


Seeds = Annotated[list[NonNegativeInt], AfterValidator(_distinct)]
Vary = Annotated[
    list[Literal["init", "order", "augmentation", "images"]],
    Len(1),
    AfterValidator(lambda kinds: tuple(kind for kind in DRAWS if kind in kinds)),
]
Along = Annotated[dict[str, Annotated[list[float | int], Len(2), AfterValidator(_distinct)]], Len(1, 1)]


def seed_settings(vary: Sequence[str], seed: int, first: int) -> Config:
    """Return the dotted keys that a run with a seed sets; with the default, `seed_everything` alone."""
    held = {key: first for kind, key in SETTINGS.items() if kind not in vary}
    return {"seed_everything": seed, **held} | ({IMAGES: seed} if "images" in vary else {})


def fixed_draws(vary: Sequence[str], config: Config) -> Iterator[str]:
    """Yield what a configuration holds fixed of what the seeds are to draw."""
    flat = flatten(config)
    for kind, key in SETTINGS.items():
        if kind in vary and flat.get(key, ABSENT) not in (ABSENT, None):
            yield (
                f"{key} is {flat[key]}, so no seed changes {NAMES[kind]}.\n"
                f"Remove it, or leave {kind} out of the study's `vary`."
            )


def drawn_before(vary: Sequence[str], source: Source) -> Iterator[str]:
    """Yield how an experiment that is trained before, with each seed, departs from what the seeds are to draw."""
    if source.has_seed:  # the weights of one run
        return
    given = {short(key): value for key, value in flatten(load_yaml(locate(source.file))).items()}
    given |= dict(setting.split("=", 1) for setting in source.settings)
    follows = {kind: given.get(short(key)) in (None, "null") for kind, key in SETTINGS.items()}
    if drawn := [NAMES[kind] for kind, free in follows.items() if free and kind not in vary]:
        yield (
            f"vary: {joined(drawn)} would be held fixed, but {source.file} draws that with each seed.\n"
            "Add it to `vary`, or give the weights of one run."
        )
    for kind, free in follows.items():
        if kind in vary and not free:
            yield f"{source.file} sets {SETTINGS[kind]}, so no seed changes {NAMES[kind]} of that training. Remove it."


def describe_draws(vary: Sequence[str], folds: int | None = None) -> str:
    """Return what differs between the seeds, and what does not."""
    drawn = [NAMES[kind] for kind in DRAWS if kind in vary]
    fixed = [NAMES[kind] for kind in BY_DEFAULT if kind not in vary]
    if folds:
        held = f" {joined(fixed).capitalize()} {'is' if len(fixed) == 1 else 'are'} held fixed." if fixed else ""
        drawn.append(f"the partition of all images into {folds} folds")
        share = f"{100 * (folds - 1) / folds:.3g}{SPACE}%"
        return (
            f"Seeds vary {joined(drawn)}.{held} A seed is {folds} trainings, and each image is tested by the one that "
            f"has not seen it: the result is about trainings on {share} of these images, and about images like them."
        )
    fixed += ["the split"] if "images" in vary else ["training set", "split"]
    return f"Seeds vary {joined(drawn)}; {joined(fixed)} {'is' if len(fixed) == 1 else 'are'} held fixed."


SHORT = {"train_images": "data.init_args.train_images"}  # axes with a short name


class Place(NamedTuple):
    """One value of an axis."""

    label: str
    x: float
    override: Config
    budget: Budget | None = None


class Axis(NamedTuple):
    """What a study varies in addition to its variants."""

    name: str  # as in a figure
    places: tuple[Place, ...]  # in increasing order


def axis_of(along: Along, budget: Budget | None) -> Axis:
    """Return the axis of a study's `along`; `budget` is the study's own.

    Raises:
        ValueError: the message does not name the file.
    """
    ((name, values),) = along.items()
    key, kinds = SHORT.get(name, name), [*Budget.model_fields]
    if "." not in key:
        refuse_unknown([name], (*SHORT, *kinds), "axis of `along`")
    if budget is not None and name in kinds:
        raise ValueError(f"along: an axis of budgets, and budget: {budget}. Remove one of the two.")
    if min(values) <= 0 and (name in SHORT or name in kinds):
        raise ValueError(f"along: {name}: {as_yaml(values)}. Expected numbers above 0.")
    places = []
    for value in sorted(values):
        if name in kinds:
            each = Budget.model_validate({name: value})
            named = {"images": f"{value:,} images seen", "epochs": f"{value:,} epochs"}  # and so are folders of runs
            places.append(Place(named.get(name, str(each)), each.amount, {}, each))
        else:
            label = f"{value:,} training images" if name in SHORT else f"{key.rpartition('.')[2]} {as_yaml(value)}"
            places.append(Place(label, float(value), nest(key, value)))
    return Axis(name.rpartition(".")[2].replace("_", " ").replace("train images", "training images"), tuple(places))
