"""The cost of an experiment is that of its own training step."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import EXPERIMENTS
from vitlab.commands.benchmark import measure, on_noise
from vitlab.config import Config
from vitlab.data.noise import Noise
from vitlab.evaluation.cost import Cost, step
from vitlab.evaluation.cost.flops import flops_of
from vitlab.experiment.experiment import Experiment
from vitlab.objectives import Distillation

Tiny = Callable[..., Path]


@pytest.fixture(autouse=True)
def _short_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step, "SECONDS", 0.02)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def cost_of(*sources: Path | str | Config, turns: int = 2) -> Cost:
    return measure(Experiment(*sources).config, iter(range(turns)))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of training on noise
@pytest.mark.parametrize("files", ["mae_digits", "distillation_digits/base distillation_digits/hard", "dino_digits"])
def test_flops_are_those_of_the_objective_with_its_decoder_and_teacher(files: str) -> None:
    sources = [EXPERIMENTS / f"{name}.yaml" for name in files.split()]
    small = Experiment(*sources, "data.batch_size=4").config
    experiment = on_noise(small)
    objective, data = experiment.objective, experiment.data
    found = cost_of(small)
    if isinstance(objective, Distillation):
        objective.teacher.prepare(torch.device("cpu"), data.mean, data.std)
    views, labels = data.on_after_batch_transfer(Noise(data, 1).batch(), 0)
    own = flops_of(lambda: objective.loss(views, labels).backward())
    assert found.train_flops == pytest.approx(own / 4, rel=0.01)
    alone = flops_of(lambda: objective.backbone(views[0]).sum().backward())
    assert own != pytest.approx(alone, rel=0.2)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_teacher_that_is_a_run_costs_as_one_that_is_named(tiny: Tiny) -> None:
    taught_by = tiny({"trainer": {"limit_train_batches": 1}}, "taught_by")
    model = Experiment(taught_by).config["model"]["init_args"]["backbone"]

    def flops(teacher: Config) -> int:
        distillation = {
            "class_path": "vitlab.objectives.Distillation",
            "init_args": {"target": {"class_path": "vitlab.objectives.HardTarget"}, "teacher": teacher},
        }
        return cost_of(tiny({"model": distillation}, "student")).train_flops

    named = flops({"model": model})
    assert flops({"weights": str(taught_by)}) == named  # before it is trained
    Experiment(taught_by).fit()
    assert flops({"weights": "runs/taught_by/seed-0"}) == named


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_rest_is_plausible_and_says_how_it_was_measured(tiny: Tiny) -> None:
    file = tiny({"data": {"init_args": {"batch_size": 16}}})
    cost = cost_of(file, turns=3)
    backbone = Experiment(file).objective.backbone
    assert cost.parameters == sum(parameter.numel() for parameter in backbone.parameters())
    assert 2.5 * cost.flops < cost.train_flops < 3.5 * cost.flops
    assert cost.train_forward_flops == cost.flops
    for speed, quartiles in (
        (cost.train_images_per_second, cost.train_quartiles),
        (cost.inference_images_per_second, cost.inference_quartiles),
    ):
        assert quartiles is not None
        assert 0 < quartiles[0] <= speed <= quartiles[1]
    assert cost.train_peak_bytes > 4 * 4 * cost.parameters  # weights, gradients and two moments
    assert cost.inference_peak_bytes >= 4 * cost.parameters
    assert (cost.batch_size, cost.threads, cost.precision, cost.compiled, cost.processes) == (
        16,
        1,
        "32-true",
        False,
        1,
    )


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_images_that_grow_are_counted_by_their_share_of_the_steps(tiny: Tiny) -> None:
    """A quarter of the pixels for half of the steps: the FLOPs of the patches, nearly all, are 5/8."""
    grow = {"start": 8, "step": 8, "until": 0.5}
    file = tiny({"data": {"init_args": {"image_size": 16, "grow": grow}}, "trainer": {"max_epochs": 2}})
    cost = cost_of(file)
    assert cost.mean_share == pytest.approx(5 / 8, abs=0.05)
    assert cost.train_forward_flops == cost.flops
    assert 2.5 * cost.flops < cost.train_flops / cost.mean_share < 3.5 * cost.flops


@pytest.mark.filterwarnings("ignore")
def test_precision_clipping_and_accumulation_are_the_experiments(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"precision": "bf16-mixed", "gradient_clip_val": 0.5, "accumulate_grad_batches": 3}
    seen: dict[str, Any] = {}
    before = step.Turns.on_train_start

    def look(self: step.Turns, trainer: Any, objective: Any) -> None:
        seen.update({name: getattr(trainer, name) for name in settings})
        seen["weights"] = {name: value.clone() for name, value in objective.state_dict().items()}
        seen["turns"], seen["objective"] = self, objective
        before(self, trainer, objective)

    monkeypatch.setattr(step.Turns, "on_train_start", look)
    assert cost_of(tiny({"trainer": settings})).precision == "bf16-mixed"
    assert {name: seen[name] for name in settings} == settings
    assert seen["turns"].training.images == 3 * seen["turns"].inference.images
    now = seen["objective"].state_dict()  # the measurement teaches it nothing
    assert all(torch.equal(value, now[name]) for name, value in seen["weights"].items())


def test_median_and_quartiles_are_over_turns() -> None:
    timed = step.Timed(images=10, seconds=[1.0, 0.5, 2.0, 0.25, 4.0])  # 10, 20, 5, 40 and 2.5 images/s
    assert timed.images_per_second == (10.0, (5.0, 20.0))


@pytest.mark.filterwarnings("ignore")
def test_what_starts_from_the_training_images_is_measured_without_them(tiny: Tiny) -> None:
    assert cost_of(tiny({"model": {"init_args": {"whiten": True}}})).train_flops > 0


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["msn_digits", "simmim_digits"])
def test_other_objectives_too_are_measured_without_data_or_weights(name: str) -> None:
    cost = cost_of(EXPERIMENTS / f"{name}.yaml", {"data": {"init_args": {"batch_size": 4}}}, turns=1)
    assert min(cost.train_flops, cost.train_peak_bytes, cost.inference_peak_bytes, cost.train_images_per_second) > 0
