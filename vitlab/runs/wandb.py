"""Where metrics go: always to `metrics.csv` in the run directory; also to Weights & Biases, which cannot stop a run."""

import errno
import logging
import netrc
import os
import shutil
import subprocess
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlparse

from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_only

log = logging.getLogger("vitlab")

WandbMode = Literal["auto", "online", "offline", "disabled"]

# How many seconds W&B may take to open a run, and to upload the rest of it at the end; its own are 90 and no limit.
# WANDB_INIT_TIMEOUT and WANDB_FINISH_TIMEOUT in the environment give others.
SECONDS_TO_OPEN, SECONDS_TO_FINISH = 20.0, 120.0
LEAST_ROOM = 2**20  # bytes: below, W&B gives way to metrics.csv and the checkpoints


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

    mode: WandbMode = "auto"
    project: str = "vitlab"
    entity: str | None = None
    group: str | None = None
    tags: list[str] = field(default_factory=list)

    @property
    def enabled(self) -> bool:
        """Whether W&B is wanted and its package can be imported; one that cannot costs a line of the log."""
        if self.mode == "disabled" or os.environ.get("WANDB_MODE") == "disabled":
            return False
        try:
            import wandb  # noqa: F401
        except Exception as error:  # also of a package that it needs: protobuf's are many
            log.warning("W&B cannot be imported (%s); the run goes on without it.", _one_line(error))
            return False
        return True

    @property
    def offline(self) -> bool:
        if self.mode == "auto":
            return os.environ.get("WANDB_MODE") == "offline" or not _has_wandb_key()
        return self.mode == "offline"


class UnbreakableWandbLogger(WandbLogger):
    """W&B's logger, but whatever it raises becomes one line of the log, after which the run goes on without it.

    Lightning opens a logger before the model and the data are set up; this one waits for `start`, so that a refused run
    leaves nothing in W&B. The run's id is then kept in the run directory: a continued run is the same W&B run.

    Where W&B cannot be reached, or refuses the key, the run is kept offline, which `make wandb-sync` uploads. Nothing
    waits for W&B longer than `SECONDS_TO_OPEN` at the start and `SECONDS_TO_FINISH` at the end.
    """

    def __init__(self, settings: Wandb, run_directory: Path, name: str, config: dict[str, Any]) -> None:
        self.directory = run_directory
        self.started = self.broken = False
        super().__init__(
            name=name,
            save_dir=run_directory,
            offline=settings.offline,
            project=settings.project,
            entity=settings.entity,
            group=settings.group,
            tags=settings.tags,
            config=config,
            resume="allow",  # offline too: else the upload of a continued run's second part replaces the first
            settings=_quiet_settings(),
        )
        self._wandb_init.pop("anonymous", None)  # Lightning passes a setting that W&B warns it has dropped

    @rank_zero_only
    def start(self) -> None:
        """Open the W&B run, offline where it cannot be had online."""
        self._attempt(self._open)

    def _open(self) -> None:
        self._id = self._wandb_init["id"] = _run_id(self.directory)
        self.started = True
        self._check_room()
        try:
            run = self.experiment
        except Exception as error:  # unreachable, a wrong key, another server's answer
            if self._offline:
                raise
            self._go_offline()
            _ = self.experiment
            log.warning(
                "W&B cannot be used (%s); the run is kept offline, `make wandb-sync` uploads it.", _one_line(error)
            )
            return
        kept = f"offline, kept in {self.directory / 'wandb'}; `make wandb-sync` uploads it"
        log.info("W&B: %s", kept if self._offline else run.url)

    def _go_offline(self) -> None:
        import wandb

        wandb.teardown()  # its service still holds the run that it could not open
        self._offline = True
        self._wandb_init["mode"] = "offline"

    @property
    def experiment(self) -> Any:
        """The W&B run; before `start` and after a failure, what takes every call and does nothing."""
        return super().experiment if self.started and not self.broken else _Nothing()

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self._attempt(lambda: super(UnbreakableWandbLogger, self).log_metrics(metrics, step))

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace) -> None:
        """Nothing to do: the whole configuration was given at the start."""

    @rank_zero_only
    def log_picture(self, name: str, file: Path, step: int) -> None:
        """Upload a picture that was written to a file."""
        self._attempt(lambda: super(UnbreakableWandbLogger, self).log_image(name, [str(file)], step))

    @rank_zero_only
    def finalize(self, status: str) -> None:
        self._attempt(lambda: super(UnbreakableWandbLogger, self).finalize(status))

    @rank_zero_only
    def finish(self) -> None:
        """Close the W&B run."""
        self._attempt(lambda: self.experiment.finish())

    def _attempt(self, call: Callable[[], object]) -> None:
        if self.broken:
            return
        try:
            if self.started:
                self._check_room()
            with _logging_errors_ignored():
                call()
        except Exception as error:  # whatever W&B does, training goes on
            self.broken = True
            self._let_go()
            log.warning("W&B stopped working (%s); the run goes on, metrics.csv has it all.", _one_line(error))

    def _check_room(self) -> None:
        """Raise OSError where the disk is full, of which W&B tells its own log file at most."""
        folder = self.directory / "wandb"
        if shutil.disk_usage(folder).free < LEAST_ROOM:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))

    def _let_go(self) -> None:
        """End the W&B run and its service, or W&B would look for them, and complain, when the process ends."""
        import wandb

        # SystemExit: with the status of a service that was killed.
        for end in (lambda: wandb.finish(exit_code=1), _forget_run, wandb.teardown):
            with suppress(Exception, SystemExit), _logging_errors_ignored():
                end()


