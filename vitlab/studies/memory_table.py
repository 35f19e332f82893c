"""Batch size against peak memory, with and without checkpointed activations; and the largest batch that fits.

Checkpointing (Chen et al. 2016, https://arxiv.org/abs/1604.06174) holds what goes into each block alone and computes
the rest again in the backward pass: about a third more arithmetic for memory that hardly grows with depth.
"""

import csv
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

from vitlab.atomic_files import write_text
from vitlab.commands.training_memory import Trial

GIB = 2**30
UNITS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30}
STEPS = (4, 5, 6, 7)  # a power of two and what lies between it and the next, in quarters of it
OUT_OF_MEMORY = "out of memory"


@dataclass(frozen=True)
class Row:
    """One size of batch, without checkpointing and with; None where memory ran out."""

    batch_size: int
    plain: Trial | None
    checkpointed: Trial | None


def parse_bytes(text: str) -> int:
    """Return the bytes of "8GiB", "500 MB" or "1e9".

    Raises:
        ValueError: none of these.
    """
    found = re.fullmatch(r"([\d.]+(?:e\d+)?)\s*([kMG]i?|)B?", text.strip())
    try:
        size = int(float(found[1]) * UNITS[found[2]]) if found else 0
    except (KeyError, ValueError):
        size = 0
    if size < 1:
        raise ValueError(f"--memory {text} is no amount of memory; write it like 8GiB, 500MiB or 24GB.")
    return size


def markdown(rows: Sequence[Row], header: str) -> str:
    """Return the table under a line that says what was measured, and where."""
    lines = [
        header,
        "",
        "| batch | peak, GiB | checkpointed, GiB | of plain | time per image, of plain |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        memory = time = ""
        if row.plain and row.checkpointed:
            memory = f"**{row.checkpointed.peak_bytes / row.plain.peak_bytes:.2f}**"
            time = f"{row.checkpointed.seconds_per_image / row.plain.seconds_per_image:.2f}"
        lines.append(f"| {row.batch_size} | {_gib(row.plain)} | {_gib(row.checkpointed)} | {memory} | {time} |")
    return "\n".join(lines) + "\n"


def _gib(trial: Trial | None) -> str:
    return f"{trial.peak_bytes / GIB:.2f}" if trial else OUT_OF_MEMORY


def write_table(rows: Sequence[Row], header: str, folder: Path) -> None:
    """Write memory.csv, a line for each trial, and memory.md."""
    out = StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["batch_size", "grad_checkpointing", "peak_bytes", "process_bytes", "seconds_per_image"])
    for row in rows:
        for checkpointing, trial in ((False, row.plain), (True, row.checkpointed)):
            values = (trial.peak_bytes, trial.process_bytes, trial.seconds_per_image) if trial else ("", "", "")
            writer.writerow([row.batch_size, checkpointing, *values])
    write_text(folder / "memory.csv", out.getvalue())
    write_text(folder / "memory.md", markdown(rows, header))


def candidates(least: int, most: int, global_batch: int) -> list[int]:
    """Return the sizes worth a trial, ascending: 4, 5, 6 or 7 times a power of two, and the global batch's divisors."""
    sizes = {step * 2**power // 4 for power in range(most.bit_length() + 1) for step in STEPS}
    sizes |= {size for size in range(1, global_batch + 1) if global_batch % size == 0}
    return sorted(size for size in sizes if least <= size <= most)


def largest(sizes: Sequence[int], fits: Callable[[int], bool]) -> int | None:
    """Return the largest of ascending sizes that fits, by doubling, then bisection; None where the first does not."""
    low, high = -1, 0  # the last place that fits, and the next to be tried
    while high < len(sizes) and fits(sizes[high]):
        low, doubled = high, 2 * sizes[high]
        high = next((place for place, size in enumerate(sizes) if size >= doubled), len(sizes))
        if high == len(sizes) and low < high - 1:
            high -= 1  # nothing is twice as large: the last
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(sizes[middle]) else (low, middle)
    return sizes[low] if low >= 0 else None


def same_global_batch(global_batch: int, least: int, most: int) -> tuple[int, int] | None:
    """Return the largest batch from `least` to `most` and how many to accumulate, whose product is the global batch."""
    fitting = [size for size in range(least, min(most, global_batch) + 1) if global_batch % size == 0]
    return (fitting[-1], global_batch // fitting[-1]) if fitting else None
