"""Measures on the test images that a study may rank by."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.special import softmax

from vitlab.analysis.attention import attention_overlap
from vitlab.analysis.measures import amplitude, block_outputs
from vitlab.commands.dispatch import run
from vitlab.config import Config
from vitlab.data import Shapes
from vitlab.evaluation import dense
from vitlab.evaluation.dense import StageResult, segment
from vitlab.evaluation.predictions import jackknifed, read_values, write_values
from vitlab.experiment.experiment import Experiment
from vitlab.runs import measures
from vitlab.runs.directory import VALUES, RunDirectory
from vitlab.studies.compare import results_of

Write = Callable[..., Path]
CPU = torch.device("cpu")
pytestmark = pytest.mark.filterwarnings("ignore")  # those of libraries, as `fit` leaves them out
SHAPES: Config = {
    "data": {"class_path": "vitlab.data.Shapes", "init_args": {"train_images": 320, "batch_size": 64}},
    "trainer": {"callbacks": ["vitlab.analysis.measures.AttentionJaccard", "vitlab.analysis.measures.Amplitude"]},
}


@pytest.mark.slow
def test_summary_json_has_what_the_functions_give_for_the_trained_model(
    tiny: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dense, "MOST_PLACES", 500)  # for the test's time
    callbacks = [*SHAPES["trainer"]["callbacks"], "vitlab.runs.measures.Segmentation"]
    experiment = Experiment(tiny(SHAPES | {"trainer": {"callbacks": callbacks}}))
    metrics = experiment.fit()
    model, data, cpu = experiment.model.eval(), experiment.data, torch.device("cpu")
    views = [view for (view,), _ in experiment.data.batches("test", cpu)]
    overlap = attention_overlap(model, views, experiment.data.masks("test"))
    assert metrics["test/jaccard"] == pytest.approx(overlap.best.mean())
    assert metrics["test/jaccard_mean"] == pytest.approx(overlap.mean.mean())
    with torch.no_grad():
        first, last = (fmean(amplitude(block_outputs(model, view)[i]) for view in views) for i in (0, -1))
    assert metrics["test/amplitude"] == pytest.approx(last, rel=1e-4)
    assert metrics["test/amplitude_growth"] == pytest.approx(last / first, rel=1e-4)
    stages = segment(model, lambda split: (data.batches(split, cpu), data.masks(split)), data.num_classes)
    assert metrics["test/miou_linear"] == pytest.approx(stages[-1].linear.mean(), abs=1e-3)
    assert metrics["test/miou_knn"] == pytest.approx(stages[-1].knn.mean(), abs=1e-3)
    assert json.loads((experiment.directory / "summary.json").read_text())["metrics"] == metrics


@pytest.mark.parametrize(("accuracy", "trained"), [(0.05, 0.0), (0.10, 0.0), (0.12, 0.0), (0.16, 1.0), (0.9, 1.0)])
def test_a_training_worked_if_it_is_better_than_one_answer_for_all_images(accuracy: float, trained: float) -> None:
    """A hundred images of each of ten classes: by the binomial distribution, 1 % of guesses get 124 right or more."""
    labels = torch.arange(1_000) % 10
    answers = torch.where(torch.arange(1_000) < 1_000 * accuracy, labels, (labels + 1) % 10)

    class Lookup(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.one_hot(answers[images], 10).float()

    batches = [((index,), labels[index]) for index in torch.arange(1_000).split(300)]
    data = SimpleNamespace(batches=lambda split, device: batches)
    assert measures.Trained().measure(Lookup(), data, torch.device("cpu")) == {"test/trained": trained}


def test_an_objective_without_classes_cannot_be_judged_by_accuracy(
    tiny: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    model = {"class_path": "vitlab.objectives.SimMIM", "init_args": {"mask_patch_size": 4}}
    path = tiny({"model": model, "trainer": {"callbacks": ["vitlab.runs.measures.Trained"]}})
    assert run("fit", ["--config", str(path)]) == 2
    assert "SimMIM does not give each image one class" in capsys.readouterr().err


@pytest.mark.slow(edge=True)
def test_a_run_that_stops_early_is_measured_too(tiny: Write) -> None:
    stopping = {"class_path": "EarlyStopping", "init_args": {"monitor": "val/loss", "patience": 1, "min_delta": 10.0}}
    callbacks = [*SHAPES["trainer"]["callbacks"], stopping]
    short = {"max_epochs": 9, "limit_train_batches": 1, "callbacks": callbacks}
    experiment = Experiment(tiny(SHAPES | {"trainer": short}))
    assert {"test/jaccard", "test/amplitude"} < experiment.fit().keys()
    assert experiment.trainer.current_epoch == 2


def test_a_stage_is_chosen_on_validation_images(tiny: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two planted stages, the first is better in validation and the second in the test."""

    def stage(test: float, held_out: float) -> StageResult:
        return StageResult(test, test, held_out)

    monkeypatch.setattr(measures, "segment", lambda *_: [stage(0.3, 0.5), stage(0.6, 0.4)])
    experiment = Experiment(tiny(SHAPES))
    found = measures.Segmentation().measure(experiment.model, experiment.data, torch.device("cpu"))
    assert found["test/miou_linear_best"] == 0.3


