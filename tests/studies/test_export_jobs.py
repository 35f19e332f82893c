"""The files for other engines, executed here as those would."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from fake_study import FAKE_PROGRAM, variant

from vitlab.studies.compare import emit
from vitlab.studies.execution.export_jobs import write_slurm, write_sweep
from vitlab.studies.grid import plan
from vitlab.studies.study import read_study

Write = Callable[..., Path]
PAIR = {"A": variant(0.9), "B": variant(0.8)}


def test_a_slurm_array_runs_every_cell_where_compare_looks(write_study: Write, tmp_path: Path) -> None:
    study = write_study(variants=PAIR, seeds=[1, 2], name="Bob's study")
    script = emit(study, write_slurm, tmp_path / "runs")
    text = script.read_text()
    assert "#SBATCH --array=0-3\n" in text
    # A shell that has srun and python but no cluster.
    (tmp_path / "bin").mkdir()
    for name, line in {"srun": 'exec "$@"', "python": f'shift 2; exec {" ".join(FAKE_PROGRAM)} "$@"'}.items():
        tool = tmp_path / "bin" / name
        tool.write_text(f"#!/bin/bash\n{line}\n")
        tool.chmod(0o755)
    path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
    runs = plan(read_study(study), tmp_path / "runs")
    for task, run in list(enumerate(runs))[1:3]:
        subprocess.run(["bash", script], env={"PATH": path, "SLURM_ARRAY_TASK_ID": str(task)}, check=True)
        assert (run.directory / "summary.json").is_file()
        assert yaml.safe_load((run.directory / "config.yaml").read_text()) == run.config

    # A task stopped by a signal goes back into the queue.
    for name, line in {"srun": "exit 75", "scontrol": f'echo "$@" > {tmp_path / "requeued"}'}.items():
        (tmp_path / "bin" / name).write_text(f"#!/bin/bash\n{line}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    task = {"PATH": path, "SLURM_ARRAY_TASK_ID": "0", "SLURM_JOB_ID": "17"}
    assert subprocess.run(["bash", script], env=task).returncode == 75
    assert (tmp_path / "requeued").read_text() == "requeue 17\n"

    # The next array holds what is left.
    assert "#SBATCH --array=0-1\n" in emit(study, write_slurm, tmp_path / "runs").read_text()


def test_a_sweep_is_a_grid_over_the_configurations(write_study: Write, tmp_path: Path) -> None:
    path = emit(write_study(variants=PAIR, seeds=[1, 2]), write_sweep, tmp_path / "runs")
    sweep = yaml.safe_load(path.read_text())
    assert sweep["method"] == "grid"
    configurations = sweep["parameters"]["config"]["values"]
    assert [yaml.safe_load(Path(c).read_text())["seed_everything"] for c in configurations] == [1, 1, 2, 2]
    # W&B's agent puts --config=<value> where ${args} stands, and its own interpreter and environment before it.
    macros = {
        "${env}": ["/usr/bin/env"],
        "${interpreter}": [sys.executable],
        "${args}": [f"--config={configurations[0]}"],
    }
    command = [word for part in sweep["command"] for word in macros.get(part, [part])]
    assert command == ["/usr/bin/env", sys.executable, "-m", "vitlab", "fit", f"--config={configurations[0]}"]


@pytest.mark.parametrize(
    ("seeds", "how", "first", "then"),
    [([1], {}, [1000, 1001, 1002], [1]), ({"from": 3, "to": 5}, {"within": "seed"}, [1, 2, 3], [1, 2, 3])],
)
def test_tuning_comes_first_and_what_was_chosen_after_it(
    write_study: Write,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    seeds: object,
    how: dict[str, str],
    first: list[int],
    then: list[int],
) -> None:
    variants = {"A": variant(0.9), "B": variant(0.8)}
    tuning = {"key": "model.init_args.lr", "values": [0.1, 0.4], **how}
    study = write_study(variants=variants, seeds=seeds, tune=tuning)

    def emitted() -> list[Path]:
        sweep = yaml.safe_load(emit(study, write_sweep, tmp_path).read_text())
        return [Path(path) for path in sweep["parameters"]["config"]["values"]]

    trials = emitted()
    assert "These are the tuning runs" in capsys.readouterr().out
    assert len(trials) == 4 * len(first)
    for path in trials:
        config = yaml.safe_load(path.read_text())
        assert config["seed_everything"] in first
        directory = Path(config["run"]["root"], config["run"]["name"], f"seed-{config['seed_everything']}")
        directory.mkdir(parents=True)
        (directory / "metrics.csv").write_text(f"step,epoch,val/top1\n1,0,{config['model']['init_args']['lr']}\n")
        (directory / "summary.json").write_text("{}")
    runs = [yaml.safe_load(path.read_text()) for path in emitted()]
    assert [(run["model"]["init_args"]["lr"], run["seed_everything"]) for run in runs] == [
        (0.4, seed) for seed in then for _ in variants
    ]


def test_the_runs_of_all_places_are_one_array(write_study: Write, tmp_path: Path) -> None:
    study = write_study(variants=PAIR, seeds=[1, 2], along={"model.init_args.lr": [0.1, 0.4]})
    sweep = yaml.safe_load(emit(study, write_sweep, tmp_path).read_text())
    runs = [yaml.safe_load(Path(path).read_text()) for path in sweep["parameters"]["config"]["values"]]
    assert [(run["seed_everything"], run["model"]["init_args"]["lr"]) for run in runs] == [
        (seed, rate) for seed in (1, 2) for rate in (0.1, 0.4) for _ in PAIR
    ]


def test_a_search_is_not_emitted(write_study: Write, tmp_path: Path) -> None:
    search = {"space": {"model.init_args.lr": [0.1, 0.4]}, "trials": 2}
    with pytest.raises(ValueError, match=r"depend on earlier ones. Use compare --slurm"):
        emit(write_study(variants=PAIR, seeds=[1], search=search), write_sweep, tmp_path)


def test_nothing_is_emitted_of_a_finished_study(write_study: Write, tmp_path: Path) -> None:
    study = write_study(variants=PAIR, seeds=[1])
    for run in plan(read_study(study), tmp_path):
        run.directory.mkdir(parents=True)
        (run.directory / "summary.json").write_text("{}")
    with pytest.raises(ValueError, match="All runs are finished already"):
        emit(study, write_sweep, tmp_path)
