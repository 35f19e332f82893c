"""Random numbers that are a function of (seed, epoch, image, draw), so that nothing else can change them.

A generator with a state hands out numbers in the order of asking: another batch size, another number of workers or an
interruption changes them all. Here a number is *computed* from what it is for, with SplitMix64's finaliser (Steele, Lea
and Flood, "Fast splittable pseudorandom number generators", 2014) as the hash: integers modulo 2^64, hence the
same bits on every device.

Letters: B images in the batch, D draws for each.
"""

import math
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15  # SplitMix64's increment, 2^64 / golden ratio
_MULTIPLIERS = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)


class Stream(IntEnum):
    """What a draw is for. Two purposes never share a number: an image shifted far must not be flipped more often."""

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
    RAND_AUGMENT = 12


def _signed(value: int) -> int:
    """Return the int64 that has the same 64 bits."""
    return value - (1 << 64) if value >> 63 else value


def _mix(x: int) -> int:
    """SplitMix64's finaliser on one unsigned integer."""
    x = ((x ^ (x >> 30)) * _MULTIPLIERS[0]) & _MASK
    x = ((x ^ (x >> 27)) * _MULTIPLIERS[1]) & _MASK
    return x ^ (x >> 31)


def _shift_right(x: Tensor, bits: int) -> Tensor:
    """Shift zeros in from the left; `>>` on int64 would copy the sign bit."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _mix_tensor(x: Int64[Tensor, "*shape"]) -> Int64[Tensor, "*shape"]:
    """SplitMix64's finaliser on int64, whose product wraps around like that of uint64."""
    x = (x ^ _shift_right(x, 30)) * _signed(_MULTIPLIERS[0])
    x = (x ^ _shift_right(x, 27)) * _signed(_MULTIPLIERS[1])
    return x ^ _shift_right(x, 31)


def host_seed(*parts: int) -> int:
    """Hash integers into one of 63 bits: a seed for generators on the host."""
    state = 0
    for part in parts:
        state = _mix((state + _GOLDEN + (part & _MASK)) & _MASK)
    return state >> 1


def _bits(seed: int, epoch: int, stream: Stream, indices: Int64[Tensor, "B"], draws: int) -> Int64[Tensor, "B D"]:
    key = host_seed(seed, epoch, stream)
    state = _mix_tensor(indices * _signed(_GOLDEN) + key)[:, None]  # (B, 1)
    counter = torch.arange(1, draws + 1, device=indices.device)  # (D,)
    return _mix_tensor(state + counter * _signed(_GOLDEN))  # (B, D): SplitMix64 started at `state`


@dataclass(frozen=True)
class Draws:
    """The random numbers of one batch; `indices` (B,) live on the device that the numbers are needed on.

    `host_indices` are the same in host memory, where they came from: to bring them back would wait for the device.
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
        return _shift_right(_bits(self.seed, self.epoch, stream, self.indices, draws), 40).float() * 2.0**-24

    def normal(self, stream: Stream, draws: int) -> Float[Tensor, "B D"]:
        """Draw from N(0, 1) by Box and Muller; devices agree to the rounding of the logarithm, not to the bit."""
        half = (draws + 1) // 2
        u, v = self.uniform(stream, 2 * half).split(half, dim=1)
        radius = (-2 * torch.log1p(-u)).sqrt()  # 1 - u is never 0
        angle = 2 * math.pi * v
        return torch.cat([radius * angle.cos(), radius * angle.sin()], dim=1)[:, :draws]


def permutation(size: int, seed: int, epoch: int, stream: Stream = Stream.ORDER) -> np.ndarray:
    """Return an order of `size` images by (seed, epoch), the same with every version of every library."""
    bits = _bits(seed, epoch, stream, torch.arange(size), 1)[:, 0]
    return np.argsort(bits.numpy(), kind="stable")
