"""Metrics by test image: of an objective, a measure and a user's callback, in the order of the predictions."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy.special import softmax

from tests.runs.test_final_measures import SHAPES
from vitlab.evaluation.predictions import jackknifed, read_values, write_values
from vitlab.experiment.experiment import Experiment
from vitlab.runs.directory import RunDirectory

Write = Callable[..., Path]
pytestmark = pytest.mark.filterwarnings("ignore")  # those of libraries, as `fit` leaves them out
DOCS = Path(__file__).parents[2] / "docs" / "studies.md"


def test_columns_of_the_same_images_are_added_and_of_others_replaced(tmp_path: Path) -> None:
    file = tmp_path / "values.parquet"
    assert read_values(file).empty
    write_values(file, ["a", "b"], {"one": np.array([1.0, 2.0])})
    write_values(file, ["a", "b"], {"two": np.array([3.0, 4.0]), "one": np.array([5.0, 6.0])})
    assert read_values(file).to_dict("list") == {"two": [3.0, 4.0], "one": [5.0, 6.0]}
    file.write_bytes(b"damaged")
    write_values(file, ["a", "c"], {"two": np.array([7.0, 8.0])})
    assert read_values(file).to_dict() == {"two": {"a": 7.0, "c": 8.0}}
    file.write_bytes(b"PAR1")
    with pytest.raises(
        ValueError, match=r"values\.parquet is damaged .*Remove it; intervals are then over seeds alone"
    ):
        read_values(file)


def test_jackknifed_values_of_a_mean_are_the_values() -> None:
    values = np.random.default_rng(0).normal(size=30)
    without = (values.sum() - values) / 29
    assert jackknifed(values.mean(), without) == pytest.approx(values)


def test_the_callback_of_the_documentation_writes_its_values(tiny: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.DOTALL)
    Path("by_confidence.py").write_text(code)
    monkeypatch.syspath_prepend(Path.cwd())
    experiment = Experiment(tiny({"trainer": {"callbacks": ["by_confidence.Confidence"]}}))
    metrics = experiment.fit()
    run = RunDirectory(experiment.directory)
    confidence = softmax(run.predictions.logits.astype(np.float64), axis=1).max(axis=1)
    assert run.values.index.tolist() == run.predictions.images
    assert run.values["confidence"].to_numpy() == pytest.approx(confidence, rel=1e-5)
    assert metrics["test/confidence"] == pytest.approx(confidence.mean(), rel=1e-5)


def test_a_measure_writes_its_values(tiny: Write) -> None:
    experiment = Experiment(tiny(SHAPES))
    metrics = experiment.fit()
    run = RunDirectory(experiment.directory)
    assert run.values.index.tolist() == run.predictions.images
    assert run.values["jaccard"].mean() == pytest.approx(metrics["test/jaccard"])
    assert run.values["jaccard"].std() > 0
    assert "amplitude" not in run.values  # which no image has alone


def test_what_is_no_value_for_each_image_is_refused(tiny: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("wrong_values.py").write_text(
        "from lightning.pytorch import Callback\n\n\n"
        "class Wrong(Callback):\n"
        "    def on_test_batch_end(self, trainer, pl_module, outputs, *args):\n"
        "        outputs['wrong'] = outputs['logits']\n"
    )
    monkeypatch.syspath_prepend(Path.cwd())
    with pytest.raises(ValueError, match=r"wrong is \(\d+, 10\); give a value for each of the \d+ test images"):
        Experiment(tiny({"trainer": {"callbacks": ["wrong_values.Wrong"]}})).fit()
