"""A run is trained, continued and tested on the images that it began with, or says so.

Images that come or go would be split again: some that were trained on would then test. So would some that the weights
it starts from were trained on, where that training split the images in another way.
"""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from vitlab.config import Config, conflicts, weights_of
from vitlab.data import ImageDataModule
from vitlab.data.dataset import SPLITS, Split
from vitlab.runs.directory import CONFIG, RunDirectory

if TYPE_CHECKING:
    from vitlab.experiment.experiment import Experiment

PLACE = ("root", "path", "name", "table")  # arguments of a data set that say where its images are
OTHER = "other_test"  # folder of what a test finds that departs from the run's own, which studies and reports read


def other_images(directory: Path, data: ImageDataModule, splits: Sequence[Split] = SPLITS) -> list[str] | None:
    """Return, in words, which splits are not those of a run's start; None if its data.json was removed."""
    then = RunDirectory(directory).data.get("splits", {})
    if not then:
        return None
    now = data.facts()["splits"]
    changed = [split for split in splits if then[split]["digest"] != now[split]["digest"]]
    return [f"{split}: {then[split]['images']:,} images then, {now[split]['images']:,} now" for split in changed]


def departures(directory: Path, weights: Path | None, config: Config, data: ImageDataModule) -> list[str]:
    """Return, in words, in which weights, settings and images a test differs from that of a finished run."""
    run, reasons = RunDirectory(directory), []
    if weights is None or weights.resolve() != run.last_checkpoint.resolve():
        reasons.append(f"weights: {weights.name if weights else 'the initial ones'}")
    others = other_images(directory, data, ("test",))
    for key, old, new in conflicts(run.config, config):
        if key != "data.init_args.root" or others is None:  # else the images tell
            reasons.append(f"{key}: {old} there, {new} now")
    return reasons + (others or [])


def known_test_images(experiment: "Experiment") -> list[str]:
    """Say in words which test images the trainings had that the weights come from; of one data set, by their names."""
    lines = []
    for source, before in _trainings_before(experiment):
        if _images(before.config) != _images(experiment.config):
            continue
        had: list[Split] = ["train"] if before.data.tests_on_validation else ["train", "val"]
        known = {name for split in had for name in before.data.image_names(split)}
        names = experiment.data.image_names("test")
        if count := len(known.intersection(names)):
            lines.append(f"{source} had {count:,} of the {len(names):,} test images for its training or validation")
    return lines


def _trainings_before(experiment: "Experiment") -> Iterator[tuple[str, "Experiment"]]:
    """Yield the experiments and runs that an experiment takes weights from, and those that they take theirs from."""
    found = [(str(before.directory), before) for before in experiment.before().values()]
    for weights in weights_of(experiment.config).values():
        for folder in (Path(weights), *list(Path(weights).parents)[:2]):  # a run, or its checkpoints/last.ckpt
            if (folder / CONFIG).is_file():
                with suppress(ValueError):  # of another version
                    found.append((str(folder), type(experiment)(RunDirectory(folder).config)))
                break
    for source, before in found:
        yield source, before
        yield from _trainings_before(before)


def _images(config: Config) -> list[object]:
    data = config["data"]
    arguments = data.get("init_args") or {}
    return [str(data["class_path"]).rpartition(".")[2], *(arguments.get(key) for key in PLACE)]
