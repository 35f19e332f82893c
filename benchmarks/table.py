"""Results as a Markdown table under a line that names the machine and the versions."""

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

import torch

from vitlab.atomic_files import write_text
from vitlab.evaluation.cost import device_name

OUT = Path("runs/benchmark")


def machine(device: torch.device, *packages: str) -> str:
    """Return the device, the number of threads and the versions of torch and other packages."""
    versions = ", ".join(f"{package} {version(package)}" for package in ("torch", *packages))
    return f"{device_name(device)}, threads: {torch.get_num_threads()}, {versions}."


def markdown(header: str, rows: Sequence[Mapping[str, object]]) -> str:
    """Return the header and the rows, whose keys are the columns."""
    lines = [list(rows[0]), ["---"] * len(rows[0]), *([*row.values()] for row in rows)]
    return f"{header}\n\n" + "".join(f"| {' | '.join(map(str, line))} |\n" for line in lines)


def save(file: Path, *tables: str) -> None:
    """Write the tables below each other."""
    write_text(file, "\n".join(tables))
