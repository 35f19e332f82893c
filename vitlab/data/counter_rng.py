"""Random numbers that are a function of (seed, epoch, image, draw), so that nothing else can change them.

The numbers of a stateful generator depend on the order of the calls: on batch size, number of workers, interruptions.
Here a number is *computed* from its purpose by SplitMix64's finalizer (Steele, Lea and Flood, "Fast splittable
pseudorandom number generators", 2014) as the hash: integers modulo 2^64, hence the same bits on every device.

Letters: B images in the batch, D draws for each.
"""

import math
from dataclasses import dataclass
from enum import IntEnum
from functools import cache
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64, Shaped
from torch import Tensor

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15  # SplitMix64's increment, 2^64 / golden ratio
_MULTIPLIERS = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)


class Stream(IntEnum):
    """The purpose of a draw. Purposes share no numbers: an image shifted far must not be flipped more often."""

    ORDER = 0
    SHIFT = 1
    FLIP = 2
    CROP = 3
    ERASE = 4
    ERASE_NOISE = 5
    MIXUP = 6
    SPLIT = 7
    PHOTO = 8
    VIEW = 9
    NOISE = 10
    OCCLUSION = 11
    PLACE = 12
    SUBSET = 13
    SHAPE = 14
    SHAPE_NOISE = 15
    SIZE = 16
    BLOCK = 18
    BALANCE = 19


def _signed(value: int) -> int:
    """Return the int64 that has the same 64 bits."""
    return value - (1 << 64) if value >> 63 else value


def _mix(x: Any) -> Any:
    """SplitMix64's finalizer on one unsigned integer, or an array of uint64."""
    x = ((x ^ (x >> 30)) * _MULTIPLIERS[0]) & _MASK
    x = ((x ^ (x >> 27)) * _MULTIPLIERS[1]) & _MASK
    return x ^ (x >> 31)


def _shift_right(x: Int64[Tensor, "*shape"], bits: int) -> Int64[Tensor, "*shape"]:
    """Shift zeros in from the left; `>>` on int64 would copy the sign bit."""
    return (x >> bits).bitwise_and_((1 << (64 - bits)) - 1)


def _mix_tensor(x: Int64[Tensor, "*shape"]) -> Int64[Tensor, "*shape"]:
    """SplitMix64's finalizer on int64, whose product wraps around like that of uint64."""
    x = _shift_right(x, 30).bitwise_xor_(x).mul_(_signed(_MULTIPLIERS[0]))
    x = _shift_right(x, 27).bitwise_xor_(x).mul_(_signed(_MULTIPLIERS[1]))
    return _shift_right(x, 31).bitwise_xor_(x)


def host_seed(*parts: int) -> int:
    """Hash integers into one of 63 bits: a seed for generators on the host."""
    state = 0
    for part in parts:
        state = _mix((state + _GOLDEN + (part & _MASK)) & _MASK)
    return state >> 1


def _states(seed: int, epoch: int, stream: Stream, indices: Int64[Tensor, "B"]) -> Int64[Tensor, "B"]:
    return _mix_tensor(indices * _signed(_GOLDEN) + host_seed(seed, epoch, stream))


def _bits(states: Int64[Tensor, "..."], draw: Int64[Tensor, "..."]) -> Int64[Tensor, "..."]:
    """Return the n-th number of SplitMix64 started at each state; the two broadcast, and n counts from 0."""
    return _mix_tensor(states + (draw + 1) * _signed(_GOLDEN))


@dataclass(frozen=True)
class Draws:
    """The random numbers of one batch, on the device of `indices` (B,).

    `host_indices` are the same in host memory: copying them back would wait for the device.
    """

    seed: int
    epoch: int
    indices: Int64[Tensor, "B"]
    host_indices: Int64[np.ndarray, "B"] | None = None

    @property
    def on_host(self) -> "Draws":
        """The same numbers in host memory; waits for a GPU if `host_indices` were not given."""
        known = self.host_indices
        return Draws(self.seed, self.epoch, self.indices.cpu() if known is None else torch.from_numpy(known))

    def uniform(self, stream: Stream, draws: int) -> Float[Tensor, "B D"]:
        """Draw from U[0, 1): multiples of 2^-24, each exact in float32."""
        if self.indices.device.type == "cpu":  # by NumPy, which takes a third of torch's time for so few numbers
            start = _mix(self.indices.numpy().view(np.uint64) * _GOLDEN + host_seed(self.seed, self.epoch, stream))
            numbers = _mix(start[:, None] + np.arange(1, draws + 1, dtype=np.uint64) * _GOLDEN)
            return torch.from_numpy((numbers >> 40).astype(np.float32) * np.float32(2.0**-24))
        states = _states(self.seed, self.epoch, stream, self.indices)
        bits = _bits(states[:, None], torch.arange(draws, device=states.device))
        return _shift_right(bits, 40).float() * 2.0**-24

    def normal(self, stream: Stream, draws: int) -> Float[Tensor, "B D"]:
        """Draw from N(0, 1) by Box and Muller; devices agree to the rounding of the logarithm, not to the bit."""
        half = (draws + 1) // 2
        u, v = self.uniform(stream, 2 * half).split(half, dim=1)
        radius = (-2 * torch.log1p(-u)).sqrt()  # 1 - u is never 0
        angle = 2 * math.pi * v
        return torch.cat([radius * angle.cos(), radius * angle.sin()], dim=1)[:, :draws]

    def normal_at(
        self, stream: Stream, rows: Int64[Tensor, "N"], places: Int64[Tensor, "N"], count: int
    ) -> Float[Tensor, "N K"]:
        """Draw some numbers from N(0, 1) for each of some places of some rows.

        Each is a quantile, looked up by 16 bits of a hash; one hash serves four. The bits are the same on every device.
        `normal` returns other numbers.
        """
        states = _states(self.seed, self.epoch, stream, self.indices).index_select(0, rows)
        hashes = -(-count // 4)
        bits = _bits(states[:, None], hashes * places[:, None] + torch.arange(hashes, device=places.device))
        quantiles = (bits[..., None] >> 16 * torch.arange(4, device=places.device)).bitwise_and_(0xFFFF).flatten(1)
        return _normal_quantiles(places.device)[quantiles[:, :count]]


@cache
def _normal_quantiles(device: torch.device) -> Float[Tensor, "65536"]:
    middles = (torch.arange(2**16, dtype=torch.double) + 0.5) / 2**16
    return to_device(torch.special.ndtri(middles).float(), device)


def to_device(tensor: Shaped[Tensor, "*shape"], device: torch.device) -> Shaped[Tensor, "*shape"]:
    """Copy from the host without waiting for a GPU, which takes pinned memory."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def permutation(size: int, seed: int, epoch: int, stream: Stream = Stream.ORDER) -> Int64[np.ndarray, "{size}"]:
    """Return an order of `size` images by (seed, epoch), the same with every version of every library."""
    bits = _bits(_states(seed, epoch, stream, torch.arange(size)), torch.zeros((), dtype=torch.long))
    return np.argsort(bits.numpy(), kind="stable")
