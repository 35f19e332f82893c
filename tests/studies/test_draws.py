"""`vary`: what the seeds of a study draw, and what they leave as the first seed drew it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import TINY, edges
from tests.experiment.test_seeds import changed
from vitlab.config import Config, merge
from vitlab.experiment.experiment import Experiment
from vitlab.studies.file.runs import Run, plan
from vitlab.studies.file.study import describe_draws, read_study

Write = Callable[..., Path]


def planned(path: Path, **where: Any) -> dict[int, Config]:
    """Return the configurations of one variant by seed."""
    runs = plan(read_study(path), path.parent)
    return {run.seed: run.config for run in runs if run.variant == runs[0].variant}


def test_seeds_change_everything_but_the_split_unless_the_study_says_otherwise(write_study: Write) -> None:
    configs = planned(write_study())
    assert [config["seed_everything"] for config in configs.values()] == [1, 2, 3]
    strip = [{**config, "seed_everything": 0} for config in configs.values()]
    assert strip[0] == strip[1] == strip[2]
    assert "init_seed" not in configs[2]


def test_what_is_not_named_keeps_the_first_seeds_draw(write_study: Write) -> None:
    config = planned(write_study(vary=["order"], seeds=[4, 5]))[5]
    data = config["data"]["init_args"]
    assert (config["seed_everything"], config["init_seed"], data["augment_seed"]) == (5, 4, 4)
    assert "order_seed" not in data
    assert "split_seed" not in data


@pytest.mark.parametrize("kind", ["init", *edges("order", "augmentation")])
def test_each_kind_varies_alone_in_real_runs(tmp_path: Path, kind: str) -> None:
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(TINY))
    wide = {"model": {"init_args": {"backbone": {"init_args": {"mlp_ratio": 2.0}}}}}
    deep = {"model": {"init_args": {"backbone": {"init_args": {"depth": 3}}}}}
    study = {"base": "base.yaml", "variants": {"Wide": wide, "Deep": deep}, "seeds": [1, 2], "vary": [kind]}
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(study))
    first, second = (Experiment(config) for config in planned(tmp_path / "study.yaml").values())
    assert changed(first, second) == {kind}


def test_a_base_that_fixes_what_seeds_are_to_draw_is_refused(write_study: Write) -> None:
    path = write_study()
    base = yaml.safe_load((path.parent / "base.yaml").read_text())
    base["data"]["init_args"]["order_seed"] = 5
    (path.parent / "base.yaml").write_text(yaml.safe_dump(base))
    with pytest.raises(ValueError, match=r"order_seed is 5, so no seed changes the data order\. Remove"):
        plan(read_study(path), path.parent)
    content = {**yaml.safe_load(path.read_text()), "vary": ["init"]}
    path.write_text(yaml.safe_dump(content))
    assert planned(path)[2]["data"]["init_args"]["order_seed"] == 1


def test_seeds_choose_the_training_images_of_all_variants(write_study: Write) -> None:
    path = write_study(vary=["init", "order", "augmentation", "images"])
    with pytest.raises(ValueError, match=r"study\.yaml: vary: images: every variant trains on all images"):
        plan(read_study(path), path.parent)
    base = yaml.safe_load((path.parent / "base.yaml").read_text())
    base["data"]["init_args"]["train_images"] = 40
    (path.parent / "base.yaml").write_text(yaml.safe_dump(base))
    runs = plan(read_study(path), path.parent)
    assert all(run.config["data"]["init_args"]["train_images_seed"] == run.seed for run in runs)
    fixed = write_study()
    runs = plan(read_study(fixed), fixed.parent)
    assert not any("train_images_seed" in run.config["data"]["init_args"] for run in runs)


def test_a_training_before_draws_what_the_seeds_of_the_study_draw(write_study: Write) -> None:
    """An experiment in `init_from` is trained with each seed, which draws its initialization too, unless it is set."""
    content = yaml.safe_load(write_study().read_text())
    _, second, *_ = content["variants"]

    def planned(vary: list[str] | None, settings: str = "") -> list[Run]:
        start = {"model": {"init_args": {"init_from": f"experiments/mae_vit.yaml{settings}"}}}
        variants = {**content["variants"], second: merge(content["variants"][second], start)}
        path = write_study(vary=vary, variants=variants)
        return plan(read_study(path), path.parent)

    message = r"vary: add the initialization and the augmentation, which experiments/mae_vit\.yaml draws"
    with pytest.raises(ValueError, match=message):
        planned(["order"])
    with pytest.raises(ValueError, match="vary: add the augmentation, which"):
        planned(["order"], " init_seed=1")
    assert planned(["order"], " init_seed=1 data.augment_seed=1")
    assert planned(None)
    with pytest.raises(
        ValueError, match=r"mae_vit\.yaml sets init_seed, so no seed changes the initialization of that"
    ):
        planned(None, " init_seed=1")


def test_the_sentence_names_what_differs_and_what_does_not() -> None:
    told = describe_draws(("init", "order", "augmentation"))
    assert "the data order and the augmentation; training set and split are held fixed." in told
    assert "; the data order, the augmentation, training set and split are held fixed." in describe_draws(("init",))
    told = describe_draws(("init", "order", "augmentation", "images"))
    assert "and the choice of training images; the split is held fixed." in told
