"""Test images that an earlier training has had are told, and nothing else is."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.noise import make_noise
from vitlab.config import Config, merge
from vitlab.experiment.experiment import Experiment
from vitlab.experiment.same_images import known_test_images
from vitlab.studies.file.runs import Run, known_before, plan
from vitlab.studies.file.study import read_study

pytestmark = pytest.mark.filterwarnings("ignore")  # those of libraries, as `fit` leaves them out
Write = Callable[..., Path]
SIMMIM: Config = {"model": {"class_path": "vitlab.objectives.SimMIM", "init_args": {"mask_patch_size": 4}}}
MAKE_FIRST = {"model": {"init_args": {"init_from": "first.yaml"}}}


def begun(experiment: Experiment, **weights: Path) -> Path:
    """Write what a run does as it begins, and return its directory; `weights` are those that it took."""
    folder = experiment.directory
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(experiment.config))
    taken = {key: {"path": str(path)} for key, path in weights.items()}
    (folder / "environment.json").write_text(json.dumps({"folder": str(Path.cwd()), "weights": taken}))
    return folder


def starting_from(weights: str | Path) -> Config:
    return {"model": {"init_args": {"init_from": str(weights)}}}


def test_weights_of_a_training_that_had_the_test_images_are_told(tiny: Write) -> None:
    """Digits are split by `split_seed`, so the test images of one choice are mostly training images of another."""
    first = Experiment(tiny(SIMMIM, "first"))
    run = begun(first)
    same, other = (
        Experiment(tiny(merge(starting_from(run), {"data": {"init_args": {"split_seed": seed}}}))) for seed in (0, 3)
    )
    assert known_test_images(same) == []
    had = {name for split in ("train", "val") for name in first.data.image_names(split)}  # type: ignore[arg-type]
    count = len(had.intersection(other.data.image_names("test")))
    assert count > 200
    assert known_test_images(other) == [f"{run} had {count} of the 599 test images for its training or validation"]


@pytest.mark.slow(edge=True)
def test_those_before_an_earlier_training_are_asked_too(tiny: Write) -> None:
    """Of a run as it was: the experiment that it began with may have changed, or be gone."""
    other = {"data": {"init_args": {"split_seed": 3}}}
    run = begun(Experiment(tiny(SIMMIM, "zero")))
    first = tiny(merge(SIMMIM, starting_from(run)), "first")
    chain = Experiment(tiny(merge(MAKE_FIRST, other), "chain"))
    assert len(known_test_images(chain)) == 2
    (before,) = chain.before().values()
    begun(before, init_from=run)
    further = Experiment(tiny(merge(other, starting_from(begun(chain, init_from=before.directory))), "further"))
    first.unlink()
    trainings = [str(folder.absolute()) for folder in (before.directory, run)]
    assert [line.split(" had ")[0] for line in known_test_images(further)] == trainings


def test_a_folder_is_one_however_it_is_named_and_a_gone_one_is_no_fault(
    tiny: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_noise(tmp_path, {"photos": 10})

    def photos(root: str | Path, **changes: Config) -> Path:
        init_args = {"root": str(root), "image_size": 8, "batch_size": 4}
        return tiny({"data": {"class_path": "vitlab.data.ImageFolder", "init_args": init_args}, **changes})

    run = tmp_path / begun(Experiment(photos("photos", run={"test": False})))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    split = {"split_seed": 3}
    same = Experiment(photos(tmp_path / "photos", **starting_from(run)), {"data": {"init_args": split}})
    assert " of the " in "".join(known_test_images(same))
    (tmp_path / "photos").rename("photos")  # the folder of the run is gone; this one has its name
    assert known_test_images(Experiment(photos("photos", **starting_from(run)))) == []


def test_weights_beside_some_configuration_are_of_no_run(tiny: Write) -> None:
    """Their folder has a config.yaml like any project's; a run has environment.json, too."""
    changes = merge(starting_from("weights.pt"), {"data": {"init_args": {"split_seed": 3}}})
    config = tiny(changes, "config")
    assert known_test_images(Experiment(config)) == []
    begun(Experiment(config, "run.name=x"))
    assert known_test_images(Experiment(config, "model.init_from=runs/x/seed-0/weights.pt")) == []  # its own split


@pytest.mark.slow(edge=True)
def test_folds_take_an_experiment_that_follows_them_and_no_run_that_had_their_images(tiny: Write) -> None:
    run = begun(Experiment(tiny(SIMMIM, "first")))
    tiny(name="base")

    def runs(init_from: str) -> list[Run]:
        settings = {"scratch": {"label_smoothing": 0.0}, "pre-trained": {"init_from": init_from}}
        variants = {name: {"model": {"init_args": args}} for name, args in settings.items()}
        study = {"name": "Folds", "question": "Which?", "base": "base.yaml", "variants": variants, "folds": 3}
        Path("study.yaml").write_text(yaml.safe_dump({**study, "seeds": [1], "may_differ": ["model.init_args"]}))
        return plan(read_study(Path("study.yaml")), Path("runs"))

    assert known_before(runs("first.yaml")[-1]) == []
    with pytest.raises(ValueError, match=f"{run} had [0-9]+ of the 599 test images"):
        runs(str(run))
