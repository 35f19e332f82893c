"""The loggers of a run: `metrics.csv`, which every run writes, and Weights & Biases, whose failures stop no run."""

import csv
import io
import logging
import netrc
import os
from argparse import Namespace
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import shorten
from typing import Any, Literal
from urllib.parse import urlparse

from lightning.pytorch.loggers import Logger, WandbLogger
from lightning.pytorch.loggers.logger import DummyExperiment
from lightning.pytorch.utilities import rank_zero_only

from vitlab import log
from vitlab.atomic_files import write_text
from vitlab.internals import wandb_arguments
from vitlab.runs.lock import check_held


class MetricsFile(Logger):
    """A CSV file with a row for each logged event: `step`, `epoch`, then a column for each metric.

    Rows are appended at once, so that a killed run keeps them. A new metric adds a column: the file is rewritten.
    """

    name, version = "metrics", ""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.columns: list[str] = []
        self._unwritten: list[dict[str, Any]] = []

    @property
    def save_dir(self) -> str:
        return str(self.path.parent)

    @rank_zero_only
    def keep_until(self, step: int) -> None:
        """Remove the rows from `step` on, which a run that continues there writes again."""
        rows = [row for row in self._read() if int(row["step"]) < step]
        self.columns = list(rows[0]) if rows else []
        if rows:
            self._rewrite(rows)
        else:
            self.path.unlink(missing_ok=True)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        check_held(self.path.parent)
        row: dict[str, Any] = {name: f"{value:.8g}" for name, value in metrics.items()}
        row |= {"step": step or 0, "epoch": int(metrics.get("epoch", 0))}
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
                rows = list(csv.DictReader(file))
            # A process killed while appending leaves a last line without its end.
            return [row for row in rows if (row.get("step") or "").isdigit() and None not in row.values()]
        except (UnicodeDecodeError, csv.Error) as error:
            raise ValueError(f"{self.path} is damaged ({error}). Remove it; the run continues without.") from None

    def _rewrite(self, rows: list[dict[str, str]]) -> None:
        table = io.StringIO(newline="")
        writer = csv.DictWriter(table, self.columns)
        writer.writeheader()
        writer.writerows(rows)
        write_text(self.path, table.getvalue())


# Seconds that W&B may take to open a run and to upload the rest of it at the end, unless WANDB_INIT_TIMEOUT and
# WANDB_FINISH_TIMEOUT are set. W&B's own limits are 90 seconds and none.
SECONDS_TO_OPEN, SECONDS_TO_FINISH = 20.0, 120.0


