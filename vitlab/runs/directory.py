"""A run directory: the names of its files, and the one reader of them.

    config.yaml           the complete configuration, from before the first step
    environment.json      versions, device and command; next to config.yaml only where a run wrote both
    data.json             the classes, and a digest of each split
    metrics.csv           a row for each logged event
    checkpoints/          last.ckpt, previous.ckpt while it trains, best.ckpt
    predictions.parquet   the logits of the test images
    values.parquet        other metrics by test image, where a run has some
    robustness.csv        accuracy on corrupted test images, of the command `robustness`
    summary.json          times and metrics; there exactly when the run is finished

Neither torch nor NumPy is imported before a checkpoint, the metrics or the predictions are asked for.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitlab import log
from vitlab.atomic_files import flaw, read_json, regular
from vitlab.config import Config, expanded, load_yaml, locate
from vitlab.runs.lock import Busy, check_idle

if TYPE_CHECKING:
    import pandas as pd

    from vitlab.evaluation.predictions import Predictions

CONFIG, ENVIRONMENT, DATA = "config.yaml", "environment.json", "data.json"
METRICS, PREDICTIONS, VALUES, SUMMARY = "metrics.csv", "predictions.parquet", "values.parquet", "summary.json"
ROBUSTNESS = "robustness.csv"


@dataclass(frozen=True)
class RunDirectory:
    """The files of a run, each read when first asked for; take a new object where a run may have gone on."""

    path: Path

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def last_checkpoint(self) -> Path:
        """The newest state; of a finished run, the one that its results are of."""
        return self.checkpoints / "last.ckpt"

    @property
    def previous_checkpoint(self) -> Path:
        return self.checkpoints / "previous.ckpt"

    @cached_property
    def config(self) -> Config:
        return load_yaml(self.path / CONFIG)

    @cached_property
    def environment(self) -> dict[str, Any]:
        """Empty where it was removed."""
        return read_json(self.path / ENVIRONMENT, missing={})

    @cached_property
    def data(self) -> dict[str, Any]:
        """Empty where it was removed."""
        remedy = "Remove it, if the images are those that the run began with, and give the same command again."
        return read_json(self.path / DATA, remedy, missing={})

    @cached_property
    def history(self) -> pd.DataFrame:
        """A row for each logged event, with `step` and `epoch`."""
        import pandas as pd

        file = regular(self.path / METRICS)
        try:
            return pd.read_csv(file)
        except ValueError as error:  # of UTF-8 or of CSV
            raise ValueError(f"{file} is damaged ({error}). --run.overwrite true trains the run again.") from None

    @cached_property
    def predictions(self) -> Predictions:
        from vitlab.evaluation.predictions import read_predictions

        return read_predictions(self.path / PREDICTIONS)

    @cached_property
    def values(self) -> pd.DataFrame:
        """Metrics by test image (rows); empty where there are none."""
        from vitlab.evaluation.predictions import read_values

        return read_values(self.path / VALUES)

    @cached_property
    def summary(self) -> dict[str, Any]:
        return read_json(self.path / SUMMARY)

    @property
    def metrics(self) -> dict[str, float]:
        """The results, by names like `test/top1`."""
        return dict(self.summary.get("metrics", {}))

    # ---- how far

    @property
    def is_run(self) -> bool:
        """Whether a run wrote into this folder."""
        return (self.path / CONFIG).is_file() and (self.path / ENVIRONMENT).is_file()

    @property
    def is_finished(self) -> bool:
        return (self.path / SUMMARY).is_file()

    @property
    def shortfalls(self) -> list[str]:
        """Why it has no valid result; empty for a complete run."""
        return list(self.summary.get("partial") or []) if self.is_finished else ["not finished"]

    @property
    def writer(self) -> str | None:
        """The process that is writing to it, in a sentence without its stop; None where none is."""
        try:
            check_idle(self.path)
        except Busy as busy:
            return str(busy).partition("\n")[0].removesuffix(".")
        return None

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.st_size for file in self.files())

    def files(self) -> Iterator[os.stat_result]:
        """Yield the status of each file, at any depth."""
        for folder, _, names in os.walk(self.path):
            for name in names:
                with suppress(FileNotFoundError):  # renamed or removed meanwhile, as a run's unfinished files are
                    yield Path(folder, name).lstat()

    def whole_checkpoint(self) -> tuple[Path | None, dict[Path, str]]:
        """Return the newest state that is not damaged, and what is wrong with those passed over."""
        flaws: dict[Path, str] = {}
        for path in filter(Path.is_file, (self.last_checkpoint, self.previous_checkpoint)):
            if (wrong := flaw(path)) is None:
                return path, flaws
            flaws[path] = wrong
        return None, flaws

    def newest_checkpoint(self) -> Path | None:
        """Return the newest state that is not damaged, or None if there is none yet; log the damaged ones."""
        newest, flaws = self.whole_checkpoint()
        for path, wrong in flaws.items():
            log.warning("%s is damaged (%s) and is skipped.", path, wrong)
        if newest is None and flaws:
            raise ValueError(f"{self.checkpoints} has no whole checkpoint.\n--run.overwrite true begins the run again.")
        return newest


def run_directories(root: Path) -> Iterator[Path]:
    """Yield the run directories at and below a folder; hidden folders and links are passed over."""
    if RunDirectory(root).is_run:
        yield root
        return
    with os.scandir(root) as entries:
        folders = [each.name for each in entries if each.is_dir(follow_symlinks=False) and each.name[0] != "."]
    for name in folders:
        yield from run_directories(root / name)


def config_file(path: str | Path) -> Path:
    """Return the configuration that `--config` means: a YAML file, or that of a run directory."""
    path = Path(expanded(path))
    if not locate(path).is_dir():
        return path
    if (path / CONFIG).is_file():
        return path / CONFIG
    runs = sorted(str(file.parent) for depth in ("*", "*/*") for file in path.glob(f"{depth}/{ENVIRONMENT}"))
    more = f" and {len(runs) - 4} more" if len(runs) > 4 else ""
    below = f"Runs below it: {', '.join(runs[:4])}{more}." if runs else "Give a YAML file or a run directory."
    raise FileNotFoundError(f"{path} is not a run directory: it has no {CONFIG}. {below}")


def run_of(files: Sequence[Path]) -> Path | None:
    """Return the directory of the run whose own configuration is among these files; the last such."""
    runs = [file.parent for file in files if file.name == CONFIG and RunDirectory(file.parent).is_run]
    return runs[-1] if runs else None
