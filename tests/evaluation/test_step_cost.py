"""FLOPs are counted, and costs logged, of an experiment's own training step."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.conftest import EXPERIMENTS
from vitlab.config import Config
from vitlab.evaluation.cost import flops_of
from vitlab.experiment.experiment import Experiment
from vitlab.experiment.noise import Noise, flops_per_image, on_noise
from vitlab.objectives import Distillation

Tiny = Callable[..., Path]


def test_a_run_logs_peak_memory_and_inference_images_per_second(finished: Path) -> None:
    cost = json.loads((finished / "summary.json").read_text())["cost"]
    backbone = Experiment("tiny.yaml").objective.backbone
    assert cost["parameters"] == sum(parameter.numel() for parameter in backbone.parameters())
    assert cost["train_peak_bytes"] > 4 * 4 * cost["parameters"]  # weights, gradients and two moments
    assert cost["inference_peak_bytes"] >= 4 * cost["parameters"]
    assert cost["inference_images_per_second"] > 0
    assert cost["flops"] == cost["train_forward_flops"] > 0


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of training on noise
@pytest.mark.parametrize("files", ["mae_digits", "distillation_digits/base distillation_digits/hard", "dino_digits"])
def test_flops_are_those_of_the_objective_with_its_decoder_and_teacher(files: str) -> None:
    sources = [EXPERIMENTS / f"{name}.yaml" for name in files.split()]
    small = Experiment(*sources, "data.batch_size=4").config
    experiment = on_noise(small)
    objective, data = experiment.objective, experiment.data
    found = flops_per_image(small)
    if isinstance(objective, Distillation):
        objective.teacher.prepare(torch.device("cpu"), data.mean, data.std)
    views, labels = data.on_after_batch_transfer(Noise(data, [1]).batch(), 0)
    own = flops_of(lambda: objective.loss(views, labels).backward())
    assert found == pytest.approx(own / 4, rel=0.01)
    alone = flops_of(lambda: objective.backbone(views[0]).sum().backward())
    assert own != pytest.approx(alone, rel=0.2)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_teacher_that_is_a_run_costs_as_one_that_is_named(tiny: Tiny) -> None:
    taught_by = tiny({"trainer": {"limit_train_batches": 1}}, "taught_by")
    model = Experiment(taught_by).config["model"]["init_args"]["backbone"]

    def flops(teacher: Config) -> float:
        distillation = {
            "class_path": "vitlab.objectives.Distillation",
            "init_args": {"target": {"class_path": "vitlab.objectives.HardTarget"}, "teacher": teacher},
        }
        return flops_per_image(Experiment(tiny({"model": distillation}, "student")).config)

    named = flops({"model": model})
    assert flops({"weights": str(taught_by)}) == named  # before it is trained
    Experiment(taught_by).fit()
    assert flops({"weights": "runs/taught_by/seed-0"}) == named


def test_what_starts_from_the_training_images_is_counted_without_them(tiny: Tiny) -> None:
    assert flops_per_image(Experiment(tiny({"model": {"init_args": {"whiten": True}}})).config) > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", ["msn_digits", "simmim_digits"])
def test_other_objectives_too_are_counted_without_data_or_weights(name: str) -> None:
    assert flops_per_image(Experiment(EXPERIMENTS / f"{name}.yaml", "data.batch_size=4").config) > 0