@contextmanager
def _logging_errors_ignored() -> Iterator[None]:
    """Keep `logging` from printing a traceback for each line that it cannot write."""
    before, logging.raiseExceptions = logging.raiseExceptions, False
    try:
        yield
    finally:
        logging.raiseExceptions = before


def _forget_run() -> None:
    """Let W&B forget its run, or the next run of this process is logged to it. Raises ImportError where W&B has no
    such function, which is private."""
    from wandb.sdk.lib.module import unset_globals

    unset_globals()


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


class _Nothing:
    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *args, **kwargs: None


def _run_id(run_directory: Path) -> str:
    file = run_directory / "wandb" / "run-id.txt"
    if file.is_file() and (known := file.read_text().strip()):  # empty where the disk was full
        return known
    file.parent.mkdir(parents=True, exist_ok=True)
    new = os.urandom(6).hex()
    file.write_text(new)
    return new


def _quiet_settings() -> Any:
    import wandb

    wanted: dict[str, Any] = {
        "silent": True,
        "console": "off",
        "x_disable_stats": True,
        "disable_git": True,
        "init_timeout": float(os.environ.get("WANDB_INIT_TIMEOUT", SECONDS_TO_OPEN)),
        "finish_timeout": float(os.environ.get("WANDB_FINISH_TIMEOUT", SECONDS_TO_FINISH)),
        "finish_timeout_raises": True,
    }
    known = wandb.Settings.model_fields  # W&B refuses what it does not know; 0.20 waits without a limit
    return wandb.Settings(**{name: value for name, value in wanted.items() if name in known})


def _has_wandb_key() -> bool:
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlparse(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    try:
        return netrc.netrc().authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


def upload_offline_runs(root: Path) -> int:
    """Upload what runs below `root` kept for W&B while it was offline; return the exit status of `make wandb-sync`.

    The parts of a run that was continued have one id, and W&B joins them in the order in which they began.
    """
    kept = sorted(root.glob("**/wandb/offline-run-*"))
    new = [folder for folder in kept if not list(folder.glob("*.wandb.synced"))]
    if not new:
        print(f"Nothing to upload: {root}/ holds {len(kept)} offline W&B runs, all of them uploaded.")
        return 0
    if not _has_wandb_key():
        print(
            f"error: {len(new)} offline W&B runs wait in {root}/, but there is no key to upload them with.\n"
            "Set WANDB_API_KEY, or run `wandb login` once.",
            file=sys.stderr,
        )
        return 2
    command = [sys.executable, "-m", "wandb", "sync", *map(str, new)]
    return subprocess.run(command, check=False, env={**os.environ, "WANDB_MODE": "online"}).returncode
