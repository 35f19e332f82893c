import pytest

from vitlab.studies.file.study import Budget
from vitlab.studies.training.spending import MISSED, Epoch, Length, length_of

CIFAR = Epoch(batches=390, images=128)  # 49,920 images


def length(budget: dict[str, float], per_image: float = 1.0, epoch: Epoch = CIFAR) -> Length:
    return length_of(Budget.model_validate(budget), per_image, epoch)


@pytest.mark.parametrize(
    ("budget", "per_image", "epochs"),
    [
        ({"images": 600_000}, 1.0, 12),
        ({"flops": 1.0e15}, 2.0e9, 10),  # 500,000 images
    ],
)
def test_a_budget_buys_whole_epochs_where_they_spend_it(
    budget: dict[str, float], per_image: float, epochs: int
) -> None:
    assert length(budget, per_image) == Length(epochs)


@pytest.mark.parametrize("amount", [0.7, 1.1, 1.5, 2.49, 3.4, 5.5, 9.5, 12.5, 40.5])
def test_shorter_epochs_spend_what_whole_ones_miss(amount: float) -> None:
    flops = 2.0e9 * 49_920 * amount
    epochs, batches = length({"flops": flops}, 2.0e9)
    assert epochs * 128 * (batches or 390) * 2.0e9 == pytest.approx(flops, rel=MISSED)
    assert batches is None or batches < 390
    assert epochs in (int(amount), int(amount) + 1, round(amount))


def test_shorter_epochs_have_whole_optimizer_steps() -> None:
    epochs, batches = length({"images": 900 * 16}, epoch=Epoch(batches=60, images=16, step=4))
    assert (epochs, batches) == (15, None)
    epochs, batches = length({"images": 150 * 16}, epoch=Epoch(batches=60, images=16, step=4))
    assert (epochs, batches) == (3, 48)  # 2.5 epochs: 50 batches of each were 12.5 steps


@pytest.mark.parametrize("amount", [1.3, 2.6, 4.44, 7.56, 11.5])
def test_more_epochs_of_few_batches_come_nearer(amount: float) -> None:
    epoch = Epoch(batches=8, images=128)
    epochs, batches = length({"images": int(amount * 8 * 128)}, epoch=epoch)
    assert epochs * (batches or 8) * 128 == pytest.approx(amount * 8 * 128, rel=0.05)
    assert amount - 0.5 <= epochs <= amount + 4


def test_a_budget_between_two_steps_is_refused() -> None:
    budget = Budget(images=640)
    with pytest.raises(ValueError, match=r"640 training images is 1\.25 epochs of 2 batches, and whole .* 20%"):
        length_of(budget, 1.0, Epoch(batches=2, images=256))


def test_a_budget_that_buys_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match=r"20,000 training images is 0\.4 epochs\. Raise it\."):
        length({"images": 20_000})