@dataclass
class Wandb:
    """Weights & Biases.

    Args:
        mode: auto: online where a key is set, offline otherwise. disabled: not even the package is imported.
        project: Name of the project.
        entity: Team or user; None for the key's own.
        group: Runs to show together; a study sets its name.
        tags: Labels of the run.
    """

    mode: Literal["auto", "online", "offline", "disabled"] = "auto"
    project: str = "vitlab"
    entity: str | None = None
    group: str | None = None
    tags: list[str] = field(default_factory=list)

    @property
    def enabled(self) -> bool:
        return self.mode != "disabled" and os.environ.get("WANDB_MODE") != "disabled"

    @property
    def offline(self) -> bool:
        if self.mode != "auto" or os.environ.get("WANDB_MODE") == "offline":
            return self.mode != "online"
        host = urlparse(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
        try:
            return not (os.environ.get("WANDB_API_KEY") or netrc.netrc().authenticators(host))
        except (OSError, netrc.NetrcParseError):
            return True


class UnbreakableWandbLogger(WandbLogger):
    """Lightning's logger, whose errors become one line of the log, after which the run continues without it.

    `start` opens the W&B run once the model and the data are set up. Its id is kept in the run directory, so that a
    continued run continues the same W&B run. Where W&B cannot be reached, or rejects the key, the run is kept offline.
    """

    def __init__(self, settings: Wandb, run_directory: Path, name: str, config: dict[str, Any]) -> None:
        arguments: dict[str, Any] = {key: value for key, value in vars(settings).items() if key != "mode"}
        # W&B forgets a run that is created anew when it ends, however it ends.
        super().__init__(name, run_directory, config=config, reinit="create_new", **arguments)
        self.settings, self.directory, self.broken = settings, run_directory, False
        self._alone = True  # no run of the user's is open

    @property
    def experiment(self) -> Any:
        """The W&B run; before `start` and after a failure, an object that does nothing."""
        return DummyExperiment() if self._experiment is None or self.broken else self._experiment

    @rank_zero_only
    def start(self) -> None:
        self._attempt(self._open)

    def _open(self) -> None:
        """Open the W&B run, offline where it cannot be opened online."""
        import wandb

        self._alone = wandb.run is None
        file, kept = self.directory / "wandb/run-id.txt", self.directory / "wandb/offline-run-*"
        run_id = file.read_text().strip() if file.is_file() else ""  # empty where the disk was full
        if not run_id:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(run_id := os.urandom(6).hex())
        wandb_arguments(self)["id"] = run_id
        if self.settings.offline:
            self._experiment = self._init("offline")
            log.info("W&B: offline; `wandb sync %s` uploads it", kept)
            return
        try:
            self._experiment = self._init("online")
            log.info("W&B: %s", self._experiment.url)
        except Exception as error:  # unreachable, a wrong key, another server's answer
            self._end_service()  # it still has the run that it could not open
            message = "W&B cannot be used (%s); the run is kept offline, `wandb sync %s` uploads it."
            log.warning(message, shorten(str(error) or repr(error), 200), kept)
            self._experiment = self._init("offline")

    def _init(self, mode: Literal["online", "offline"]) -> Any:
        import wandb

        quiet: dict[str, Any] = {"silent": True, "console": "off", "x_disable_stats": True, "disable_git": True}
        settings = wandb_arguments(self)["settings"] = wandb.Settings(
            mode=mode,
            init_timeout=float(os.environ.get("WANDB_INIT_TIMEOUT", SECONDS_TO_OPEN)),
            finish_timeout=float(os.environ.get("WANDB_FINISH_TIMEOUT", SECONDS_TO_FINISH)),
            finish_timeout_raises=True,
            **quiet,
        )
        wandb.setup(settings)  # else W&B sends its own statistics even where the run is offline
        run = wandb.init(**wandb_arguments(self))  # Lightning's would take over a run of the user's that is open
        run.define_metric("trainer/global_step")
        run.define_metric("*", step_metric="trainer/global_step", step_sync=True)
        return run

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self._attempt(lambda: WandbLogger.log_metrics(self, metrics, step))

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Do nothing: the whole configuration is passed at the start."""

    def log_picture(self, name: str, file: Path, step: int) -> None:
        self._attempt(lambda: self.log_image(name, [str(file)], step))

    @rank_zero_only
    def finish(self) -> None:
        self._attempt(lambda: self.experiment.finish())

    def _attempt(self, call: Callable[[], object]) -> None:
        if self.broken:
            return
        before, logging.raiseExceptions = logging.raiseExceptions, False  # a traceback for each line of W&B's log
        try:
            call()
        except Exception as error:  # whatever W&B does, training continues
            with suppress(Exception, SystemExit):
                self.experiment.finish(exit_code=1)
            self.broken = True
            self._end_service()
            what = shorten(str(error) or repr(error), 200)
            log.warning("W&B stopped working (%s); the run continues, metrics.csv has every metric.", what)
        finally:
            logging.raiseExceptions = before

    def _end_service(self) -> None:
        """End W&B's own process; otherwise W&B would look for it, and complain, when this process ends."""
        if self._alone:  # else the user's run would end, too
            with suppress(Exception, SystemExit):  # SystemExit: with a killed service's status
                import wandb

                wandb.teardown()

    def __getstate__(self) -> dict[str, Any]:
        """Open no run to be copied into a process that Lightning spawns."""
        return vars(self) | {"_experiment": None}
