"""The heat maps of a report show the variants that answer with a class."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from referee.report.drawing import Chart

from vitlab.commands.dispatch import run
from vitlab.experiment.experiment import Experiment
from vitlab.studies.report import heat
from vitlab.studies.report.heat import heat_chart

SIMMIM = {"model": {"class_path": "vitlab.objectives.SimMIM", "init_args": {"mask_patch_size": 4}}}


@pytest.mark.slow
def test_a_model_without_classes_has_no_map(tiny: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, changes in (("labels", {}), ("none", SIMMIM)):
        assert run("fit", ["--config", str(tiny(changes, name)), "--run.test", "false"]) == 0
    data = Experiment("runs/labels/seed-0").data
    results: Any = SimpleNamespace(
        class_names=data.class_names, labels=data.labels("test"), study=SimpleNamespace(folds=None)
    )

    def chart(*variants: str) -> Chart | None:
        shown = {
            each: SimpleNamespace(run=SimpleNamespace(directory=Path("runs", each, "seed-0"), config={}))
            for each in variants
        }
        monkeypatch.setattr(heat, "models_shown", lambda _: shown)
        monkeypatch.setattr(heat, "interesting", lambda _: np.arange(9))
        return heat_chart(results, data)

    drawn = chart("labels", "none")
    assert drawn is not None
    figure = drawn.draw(results, SimpleNamespace(columns=2, width=600))  # type: ignore[arg-type]
    assert [axes.get_title() for axes in figure.axes if axes.get_title()] == ["image", "labels"]
    assert chart("none") is None
