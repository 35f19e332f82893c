"""The order of images, and how processes share it."""

import itertools

import numpy as np
import pytest

from vitlab.data.counter_rng import permutation
from vitlab.data.sampler import EvalSampler, EvenBatchSampler, TrainSampler, check_batches, check_evaluation


def _keys(sampler: TrainSampler) -> list[int]:
    return [key.image for key in sampler]


def test_every_image_once_an_epoch_in_another_order() -> None:
    sampler = TrainSampler(50, seed=0)
    first = _keys(sampler)
    sampler.set_epoch(1)
    second = _keys(sampler)
    assert sorted(first) == sorted(second) == list(range(50))
    assert first != second


@pytest.mark.parametrize(("batch_size", "world_size", "accumulate"), [(8, 1, 3), (4, 2, 3), (2, 4, 3), (3, 2, 4)])
@pytest.mark.parametrize(("repeats", "balance"), [(1, 0.0), (3, 0.0), (1, 1.0), (3, 0.5)])
def test_a_step_has_the_same_images_however_it_is_factored(
    batch_size: int, world_size: int, accumulate: int, repeats: int, balance: float
) -> None:
    # 24 images a step: of 83 images, three steps of one process without accumulation.
    shared: dict = {"repeats": repeats, "balance": balance, "classes": np.repeat([0, 1], [80, 3])}
    whole = _keys(TrainSampler(83, seed=5, batch_size=24, **shared))
    assert len(set(whole)) == 72  # none is drawn for twice
    shared |= {"world_size": world_size, "batch_size": batch_size, "accumulate": accumulate}
    samplers = [TrainSampler(83, seed=5, rank=rank, **shared) for rank in range(world_size)]
    step = batch_size * accumulate
    for first in range(0, 72, 24):
        begin = first // world_size
        together = [index for sampler in samplers for index in _keys(sampler)[begin : begin + step]]
        assert sorted(together) == sorted(whole[first : first + 24])
    assert {len(sampler) for sampler in samplers} == {72 // world_size}


@pytest.mark.parametrize(("balance", "shares"), [(0.5, [20, 10, 5]), (1.0, [1, 1, 1]), (0.0, [400, 100, 25])])
def test_each_epoch_has_the_shares_of_kang_et_al(balance: float, shares: list[int]) -> None:
    """Of q = 1 − balance: n^q of the images, to within one; those of a class equally often, or once more."""
    classes = np.random.default_rng(0).permutation(np.repeat([0, 1, 2], [400, 100, 25]))
    sampler, seen = TrainSampler(525, seed=3, balance=balance, classes=classes), np.zeros(525)
    for epoch in range(40):
        sampler.set_epoch(epoch)
        times = np.bincount(np.array(_keys(sampler)) % 525, minlength=525)
        for k, share in enumerate(shares):
            assert abs(times[classes == k].sum() - 525 * share / sum(shares)) < 1
            assert np.ptp(times[classes == k]) <= 1
        seen += times
    assert seen.min() > 0
    assert [seen[classes == k].sum() for k in range(3)] == pytest.approx(21_000 * np.array(shares) / sum(shares), abs=9)


@pytest.mark.parametrize("world_size", [2, 3, 4])
def test_the_processes_batches_mirror_each_in_itself(world_size: int) -> None:
    # Mixup blends image i with the i-th from the end: both must be of one process, and λ the same in all.
    whole = _keys(TrainSampler(96, seed=5, batch_size=6 * world_size))[: 6 * world_size]
    partner = dict(zip(whole, whole[::-1], strict=True))
    for rank in range(world_size):
        sampler = TrainSampler(96, seed=5, rank=rank, world_size=world_size, batch_size=6)
        own = _keys(sampler)[:6]
        assert [partner[index] for index in own] == own[::-1]
        assert next(iter(sampler)).first == whole[0]


@pytest.mark.parametrize(("size", "world_size"), [(256, 4), (512, 1), (1024, 8)])
def test_repeats_are_those_of_deits_sampler(size: int, world_size: int) -> None:
    # samplers.py:39-60 of facebookresearch/deit: all images three times in a row, every world_size-th to a process,
    # and of those the first floor(size // 256 · 256 / world_size); 256 and its multiples lose nothing to the rounding.
    # Ours are dealt out there and back, which leaves each global batch what it is.
    three = [image for image in permutation(size, 5, 0).tolist() for _ in range(3)]
    shares = [_keys(TrainSampler(size, 5, rank, world_size, repeats=3, batch_size=16)) for rank in range(world_size)]
    theirs = [three[rank::world_size][: size // world_size] for rank in range(world_size)]
    for first in range(0, size // world_size, 16):
        ours = [key % size for share in shares for key in share[first : first + 16]]
        assert sorted(ours) == sorted(image for share in theirs for image in share[first : first + 16])


def test_images_that_do_not_fill_a_step_are_refused() -> None:
    check_batches(range(16), batch_size=4, world_size=2, accumulate=2)
    with pytest.raises(
        ValueError, match=r"(?s)batch_size 4, 2 times a step, .* 15 images on 2 processes.*to 3 or less"
    ):
        check_batches(range(15), batch_size=4, world_size=2, accumulate=2)
    with pytest.raises(ValueError, match=r"lower trainer\.accumulate_grad_batches"):
        check_batches(range(3), batch_size=4, world_size=2, accumulate=2)


def test_an_interrupted_epoch_goes_on_where_it_stopped_and_only_once() -> None:
    sampler = TrainSampler(20, seed=0)
    whole = _keys(sampler)
    sampler.start = 8
    assert len(sampler) == 20  # Lightning counts the batches of a whole epoch
    assert _keys(sampler) == whole[8:]
    assert _keys(sampler) == whole


@pytest.mark.parametrize(
    ("size", "world_size"), [(10, 1), (10, 2), (11, 2), (9, 2), (599, 4), (7, 3), (8, 3), (10_001, 2)]
)
def test_evaluation_sees_every_image_exactly_once(size: int, world_size: int) -> None:
    # Lightning's own sampler pads: with 11 images on 2 processes it counts one of them twice.
    batches = [list(EvenBatchSampler(EvalSampler(size, rank, world_size), 4)) for rank in range(world_size)]
    seen = sorted(index for share in batches for batch in share for _, index, _ in batch)
    assert seen == list(range(size))
    assert max(len(batch) for share in batches for batch in share) <= 4


@pytest.mark.parametrize("world_size", [2, 3, 4])
def test_processes_evaluate_equally_many_batches(world_size: int) -> None:
    # DDP broadcasts buffers in each forward pass: with a batch more on one process the calls would not match.
    for size, batch_size in itertools.product(range(1, 40), (1, 2, 4)):
        samplers = [EvenBatchSampler(EvalSampler(size, rank, world_size), batch_size) for rank in range(world_size)]
        counts = {len(list(sampler)) for sampler in samplers} | {len(sampler) for sampler in samplers}
        assert len(counts) == 1 or size < world_size or batch_size == 1, size
        for limit in (1.0, max(counts)):
            try:
                check_evaluation("val", samplers[0], limit)
            except ValueError:
                assert len(counts) > 1, size
            else:
                assert len(counts) == 1, size
        check_evaluation("val", samplers[0], min(counts))
