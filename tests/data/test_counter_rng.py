"""The random numbers: the published hash, uniform, independent, and functions of nothing but their arguments."""

import numpy as np
import pytest
import torch
from scipy import stats

from vitlab.data.counter_rng import (
    _GOLDEN,
    Draws,
    Stream,
    _bits,
    _mix,
    _mix_tensor,
    _shift_right,
    _signed,
    _states,
    host_seed,
    permutation,
)


def test_hash_is_splitmix64() -> None:
    # The first outputs of SplitMix64 seeded with 1234567, as listed with its reference implementation in C.
    outputs = [_mix((1234567 + i * _GOLDEN) % 2**64) for i in range(1, 6)]
    assert outputs == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]


def test_tensor_hash_equals_integer_hash() -> None:
    # int64 wraps around as uint64 does; the two implementations share only the constants.
    values = [0, 1, 2**31, 2**63 - 1, 2**63, 2**64 - 1, 0xDEADBEEFCAFEBABE]
    tensor = torch.tensor([_signed(value) for value in values])
    assert _mix_tensor(tensor).tolist() == [_signed(_mix(value)) for value in values]


def test_draws_on_the_host_are_those_of_a_device() -> None:
    # By NumPy there, by torch's integers on a device; indices of every size, negative ones too.
    indices = torch.tensor([0, 1, 2**40, 2**63 - 1, -1, -(2**63)])
    states = _states(3, 2, Stream.FLIP, indices)
    expected = _shift_right(_bits(states[:, None], torch.arange(50)), 40).float() * 2.0**-24
    assert torch.equal(Draws(3, 2, indices).uniform(Stream.FLIP, 50), expected)


def test_draws_are_uniform() -> None:
    # 100,000 numbers against U[0, 1): Kolmogorov and Smirnov's test on the values, chi squared on the last bits.
    values = Draws(0, 0, torch.arange(10_000)).uniform(Stream.SHIFT, 10).flatten().double().numpy()
    assert values.min() >= 0
    assert values.max() < 1
    assert stats.kstest(values, "uniform").pvalue > 0.001
    low_bits = (values * 2**24).astype(int) % 64
    assert stats.chisquare(np.bincount(low_bits, minlength=64)).pvalue > 0.001


@pytest.mark.parametrize("other", ["seed", "epoch", "image", "stream", "draw"])
def test_draws_of_different_purposes_are_independent(other: str) -> None:
    # Neighboring values of each argument: pairs must fill a 16 x 16 table evenly (chi squared).
    images = torch.arange(50_000)
    first = Draws(3, 7, images).uniform(Stream.SHIFT, 2)
    second = {
        "seed": Draws(4, 7, images).uniform(Stream.SHIFT, 2)[:, 0],
        "epoch": Draws(3, 8, images).uniform(Stream.SHIFT, 2)[:, 0],
        "image": Draws(3, 7, images + 1).uniform(Stream.SHIFT, 2)[:, 0],
        "stream": Draws(3, 7, images).uniform(Stream.FLIP, 2)[:, 0],
        "draw": first[:, 1],
    }[other]
    cells = (first[:, 0] * 16).long() * 16 + (second * 16).long()
    assert stats.chisquare(torch.bincount(cells, minlength=256).numpy()).pvalue > 0.001


def test_seed_and_epoch_are_not_interchangeable() -> None:
    # A sum of the two would give seed 0 in epoch 1 the order of seed 1 in epoch 0.
    assert host_seed(0, 1) != host_seed(1, 0)
    assert not np.array_equal(permutation(100, 0, 1), permutation(100, 1, 0))


def test_draws_do_not_depend_on_the_batch() -> None:
    together = Draws(1, 2, torch.arange(20)).uniform(Stream.CROP, 5)
    apart = Draws(1, 2, torch.tensor([13, 4])).uniform(Stream.CROP, 3)
    assert torch.equal(apart, together[[13, 4], :3])


def test_noise_is_normal() -> None:
    values = Draws(0, 0, torch.arange(1000)).normal(Stream.ERASE_NOISE, 101).flatten().double().numpy()
    assert stats.kstest(values, "norm").pvalue > 0.001


def test_noise_of_some_places_is_normal_and_their_own() -> None:
    # A place's numbers do not depend on what else is asked for; 2^16 quantiles are too many for the test to tell.
    draws = Draws(3, 1, torch.arange(50, 1050))
    rows, places = torch.arange(1000).repeat_interleave(25), torch.arange(25).repeat(1000)
    everything = draws.normal_at(Stream.ERASE_NOISE, rows, places, 4)
    assert stats.kstest(everything.flatten().double().numpy(), "norm").pvalue > 0.001
    assert everything.std().item() == pytest.approx(1, abs=0.01)
    between = np.corrcoef(np.concatenate([everything[:-1].T, everything[1:].T]))  # of a place and its neighbor
    assert np.abs(between - np.eye(8)).max() < 4 / len(rows) ** 0.5
    some = torch.tensor([0, 24, 25, 24_999])
    assert torch.equal(draws.normal_at(Stream.ERASE_NOISE, rows[some], places[some], 3), everything[some, :3])
    six = draws.normal_at(Stream.ERASE_NOISE, rows, places, 6)
    assert stats.kstest(six[:, 4:].flatten().double().numpy(), "norm").pvalue > 0.001
    assert np.abs(np.corrcoef(six.T) - np.eye(6)).max() < 4 / len(rows) ** 0.5


def test_permutation_is_one_and_stays() -> None:
    order = permutation(1000, seed=1, epoch=2)
    assert sorted(order) == list(range(1000))
    assert not np.array_equal(order, permutation(1000, seed=1, epoch=3))
    # Written down when first run: another order would make no finished run repeatable.
    assert permutation(8, seed=1, epoch=2).tolist() == [1, 0, 2, 6, 4, 3, 5, 7]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_draws_are_equal_to_the_bit_on_the_gpu() -> None:
    images = torch.arange(5000)
    expected = Draws(1, 2, images).uniform(Stream.CROP, 7)
    assert torch.equal(Draws(1, 2, images.cuda()).uniform(Stream.CROP, 7).cpu(), expected)
