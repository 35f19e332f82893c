"""Train a study's runs as a SLURM array through submitit, and wait for them.

Each run is a task of the array and a process `fit` of its own in it. When SLURM takes the task's machine away, or its
time is up, `fit` writes its state, the task goes back into the queue and continues there. Leaving the study leaves the
array; the same command finds its tasks again and goes on waiting.
"""

import contextlib
import json
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from vitlab.studies.execution.local import Outcome, cut_short, is_finished, last_lines, to_replace, write_config
from vitlab.studies.execution.task import Training
from vitlab.studies.study import Run, slug

if TYPE_CHECKING:
    from submitit import Executor, Job

FOR_EVER = 1_000_000  # how often a task may come back because its time was up


def slurm(study: str, folder: Path, settings: Sequence[str]) -> "Executor":
    """Return what submits to SLURM.

    Args:
        study: Its name.
        folder: The study's folder.
        settings: What the cluster asks for, `partition=gpu`, `time=240` (minutes), `gpus_per_node=1` and the like: the
            arguments of submitit's `SlurmExecutor`, which calls them as `sbatch` does.

    Raises:
        ValueError: submitit or SLURM is missing, or submitit knows no such setting.
    """
    try:
        from submitit import SlurmExecutor
    except ImportError:
        raise ValueError(
            "--slurm needs submitit: pip install 'vitlab[slurm]'. Without it, --emit slurm writes the array as a file."
        ) from None
    for tool in ("sbatch", "srun", "squeue"):
        if shutil.which(tool) is None:
            raise ValueError(f"--slurm: there is no {tool} here; start the study on a machine that submits SLURM jobs.")
    pairs = [setting.partition("=") for setting in settings]
    if wrong := [setting for setting, (_, equals, _) in zip(settings, pairs, strict=True) if not equals]:
        raise ValueError(f"--slurm {wrong[0]}: expected KEY=VALUE, like partition=gpu or time=240.")
    executor = SlurmExecutor(folder / "slurm", max_num_timeout=FOR_EVER)
    executor.update_parameters(
        job_name=slug(study), stderr_to_stdout=True, **{key: yaml.safe_load(value) for key, _, value in pairs}
    )
    return executor


def run_array(
    runs: Sequence[Run],
    program: Sequence[str],
    executor: "Executor",
    overwrite: bool,
    note: Callable[[str], None] = print,
    poll_seconds: float = 5.0,
) -> list[Outcome]:
    """Submit what is neither finished nor in the queue, wait, and return how each run ended, in the order given.

    Args:
        program: The command line that `fit --config <file>` is appended to.
        executor: SLURM's, or in tests submitit's for this machine; its folder keeps which run is which job.
        overwrite: Replace runs that have another configuration, without it there must be none, or were cut short.
    """
    replaced = to_replace(runs, overwrite)
    known = _Known(executor)
    waiting = [run for run in runs if run in replaced or not is_finished(run)]
    jobs = {run: job for run in waiting if run not in replaced and (job := known.find(run)) is not None}
    missing = [run for run in waiting if run not in jobs]
    for run in missing:
        run.folder.mkdir(parents=True, exist_ok=True)
        write_config(run.config_path, run.config)
    if missing:
        with executor.batch():
            submitted = [executor.submit(_training(run, program, run in replaced)) for run in missing]
        new = dict(zip(missing, submitted, strict=True))
        known.keep(new)
        jobs |= new
    finished, on_the_way = len(runs) - len(waiting), len(jobs) - len(missing)
    note(f"  {finished} runs are finished, {len(missing)} submitted, {on_the_way} on the way.")
    note("  Leave with Ctrl-C at any time; the same command waits again.")
    outcomes = {run: Outcome(run, None) for run in runs if run not in jobs}
    while jobs:
        for run, job in list(jobs.items()):
            if _is_over(job):
                outcomes[run] = _outcome(run, job)
                note(f"  {run}  {'done' if outcomes[run].failure is None else f'FAILED, {outcomes[run].failure}'}")
                del jobs[run]
        if jobs:
            time.sleep(poll_seconds)
    return [outcomes[run] for run in runs]


def _training(run: Run, program: Sequence[str], replace: bool) -> Training:
    command = [*program, "fit", "--config", str(run.config_path.absolute())]
    return Training(command, str(run.log_path.absolute()), ["--run.overwrite", "true"] if replace else [])


class _Known:
    """Which run is which job, in a file of the executor's folder: a run that is in the queue is not submitted again."""

    def __init__(self, executor: "Executor") -> None:
        self.executor = executor
        self.path = Path(executor.folder) / "jobs.json"
        self.ids: dict[str, str] = json.loads(self.path.read_text()) if self.path.is_file() else {}

    def find(self, run: Run) -> "Job[int] | None":
        """Return the job of a run if it has one that goes on."""
        if (job_id := self.ids.get(str(run.directory))) is None:
            return None
        job: Job[int] = self.executor.job_class(self.executor.folder, job_id)
        return None if _is_over(job) else job

    def keep(self, jobs: dict[Run, "Job[int]"]) -> None:
        self.ids |= {str(run.directory): job.job_id for run, job in jobs.items()}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(json.dumps(self.ids, indent=2))


def _is_over(job: "Job[int]") -> bool:
    """Say whether a job has ended. submitit asks `sacct` of SLURM, which clusters without a database have not."""
    from submitit import SlurmJob

    if job.paths.result_pickle.is_file() or not isinstance(job, SlurmJob):
        return job.done()
    queue = subprocess.run(["squeue", "--noheader", "--jobs", job.job_id], capture_output=True, text=True)
    return not queue.stdout.strip()


def _outcome(run: Run, job: "Job[int]") -> Outcome:
    if is_finished(run):
        return Outcome(run, cut_short(run))
    how = f"job {job.job_id} left no result"
    with contextlib.suppress(Exception):  # submitit raises what went wrong in the job
        how = f"exit status {job.result()}"
    return Outcome(run, ": ".join([how, *last_lines(run.log_path, 1)]))
