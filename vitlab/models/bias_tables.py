"""Position biases of attention within a window: one number for each head and offset of two tokens.

A window of wh × ww = N tokens has (2wh-1)·(2ww-1) offsets. A table of them is resized where the window changes.
"""

import math

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from vitlab.models.layers import resample_grid

Size = tuple[int, int]


def relative_coords(window: Size) -> Float[Tensor, "offsets 2"]:
    """Return all offsets (rows, columns) between two tokens of a window, (2wh-1)·(2ww-1) of them, rows first."""
    rows = torch.arange(1 - window[0], window[0], dtype=torch.float32)
    columns = torch.arange(1 - window[1], window[1], dtype=torch.float32)
    return torch.stack(torch.meshgrid(rows, columns, indexing="ij"), dim=-1).flatten(0, 1)


def relative_position_index(window: Size) -> Int[Tensor, "N N"]:
    """Return which row of `relative_coords` is the offset of query i from key j."""
    rows, columns = torch.meshgrid(torch.arange(window[0]), torch.arange(window[1]), indexing="ij")
    rows, columns = rows.flatten(), columns.flatten()
    row_offset = rows[:, None] - rows[None, :] + window[0] - 1
    column_offset = columns[:, None] - columns[None, :] + window[1] - 1
    return row_offset * (2 * window[1] - 1) + column_offset


def look_up(table: Float[Tensor, "offsets h"], index: Int[Tensor, "N N"]) -> Float[Tensor, "h N N"]:
    """Return the bias of each head, query and key: `table[index]`, which takes six times as long."""
    return table.t().index_select(1, index.flatten()).unflatten(1, index.shape)


def zero_bias(num_heads: int, window: Size, device: torch.device) -> Float[Tensor, "h N N"]:
    """Return the bias of an attention that has none."""
    return torch.zeros(num_heads, math.prod(window), math.prod(window), device=device)


def new_bias_table(window: Size, num_heads: int) -> Float[Tensor, "offsets h"]:
    """Return a random bias for each offset within a window and each head."""
    return nn.init.trunc_normal_(torch.empty((2 * window[0] - 1) * (2 * window[1] - 1), num_heads), std=0.02)


def resize_bias_table(
    table: Float[Tensor, "offsets h"], window: Size, new_window: Size
) -> Float[Tensor, "new_offsets h"]:
    """Resize a bias table as an image of offsets whose channels are the heads: bicubic, as in the official code."""
    grid = table.unflatten(0, (2 * window[0] - 1, 2 * window[1] - 1))
    return resample_grid(grid, 2 * new_window[0] - 1, 2 * new_window[1] - 1, antialias=False).flatten(0, 1)


def resize_bias_table_geometrically(
    table: Float[Tensor, "offsets h"], window: Size, new_window: Size
) -> Float[Tensor, "new_offsets h"]:
    """Resize a bias table so that offsets of one token keep their biases and the largest offsets become the largest.

    The old offsets are put at 1, 1 + q, 1 + q + q², …, and a cubic spline is read at whole offsets: `utils.py` of
    SimMIM and of BEiT. Bicubic interpolation stretches all offsets alike.
    """
    from scipy.interpolate import RectBivariateSpline  # takes a second to import

    sides = zip(window, new_window, strict=True)
    rows, columns = (_geometric_places(side - 1, new_side - 1) for side, new_side in sides)
    new_rows, new_columns = (np.arange(1 - side, side) for side in new_window)
    grid = table.double().cpu().numpy().reshape(len(rows), len(columns), -1)
    kx, ky = min(3, len(rows) - 1), min(3, len(columns) - 1)
    heads = [RectBivariateSpline(rows, columns, head, kx=kx, ky=ky) for head in np.moveaxis(grid, 2, 0)]
    return torch.from_numpy(np.stack([head(new_rows, new_columns) for head in heads], axis=-1)).flatten(0, 1).to(table)


def _geometric_places(count: int, reach: int) -> Float[np.ndarray, "places"]:
    """Return 1 + q + … + q^(i-1) for offset i from 1 to `count`, mirrored and with 0; of the last this is `reach`."""
    low, high = 1.01, 1.5  # within which the released code looks for q
    while high - low > 1e-6:
        q = (low + high) / 2
        low, high = (low, q) if sum(q**i for i in range(count)) > reach else (q, high)
    places = np.cumsum(q ** np.arange(count))
    return np.concatenate([-places[::-1], [0.0], places])


def fit_bias_table(
    tensor: Tensor, table: Float[Tensor, "offsets h"], window: Size, geometric: bool = False
) -> Tensor | None:
    """Resize the bias table of a file, of a square window, to the shape of `table`; None if it is not such a table."""
    side = (math.isqrt(len(tensor)) + 1) // 2  # a window of s has (2s - 1)² offsets
    if tensor.ndim != 2 or tensor.shape[1] != table.shape[1] or (2 * side - 1) ** 2 != len(tensor):
        return None
    resize = resize_bias_table_geometrically if geometric and side > 1 else resize_bias_table
    return resize(tensor, (side, side), window)
