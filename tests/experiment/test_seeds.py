"""What the seed of a run draws, and how each kind of draw is held fixed on its own."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import TINY
from tests.noise import make_noise
from vitlab.config import Config, conflicts, merge
from vitlab.data.dataset import Batch
from vitlab.data.sampler import Key
from vitlab.experiment.experiment import Experiment

HELD: dict[str, Config] = {
    "init": {"init_seed": 1},
    "order": {"data": {"init_args": {"order_seed": 1}}},
    "augmentation": {"data": {"init_args": {"augment_seed": 1}}},
}
SPLIT: Config = {"data": {"init_args": {"split_seed": 2}}}


def drawn(experiment: Experiment) -> dict[str, Any]:
    """Return everything that is drawn: weights and what follows them, images of an epoch, augmentation, splits."""
    weights = [p.detach().numpy().tobytes() for p in experiment.objective.parameters()]
    data = experiment.data
    images = torch.arange(8 * 3 * 8 * 8, dtype=torch.uint8).view(8, -1, 8, 8)[:, : data.in_chans]
    batch = Batch(images, torch.arange(8) % data.num_classes, torch.arange(8), epoch=3, first=0)
    (view,), labels = data.on_after_batch_transfer(batch, 0)
    order = [tuple(key) for key in data._train_sampler()]
    return {
        "init": (weights, torch.rand(4).tolist()),  # dropout continues where the weights end
        "order": order,
        "augmentation": (view.numpy().tobytes(), labels.numpy().tobytes()),
        "split": (data.image_names("train"), data.image_names("val")),
    }


def changed(a: Experiment, b: Experiment) -> set[str]:
    first, second = drawn(a), drawn(b)
    return {kind for kind in first if first[kind] != second[kind]}


@pytest.fixture
def digits() -> Callable[..., Experiment]:
    mixed = merge(TINY, {"data": {"init_args": {"mixup": {"mixup_alpha": 0.8}}}})
    return lambda seed, *changes: Experiment(mixed, {"seed_everything": seed}, *changes)


@pytest.mark.parametrize("kind", [*HELD, "split"])
def test_each_kind_of_draw_changes_alone(digits: Callable[..., Experiment], kind: str) -> None:
    others = [change for held, change in HELD.items() if held != kind]
    split = [SPLIT] if kind == "split" else []
    assert changed(digits(1), digits(2, *others, *split)) == {kind}


@pytest.mark.slow
def test_a_seed_alone_changes_weights_order_and_augmentation(digits: Callable[..., Experiment]) -> None:
    assert changed(digits(1), digits(2)) == {"init", "order", "augmentation"}
    assert changed(digits(1), digits(1, *HELD.values())) == set()


def test_photographs_are_augmented_by_the_same_seed(tmp_path: Path) -> None:
    """Workers cut and distort them, by a data set that knows only its own seed."""
    make_noise(tmp_path, {"train": 8, "test": 8})
    arguments = {
        "root": str(tmp_path),
        "image_size": 16,
        "batch_size": 4,
        "augment": {"rand_augment": "rand-m9-mstd0.5"},
    }
    base = merge(TINY, {"data": {"class_path": "vitlab.data.ImageFolder", "init_args": arguments}})

    def cut(seed: int, *changes: Config) -> bytes:
        data = Experiment(base, {"seed_everything": seed}, *changes).data
        return bytes(data.dataset("train").__getitems__([Key(0, i) for i in range(4)]).images.numpy().tobytes())

    assert cut(1) == cut(2, HELD["augmentation"]) == cut(1, HELD["order"]) != cut(2)


def test_runs_of_earlier_versions_continue(digits: Callable[..., Experiment]) -> None:
    """Their config.yaml has none of these settings; a value other than null makes another run."""
    new = digits(1).config
    old = {key: value for key, value in new.items() if key != "init_seed"}
    init_args = {k: v for k, v in new["data"]["init_args"].items() if k not in ("order_seed", "augment_seed")}
    old = {**old, "data": {**old["data"], "init_args": init_args}}
    assert conflicts(old, new) == []
    assert Experiment(old).config == new
    held = digits(1, *HELD.values()).config
    assert [key for key, *_ in conflicts(old, held)] == [
        "init_seed",
        "data.init_args.order_seed",
        "data.init_args.augment_seed",
    ]