def test_data_without_masks_and_models_without_a_class_token_are_refused(
    tiny: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    callbacks = {"trainer": {"callbacks": ["vitlab.analysis.measures.AttentionJaccard"]}}
    assert run("fit", ["--config", str(tiny(callbacks))]) == 2
    assert "Digits has no masks" in capsys.readouterr().err
    pooled = ["--model.backbone.global_pool", "avg"]
    assert run("fit", ["--config", str(tiny(SHAPES)), *pooled]) == 2
    assert "reads no class token" in capsys.readouterr().err
    assert not Path("runs").exists()


@pytest.mark.slow(edge=True)
def test_attention_is_compared_with_masks_of_other_images(tiny: Write, capsys: pytest.CaptureFixture[str]) -> None:
    """The same function on those images; the run's own look otherwise, because they are normalized."""
    other: Config = {"class_path": "vitlab.data.Shapes", "init_args": {"mean": [0.0] * 3, "std": [1.0] * 3}}
    callback = {"class_path": "vitlab.analysis.measures.AttentionJaccard", "init_args": {"data": other}}
    short = {"max_epochs": 1, "limit_train_batches": 1, "callbacks": [callback]}
    experiment = Experiment(tiny(SHAPES | {"trainer": short}))
    metrics = experiment.fit()
    raw = Shapes(mean=(0.0,) * 3, std=(1.0,) * 3)
    raw.setup("test")
    expected, own = (
        attention_overlap(experiment.model, (view for (view,), _ in data.batches("test", CPU)), raw.masks("test"))
        for data in (raw, experiment.data)
    )
    assert metrics["test/jaccard"] == pytest.approx(expected.best.mean())
    assert metrics["test/jaccard_mean"] == pytest.approx(expected.mean.mean())
    assert abs(expected.mean.mean() - own.mean.mean()) > 1e-4
    assert not (experiment.directory / VALUES).exists()  # which would name the run's images
    digits = tiny({"trainer": {"callbacks": [callback]}}, "digits")
    assert run("fit", ["--config", str(digits)]) == 2
    assert "Shapes needs the image_size and channels of the run" in capsys.readouterr().err


def test_no_stage_is_chosen_on_test_images(tiny: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = Experiment(tiny(SHAPES))
    monkeypatch.setattr(experiment.data, "image_names", lambda split: ["val/0"])
    with pytest.raises(ValueError, match="needs validation images besides the test images"):
        measures.Segmentation().setup(SimpleNamespace(datamodule=experiment.data), experiment.objective, "fit")


@pytest.mark.slow
def test_a_study_ranks_by_a_measure(
    tiny: Write, forked_runs: None, no_figures: None, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny(SHAPES, "base")
    study = {
        "base": "base.yaml",
        "variants": {
            name: {"model": {"init_args": {"backbone": {"init_args": {"depth": depth}}}}}
            for name, depth in {"two": 2, "four": 4}.items()
        },
        "may_differ": ["model.init_args.backbone"],
        "seeds": [1, 2],
        "metric": {"name": "amplitude", "mode": "min"},
    }
    Path("study.yaml").write_text(json.dumps(study))
    assert run("compare", ["--config", "study.yaml"]) == 0
    results, _ = results_of(Path("study.yaml"))
    assert [r.variant for r in results.ranking] == ["two", "four"]
    for result in results.finished:
        assert result.score == result.summary["metrics"]["test/amplitude"]
    assert "test amplitude (lower is better)" in Path("runs/study/report.md").read_text()

    Path("study.yaml").write_text(json.dumps(study | {"metric": {"name": "sharpness", "mode": "min"}}))
    assert run("compare", ["--config", "study.yaml"]) == 2
    assert "there is no sharpness. Known" in capsys.readouterr().err


# Metrics by test image, in the order of the predictions


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
