"""`metrics.csv` in the run directory, written whatever other loggers there are."""

import csv
import io
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from vitlab import log
from vitlab.atomic_files import write_text
from vitlab.runs.lock import check_held


def as_written(value: Any) -> float:
    """Return a metric as it reads in the file."""
    return float(f"{value:.8g}")


class MetricsFile(Logger):
    """A CSV file with a row for each logged event: `step`, `epoch`, then a column for each metric.

    Rows are appended at once, so that a killed run keeps what it logged. The first value of a metric adds a column, for
    which the file is rewritten.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.columns: list[str] = []
        self._unwritten: list[dict[str, Any]] = []

    @property
    def name(self) -> str:
        return "metrics"

    @property
    def version(self) -> str:
        return ""

    @property
    def save_dir(self) -> str:
        return str(self.path.parent)

    @rank_zero_only
    def keep_until(self, step: int, epochs: int = 0) -> list[int]:
        """Remove the rows that a run continuing after `step` steps writes again; the first step is 0.

        Returns:
            which of the completed `epochs`, the first of which is 1, have no row.
        """
        rows = [row for row in self._read() if int(row["step"]) < step]
        self.columns = list(rows[0]) if rows else []
        if rows:
            self._rewrite(rows)
        else:
            self.path.unlink(missing_ok=True)
        there = {row["epoch"] for row in rows}
        return [epoch + 1 for epoch in range(epochs) if str(epoch) not in there]

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        check_held(self.path.parent)
        row: dict[str, Any] = {"step": step or 0, **{k: f"{v:.8g}" for k, v in metrics.items() if k != "epoch"}}
        row["epoch"] = int(metrics.get("epoch", 0))
        keys = ("step", "epoch", *sorted(row), *(key for each in self._unwritten for key in each))
        new = [key for key in keys if key not in self.columns]
        has_rows = bool(self.columns)
        self.columns += dict.fromkeys(new)
        try:
            if new or self._unwritten:
                rows = self._read() if has_rows else []
                self._rewrite([*rows, *self._unwritten])
                self._unwritten = []
            with self.path.open("a", newline="", encoding="utf-8") as file:
                csv.DictWriter(file, self.columns).writerow(row)
        except OSError as error:  # as of a checkpoint: a full disk stops no training
            if not self._unwritten:
                log.warning("%s could not be written (%s); tried again after the next epoch.", self.path, error)
            self._unwritten.append(row)

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Do nothing: they are in config.yaml."""

    def _read(self) -> list[dict[str, str]]:
        if not self.path.is_file():
            return []
        try:
            with self.path.open(newline="", encoding="utf-8") as file:
                # A process killed while appending leaves a last line without its end.
                return [
                    row
                    for row in csv.DictReader(file)
                    if (row.get("step") or "").isdigit() and None not in row.values()
                ]
        except (UnicodeDecodeError, csv.Error) as error:
            raise ValueError(
                f"{self.path} is damaged ({error}). Remove it, and give the same command again: the run continues, "
                "and its curves begin here."
            ) from None

    def _rewrite(self, rows: list[dict[str, str]]) -> None:
        table = io.StringIO(newline="")
        writer = csv.DictWriter(table, self.columns)
        writer.writeheader()
        writer.writerows(rows)
        write_text(self.path, table.getvalue())
