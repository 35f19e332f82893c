"""A run is trained, continued and tested on the images that it began with, normalized as its weights were, or says so.

Images that come or go would be split again: some that were trained on would then test. So would some that the weights
it starts from were trained on, where that training split the images in another way.
"""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from vitlab import log
from vitlab.config import ROOTS, Config, conflicts, merge, weights_of
from vitlab.data import ImageDataModule
from vitlab.data.dataset import SPLITS, Split
from vitlab.experiment.chain import Source
from vitlab.models.timm_model import normalization_of
from vitlab.runs.directory import RunDirectory

if TYPE_CHECKING:
    from vitlab.experiment.experiment import Experiment

OTHER = "other_test"  # folder of what a test finds that departs from the run's own, which studies and reports read


def other_images(directory: Path, data: ImageDataModule, splits: Sequence[Split] = SPLITS) -> list[str] | None:
    """Return, in words, which splits are not those of a run's start; None if its data.json was removed."""
    then = RunDirectory(directory).data.get("splits", {})
    if not then:
        return None
    now = data.facts()["splits"]
    changed = [split for split in splits if then[split]["digest"] != now[split]["digest"]]
    return [f"{split}: {then[split]['images']:,} images then, {now[split]['images']:,} now" for split in changed]


def judged_by_features(config: Config) -> bool:
    """Return whether a run's result is of its features; a linear probe of a frozen network becomes its own head."""
    probe = config["run"].get("probe")
    return bool(probe) and not (probe == "linear" and config["trainer"]["max_epochs"] == 0)


def departures(directory: Path, weights: Path | None, config: Config, data: ImageDataModule) -> list[str]:
    """Return, in words, in which weights, settings and images a test differs from that of a finished run."""
    run, reasons = RunDirectory(directory), []
    if weights is None or weights.resolve() != run.last_checkpoint.resolve():
        reasons.append(f"weights: {weights.name if weights else 'the initial ones'}")
    if judged_by_features(run.config):
        reasons.append(f"run.probe: {run.config['run']['probe']} there, the network's own head now")
    others = other_images(directory, data, ("test",))
    for key, old, new in conflicts(run.config, config):
        if key not in ROOTS or others is None:  # else the images tell
            reasons.append(f"{key}: {old} there, {new} now")
    return reasons + (others or [])


def known_test_images(experiment: "Experiment") -> list[str]:
    """Say in words which test images the trainings had that the weights come from; of one data set, by their names.

    Images and settings that are not here any more are known of no training.
    """
    images, lines = _images(experiment.config, Path()), []
    for source, config, folder in _trainings_before(experiment):
        if _images(config, folder) != images:
            continue
        arguments = experiment.config["data"].get("init_args", {})
        same_root = {key: value for key, value in arguments.items() if key in ("root", "table")}
        with suppress(OSError, ValueError):
            data = type(experiment)(merge(config, {"data": {"init_args": same_root}})).data
            had: list[Split] = ["train"] if data.tests_on_validation else ["train", "val"]
            known = {name for split in had for name in data.image_names(split)}
            names = experiment.data.image_names("test")
            if count := len(known.intersection(names)):
                lines.append(f"{source} had {count:,} of the {len(names):,} test images for its training or validation")
    return lines


def _trainings_before(experiment: "Experiment") -> Iterator[tuple[str, Config, Path]]:
    """Yield the trainings that weights come from, with the folders to which their paths are relative."""
    for before in experiment.before().values():
        yield str(before.directory), before.config, Path()
        yield from _trainings_before(before)
    seen, paths = set(), [Path(each) for each in weights_of(experiment.config).values() if not Source.parse(each)]
    while paths:
        path = paths.pop(0)
        # A run, its checkpoints/last.ckpt, or a file beside its config.yaml.
        folders = (path, path.parent.parent if path.parent.name == "checkpoints" else path.parent)
        run = next((run for run in map(RunDirectory, folders) if run.is_run), None)
        if run is None or run.path.resolve() in seen:
            continue
        seen.add(run.path.resolve())
        with suppress(ValueError):  # damaged
            folder = Path(run.environment.get("folder", ""))
            yield str(run.path), run.config, folder
            paths += [folder / before["path"] for before in run.environment.get("weights", {}).values()]


def _images(config: Config, folder: Path) -> tuple[object, ...]:
    """Return what says which images a configuration is about: equal for the same ones, wherever it was started."""
    root = (arguments := config["data"].get("init_args", {})).get("root")
    places = [place.resolve() for place in (folder / str(root), Path(str(root))) if root and place.exists()]
    kind = config["data"]["class_path"].rpartition(".")[2]
    return kind, *places[:1], arguments.get("table"), arguments.get("source")


def warn_of_normalization(config: Config, data: ImageDataModule) -> None:
    """Warn of images of another mean and deviation than those of timm's weights, by which accuracy is lost silently."""
    for key, source in weights_of(config).items():
        if not source.startswith("timm/") or "teacher" in key:  # a teacher has its own normalization
            continue
        mean, std = normalization_of(source.removeprefix("timm/"))
        if mean is not None and std is not None and (tuple(data.mean), tuple(data.std)) != (mean, std):
            log.warning("%s was trained on images of mean %s, std %s; set data.mean and std.", source, [*mean], [*std])
