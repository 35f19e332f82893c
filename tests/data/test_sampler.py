"""The order of images, and how processes share it."""

import pytest

from vitlab.data.draws import permutation
from vitlab.data.sampler import EvalSampler, EvenBatchSampler, TrainSampler


def _keys(sampler: TrainSampler) -> list[int]:
    return [index for _, index in sampler]


def test_epoch_travels_with_the_index() -> None:
    # Persistent workers never see `set_epoch`: the key must tell them.
    sampler = TrainSampler(10, seed=0)
    sampler.set_epoch(3)
    assert {epoch for epoch, _ in sampler} == {3}
    assert {epoch for epoch, _ in EvalSampler(10)} == {None}


def test_every_image_once_an_epoch_in_another_order() -> None:
    sampler = TrainSampler(50, seed=0)
    first = _keys(sampler)
    sampler.set_epoch(1)
    second = _keys(sampler)
    assert sorted(first) == sorted(second) == list(range(50))
    assert first != second


def test_training_images_are_the_same_for_any_number_of_processes() -> None:
    # The global batch of step t must not depend on how many processes share it: 2 x 4 images are the 8 of one process.
    whole = _keys(TrainSampler(48, seed=5))
    shares = [_keys(TrainSampler(48, seed=5, rank=rank, world_size=2)) for rank in range(2)]
    for step in range(6):
        together = {index for share in shares for index in share[4 * step : 4 * step + 4]}
        assert together == set(whole[8 * step : 8 * step + 8])


def test_processes_train_on_equally_many_images() -> None:
    shares = [_keys(TrainSampler(50, seed=0, rank=rank, world_size=3)) for rank in range(3)]
    assert [len(share) for share in shares] == [16, 16, 16]
    assert len({index for share in shares for index in share}) == 48


@pytest.mark.parametrize(("size", "world_size"), [(256, 4), (512, 1), (1024, 8)])
def test_repeats_are_those_of_deits_sampler(size: int, world_size: int) -> None:
    # samplers.py:39-60 of facebookresearch/deit: all images three times in a row, every world_size-th to a process,
    # and of those the first floor(size // 256 · 256 / world_size); 256 and its multiples lose nothing to the rounding.
    three = [image for image in permutation(size, 5, 0).tolist() for _ in range(3)]
    for rank in range(world_size):
        keys = _keys(TrainSampler(size, 5, rank, world_size, repeats=3))
        assert [key % size for key in keys] == three[rank::world_size][: size // world_size]


def test_no_repeat_is_drawn_for_twice_and_few_images_suffice() -> None:
    # DeiT's gives each process 0 images when there are fewer than 256.
    shares = [_keys(TrainSampler(12, 0, rank, 2, repeats=3)) for rank in range(2)]
    keys = [key for share in shares for key in share]
    assert len(set(keys)) == 12
    assert sorted({key % 12 for key in keys}) == sorted(permutation(12, 0, 0)[:4])


def test_an_interrupted_epoch_goes_on_where_it_stopped_and_only_once() -> None:
    sampler = TrainSampler(20, seed=0)
    whole = _keys(sampler)
    sampler.start = 8
    assert len(sampler) == 20  # Lightning counts the batches of a whole epoch
    assert _keys(sampler) == whole[8:]
    assert _keys(sampler) == whole


@pytest.mark.parametrize(("size", "world_size"), [(10, 1), (10, 2), (11, 2), (9, 2), (599, 4), (7, 3), (8, 3)])
def test_evaluation_sees_every_image_exactly_once(size: int, world_size: int) -> None:
    # Lightning's own sampler pads: with 11 images on 2 processes it counts one of them twice.
    batches = [list(EvenBatchSampler(EvalSampler(size, rank, world_size), 4)) for rank in range(world_size)]
    seen = sorted(index for share in batches for batch in share for _, index in batch)
    assert seen == list(range(size))
    assert max(len(batch) for share in batches for batch in share) <= 4


@pytest.mark.parametrize("size", range(9, 40))
@pytest.mark.parametrize("world_size", [2, 3, 4])
def test_processes_evaluate_equally_many_batches(size: int, world_size: int) -> None:
    # DDP broadcasts buffers in each forward pass: with a batch more on one process the calls would not match.
    samplers = [EvenBatchSampler(EvalSampler(size, rank, world_size), 4) for rank in range(world_size)]
    counts = {len(list(sampler)) for sampler in samplers} | {len(sampler) for sampler in samplers}
    assert len(counts) == 1
