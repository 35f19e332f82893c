"""Train a study's runs as a SLURM array through submitit, and wait for them.

Each run is a task of the array with its own `fit` process. When a task is pre-empted or reaches its time limit, `fit`
writes its state and the task returns to the queue, where it continues. Ctrl-C leaves the array in the queue; the same
command finds its tasks and waits again.
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

from vitlab.atomic_files import read_json
from vitlab.studies.file.runs import Run
from vitlab.studies.file.state import Outcome, cut_short, is_finished, refuse_without_metric, to_replace
from vitlab.studies.file.study import slug
from vitlab.studies.training.local import last_lines, write_config, written_elsewhere
from vitlab.studies.training.task import RunTask

if TYPE_CHECKING:
    from submitit import Executor, Job

UNLIMITED = 1_000_000  # requeues at the time limit


def slurm(study: str, folder: Path, settings: Sequence[str]) -> "Executor":
    """Return the executor that submits to SLURM.

    Args:
        study: Its name.
        folder: The study's folder.
        settings: What the cluster requires, such as `partition=gpu`, `time=240` (minutes), `gpus_per_node=1`: arguments
            of submitit's `SlurmExecutor`, named as those of `sbatch`.

    Raises:
        ValueError: submitit or SLURM is missing, or a setting is unknown.
    """
    try:
        from submitit import SlurmExecutor
    except ImportError:
        raise ValueError("--slurm needs submitit: pip install 'vitlab[slurm]'.") from None
    for tool in ("sbatch", "srun", "squeue"):
        if shutil.which(tool) is None:
            raise ValueError(f"--slurm: {tool} not found. Start the study on a machine that submits SLURM jobs.")
    pairs = [setting.partition("=") for setting in settings]
    if wrong := [setting for setting, (_, equals, _) in zip(settings, pairs, strict=True) if not equals]:
        raise ValueError(f"--slurm {wrong[0]}: expected KEY=VALUE, like partition=gpu or time=240.")
    executor = SlurmExecutor(folder / "slurm", max_num_timeout=UNLIMITED)
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
    """Submit the runs that are neither finished nor queued, wait, and return the outcome of each, in order.

    Args:
        program: The command line to which `fit --config <file>` is appended.
        executor: For SLURM, or in tests submitit's for this machine; its folder stores the job of each run.
        overwrite: Replace runs that were cut short or have another configuration; without it there must be no such.
    """
    replaced = to_replace(runs, overwrite)
    record = Path(executor.folder) / "jobs.json"  # the job of each run, so that a queued run is not submitted again
    ids: dict[str, str] = read_json(record, missing={})
    waiting = [run for run in runs if run in replaced or not is_finished(run)]
    jobs: dict[Run, Job[int]] = {}
    for run in waiting:
        if run not in replaced and (job_id := ids.get(str(run.directory))):
            job: Job[int] = executor.job_class(executor.folder, job_id)
            jobs |= {} if _is_over(job) else {run: job}
    missing, busy = [run for run in waiting if run not in jobs], set[Run]()
    while busy := written_elsewhere(missing, busy, note):
        time.sleep(poll_seconds)
    missing = [run for run in missing if run in replaced or not is_finished(run)]
    for run in missing:
        write_config(run.config_path, run.config)
    if missing:
        with executor.batch():
            submitted = [executor.submit(_task(run, program, run in replaced)) for run in missing]
        jobs |= dict(zip(missing, submitted, strict=True))
        ids |= {str(run.directory): jobs[run].job_id for run in missing}
        record.parent.mkdir(parents=True, exist_ok=True)
        record.write_text(json.dumps(ids, indent=2))
    finished, queued = len(runs) - len(jobs), len(jobs) - len(missing)
    note(f"  {finished} runs finished, {len(missing)} submitted, {queued} already queued.")
    note("  Ctrl-C leaves them queued; the same command waits again.")
    outcomes = {run: Outcome(run, None) for run in runs if run not in jobs}
    while jobs:
        for run, job in list(jobs.items()):
            if _is_over(job):
                outcomes[run] = _outcome(run, job)
                refuse_without_metric([run])
                note(f"  {run}  {'done' if outcomes[run].failure is None else f'FAILED, {outcomes[run].failure}'}")
                del jobs[run]
        if jobs:
            time.sleep(poll_seconds)
    return [outcomes[run] for run in runs]


def _task(run: Run, program: Sequence[str], replace: bool) -> RunTask:
    command = [*program, "fit", "--config", str(run.config_path.absolute())]
    return RunTask(command, str(run.log_path.absolute()), ["--run.overwrite", "true"] if replace else [])


def _is_over(job: "Job[int]") -> bool:
    """Whether a job has ended. submitit uses `sacct`, which needs a database that some clusters lack."""
    from submitit import SlurmJob

    if job.paths.result_pickle.is_file() or not isinstance(job, SlurmJob):
        return job.done()
    queue = subprocess.run(["squeue", "--noheader", "--jobs", job.job_id], capture_output=True, text=True)
    return not queue.stdout.strip()


def _outcome(run: Run, job: "Job[int]") -> Outcome:
    if is_finished(run):
        return Outcome(run, cut_short(run))
    how = f"job {job.job_id} wrote no result"
    with contextlib.suppress(Exception):  # submitit raises what went wrong in the job
        how = f"exit status {job.result()}"
    return Outcome(run, ": ".join([how, *last_lines(run.log_path, 1)]))
