"""What a study's budget buys each variant."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from fake_study import Digits, variant

from vitlab.config import Config, merge, nest
from vitlab.studies.file.runs import differing_keys, plan
from vitlab.studies.file.study import Budget, read_study
from vitlab.studies.training.spending import MISSED, Epoch, Length, epoch_of, length_of, spend_budget

Write = Callable[..., Path]
VARIANTS = {"A": variant(0.9), "B": variant(0.8, size=2.0)}


def measure(config: Config) -> float:
    """Let a training image of A take 1 MFLOP, of B 3."""
    return {"a": 1e6, "b": 3e6}[config["run"]["name"]]


def refuse(config: Config) -> float:
    raise AssertionError("nothing was to be measured")


@pytest.fixture
def spend(write_study: Write, digits: Digits, tmp_path: Path) -> Callable[..., dict[str, tuple]]:
    def of(
        budget: dict[str, float],
        measure: Callable = measure,
        variants: dict[str, Config] = VARIANTS,
        images: int = len(digits.labels("train")),
    ) -> dict[str, tuple]:
        study = read_study(write_study(budget=budget, variants=variants))
        runs = plan(study, tmp_path)[: len(study.variants)]
        decided = spend_budget(study, runs, lambda _: images, measure, tmp_path)
        return {
            run.variant: (run.epochs, run.config["trainer"].get("limit_train_batches"))
            for run in plan(study, tmp_path, decided)
        }

    return of


def test_equal_flops_are_fewer_epochs_for_the_dearer_variant(spend: Callable[..., dict]) -> None:
    # 900 training images, of which 28 batches of 32 are an epoch: 8,064 and 2,688 images.
    assert spend({"flops": 8.064e9}) == {"A": (9, None), "B": (3, None)}


def test_an_epoch_has_whole_optimizer_steps_on_all_devices() -> None:
    def of(**trainer: object) -> Epoch:
        return epoch_of({"data": {"init_args": {"batch_size": 64}}, "trainer": trainer}, 900)

    assert of() == of(devices="auto") == of(devices=1) == Epoch(14, 64)
    assert of(devices=2) == of(devices=[0, 1]) == Epoch(7, 128)
    assert of(devices=2, num_nodes=2, accumulate_grad_batches=2) == Epoch(2, 256, 2)
    assert of(limit_train_batches=0.5) == of(limit_train_batches=7) == Epoch(7, 64)


def test_the_warm_up_keeps_its_share_of_the_epochs(write_study: Write, digits: Digits, tmp_path: Path) -> None:
    # The base trains 3 epochs, of which 0.6 warm up; a budget of 10 makes it 2.
    warm = variant(0.9)
    warm["model"]["init_args"]["schedule"] = {"class_path": "x.Cosine", "init_args": {"warmup_epochs": 0.6}}
    study = read_study(write_study(budget={"images": 8960}, variants={"A": warm, "B": variant(0.8)}))
    decided = spend_budget(study, plan(study, tmp_path)[: len(study.variants)], lambda _: 900, refuse, tmp_path)
    chosen = plan(study, tmp_path, decided)[0].config
    assert chosen["trainer"]["max_epochs"] == 10
    assert chosen["model"]["init_args"]["schedule"]["init_args"] == {"warmup_epochs": pytest.approx(2)}

    endless = {**warm, "trainer": {"max_epochs": None}}
    study = read_study(write_study(budget={"images": 8960}, variants={"A": endless, "B": variant(0.8)}))
    with pytest.raises(ValueError, match=r"study\.yaml: budget: set trainer\.max_epochs in the base, by which "):
        spend_budget(study, plan(study, tmp_path)[: len(study.variants)], lambda _: 900, refuse, tmp_path)


@pytest.mark.parametrize(("images", "every"), [(900, 3), (90, 47), (4000, 1)])
def test_a_run_of_many_short_epochs_is_validated_as_often_as_the_base(
    write_study: Write, tmp_path: Path, images: int, every: int
) -> None:
    # The base trains 6 epochs and is validated after each second one. The budget makes 10, 140 and 2.
    base = merge(variant(0.9), {"trainer": {"max_epochs": 6, "check_val_every_n_epoch": 2}})
    study = read_study(write_study(budget={"images": 8960}, variants={"A": base, "B": variant(0.8)}))
    drafts = plan(study, tmp_path)[: len(study.variants)]
    decided = spend_budget(study, drafts, lambda _: images, refuse, tmp_path)
    chosen = plan(study, tmp_path, decided)[0].config["trainer"]
    assert chosen["check_val_every_n_epoch"] == every

    record = json.loads((tmp_path / "budget.json").read_text())
    del record["validated"]  # a study of an earlier version goes on with the interval that it has
    (tmp_path / "budget.json").write_text(json.dumps(record))
    decided = spend_budget(study, drafts, lambda _: images, refuse, tmp_path)
    assert plan(study, tmp_path, decided)[0].config["trainer"]["check_val_every_n_epoch"] == 2


def test_what_a_budget_scales_may_differ_as_far_as_the_epochs_do(write_study: Write, tmp_path: Path) -> None:
    warmup = "model.init_args.schedule.init_args.warmup_epochs"
    every = "trainer.check_val_every_n_epoch"

    def departures(longer: Config, **budget: float) -> dict[str, bool]:
        own = {
            name: merge(variant(score), {"model": {"init_args": {"schedule": {"init_args": {"warmup_epochs": 0.6}}}}})
            for name, score in (("A", 0.8), ("B", 0.9))
        }
        size = {"model": {"init_args": {"backbone": {"init_args": {"size": 3.0}}}}}  # a third of the epochs, by FLOPs
        variants = {"A": merge(own["A"], size), "B": merge(own["B"], longer)}
        study = read_study(write_study(budget=budget, variants=variants, may_differ=["model.init_args.backbone"]))
        drafts = plan(study, tmp_path)[: len(study.variants)]
        decided = spend_budget(study, drafts, lambda _: 900, measure, tmp_path)
        return {each.key: each.declared for each in differing_keys(study, plan(study, tmp_path, decided))}

    assert departures({}, flops=8.0e10) == {
        "model.init_args.backbone.init_args.accuracy": True,
        "model.init_args.backbone.init_args.size": True,
        "trainer.max_epochs": True,
        warmup: True,
        every: True,
    }
    # A variant with epochs of its own would warm up, and be validated, for another share of its training.
    found = departures({"trainer": {"max_epochs": 24}}, flops=8.0e10)
    assert not found[warmup]
    assert not found[every]

    # A frozen variant has no training whose share they could be.
    frozen = {"model": {"init_args": {"init_from": "x.pt"}}, "trainer": {"max_epochs": 0}, "run": {"probe": "knn"}}
    assert departures(frozen, flops=8.0e10)[warmup]

    # A budget in epochs scales nothing.
    study = read_study(write_study(budget={"epochs": 4}, variants={"A": variant(0.8), "B": variant(0.9)}))
    runs = [replace(run, config=merge(run.config, nest(warmup, i))) for i, run in enumerate(plan(study, tmp_path)[:2])]
    assert not {each.key: each.declared for each in differing_keys(study, runs)}[warmup]


def test_what_a_budget_buys_is_decided_once(spend: Callable[..., dict], tmp_path: Path) -> None:
    flops = {"flops": 8.064e9}
    found = spend(flops)
    assert spend(flops, refuse) == found
    for other in ({"flops": 9.0e9}, flops):
        with pytest.raises(AssertionError, match="nothing was to be measured"):
            spend(other, refuse, variants={**VARIANTS, "B": variant(0.7)})
    half = {name: merge(each, {"trainer": {"limit_train_batches": 0.5}}) for name, each in VARIANTS.items()}
    with pytest.raises(AssertionError, match="nothing was to be measured"):
        spend(flops, refuse, variants=half)  # another epoch


def test_images_that_were_added_count_until_a_run_has_begun(spend: Callable[..., dict], tmp_path: Path) -> None:
    images = {"images": 18_000}
    assert spend(images, refuse)["A"] == (20, None)  # of 900
    assert spend(images, refuse, images=1800)["A"] == (10, None)
    (tmp_path / "small-study/a/seed-2").mkdir(parents=True)  # of any seed, trial or fold
    assert spend(images, refuse, images=900)["A"] == (10, None)


def test_images_and_epochs_need_no_measurement(spend: Callable[..., dict]) -> None:
    assert spend({"images": 2688}, refuse) == spend({"epochs": 3}, refuse) == {"A": (3, None), "B": (3, None)}


def test_a_budget_that_cannot_be_spent_is_named(spend: Callable[..., dict]) -> None:
    with pytest.raises(ValueError, match=r"study\.yaml: a budget of 1e\+05 training FLOPs is 0\.00011 epochs"):
        spend({"flops": 1.0e5})


# Whole epochs and shorter ones


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
