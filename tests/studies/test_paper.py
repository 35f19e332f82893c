"""The paragraph on methods is true of the study that it is about: each of its statements, with its opposite."""

import csv
import dataclasses
from pathlib import Path
from typing import Any

import pytest
from fake_study import results, right
from referee.formats import SPACE

from vitlab.studies.report.page import write_report
from vitlab.studies.report.sections import methods
from vitlab.studies.results import Compute, Context, StudyResults


def text(study: StudyResults) -> str:
    return " ".join(methods(study)).replace(SPACE, " ")


def two(**changes: Any) -> StudyResults:
    found = results({name: {s: right(0.9 - 0.1 * i, 90) for s in (1, 2, 3)} for i, name in enumerate("AB")})
    return dataclasses.replace(found, study=dataclasses.replace(found.study, **changes))


def test_it_tells_data_seeds_test_and_versions() -> None:
    study = two()
    for run in study.finished:
        run.environment.update(torch="2.15.0", device="a CPU", precision="32-true")
        optimizer = {"class_path": "vitlab.optim.AdamW", "init_args": {"lr": 0.001}}
        run.run.config["model"] = {"class_path": "vitlab.objectives.Supervised", "init_args": {"optimizer": optimizer}}
        run.data.update(splits={"train": {"images": 1200}, "val": {"images": 120}, "test": {"images": 90}})
    told = text(study)
    assert told.startswith("Digits: 1,200 training, 120 validation and 90 test images of 3 classes. ")
    assert (
        "We compared “A” and “B” with 3 seeds each, which change the initialization, the data order and the augm"
        in told
    )
    assert "Pairs were compared at a level of 5 %; chance is other seeds and other test images, by Student's t" in told
    assert told.endswith("torch 2.15.0 on a CPU in 32-true.")
    assert "“A” and “B”: trained for 2 epochs by Supervised and AdamW at a rate of 0.001. " in told
    assert "frozen" not in told
    assert "tested after each" not in told


def test_it_tells_no_rate_of_seeds_that_tuned_their_own() -> None:
    study = two()
    for run in study.finished:
        lr = 0.001 * (run.run.seed if run.run.variant == "B" else 1)
        optimizer = {"class_path": "vitlab.optim.AdamW", "init_args": {"lr": lr}}
        run.run.config["model"] = {"class_path": "vitlab.objectives.Supervised", "init_args": {"optimizer": optimizer}}
    told = text(study)
    assert "“A”: trained for 2 epochs by Supervised and AdamW at a rate of 0.001. " in told
    assert "“B”: trained for 2 epochs by Supervised and AdamW. " in told


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"margin": 1.0}, "Differences below 1 point were taken not to matter."),
        ({"vary": ("order",)}, "which change the data order."),
        ({"test": "paired"}, "chance is other seeds and other test images, by Student's t on the differences by seed"),
        (
            {"looks": (3, 4, 5), "seeds": [1, 2, 3, 4, 5]},
            "planned for 3 to 5 seeds and tested after each from seed 3 on",
        ),
    ],
)
def test_it_tells_what_a_study_does_otherwise(changes: dict[str, Any], said: str) -> None:
    assert said not in text(two())
    assert said in text(two(**changes))


def test_it_tells_frozen_variants_and_where_weights_are_from() -> None:
    study = two()
    for run in study.finished:
        if run.run.variant == "B":
            run.run.config.update(trainer={"max_epochs": 0}, run={"probe": "knn"})
    compute = [Compute("experiments/dino.yaml", ["B"], taught=False, in_each_run=True)]
    told = text(dataclasses.replace(study, context=Context(compute=compute)))
    assert "“B”: k-NN read the features of the frozen network, without augmentation." in told
    assert "“B” started from experiments/dino.yaml, a run of its own for each seed." in told


def test_the_files_for_a_paper_hold_what_the_page_says(tmp_path: Path, no_figures: None) -> None:
    (tmp_path / "study.yaml").write_text("name: x")
    from test_report import Awkward

    study, images = two(), Awkward()
    object.__setattr__(study, "class_names", images.class_names)
    object.__setattr__(study.study, "path", tmp_path / "study.yaml")
    page = write_report(study, images, tmp_path).read_text()
    assert "For a paper" in page
    table = (tmp_path / "table.tex").read_text()
    assert table.startswith(r"\begin{tabular}")
    with (tmp_path / "report.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert {"section": "Ranking", "table": "Ranking", "row": "A", "column": "Accuracy, %", "value": "90.0"} in rows
    assert all(
        row["value"] in page.replace("&#39;", "'").replace("&amp;", "&") for row in rows if "<" not in row["value"]
    )
