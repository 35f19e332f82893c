import dataclasses

import pytest

from vitlab.evaluation.cost import Cost
from vitlab.studies.budget import parse_budget

# A model that trains 1,000 images/s at 2 GFLOP each.
COST = Cost(1, 1, 2_000_000_000, 1_000.0, 1.0, 1, 1, None, None, 64, 30, "a fake", 1, "2.15")


@pytest.mark.parametrize(
    ("budget", "epochs"),
    [
        ({"epochs": 30}, 30),
        ({"images": 600_000}, 12),  # of 50,000
        ({"images": 30_000}, 1),  # 0.6 epochs
        ({"flops": 1.0e15}, 10),  # 1e15 / 2e9 = 500,000 images
        ({"minutes": 10}, 12),  # 10 · 60 · 1,000 = 600,000 images
    ],
)
def test_a_budget_buys_whole_epochs(budget: dict[str, float], epochs: int) -> None:
    parsed = parse_budget(budget)
    assert parsed is not None
    assert parsed.epochs(50_000, COST if parsed.measured else None) == epochs


def test_half_the_speed_buys_half_the_epochs_of_wall_clock_and_as_many_of_flops() -> None:
    slow = dataclasses.replace(COST, train_images_per_second=500.0)
    minutes, flops = parse_budget({"minutes": 10}), parse_budget({"flops": 1.0e15})
    assert minutes is not None
    assert flops is not None
    assert (minutes.epochs(50_000, slow), flops.epochs(50_000, slow)) == (6, 10)


def test_a_budget_that_buys_nothing_is_refused() -> None:
    budget = parse_budget({"images": 20_000})
    assert budget is not None
    with pytest.raises(ValueError, match=r"20,000 training images is 0\.4 epochs of 50,000 images\. Raise it\."):
        budget.epochs(50_000, None)


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        ({"epochs": 3, "images": 5}, "Expected one of epochs, images, flops, minutes"),
        ({"epoch": 3}, "Did you mean `epochs`?"),
        ({"images": 0.5}, "Expected a whole number from 1"),
        ({"flops": "1e15"}, "YAML wants 1.0e\\+15"),
        ({"minutes": True}, "Expected a number above 0"),
    ],
)
def test_a_mistaken_budget_is_named(budget: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_budget(budget)
