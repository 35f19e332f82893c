import io
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from fake_study import FAKE_PROGRAM, variant, wait_for

from vitlab.signals import SIGNALS
from vitlab.studies.file.metric import TOP1
from vitlab.studies.file.registration import Outcome, conflicting, refuse_conflicts
from vitlab.studies.file.runs import Run, plan
from vitlab.studies.file.study import read_study
from vitlab.studies.training.executors import Local, Slots, allot
from vitlab.studies.training.run_all import (
    Active,
    Display,
    Progress,
    in_order,
    last_lines,
    read_progress,
    run_all,
    seconds_left,
)

Write = Callable[..., Path]
Start = Callable[..., tuple[list[Outcome], str]]


@pytest.fixture
def start(write_study: Write, tmp_path: Path) -> Start:
    """Return a function that plans and runs a study of two variants and returns the outcomes and what was printed."""

    def run(overwrite: bool = False, **changes: object) -> tuple[list[Outcome], str]:
        changes = {"variants": {"A": variant(0.9), "B": variant(0.8)}, "seeds": [1], **changes}
        runs = plan(read_study(write_study(**changes)), tmp_path / "runs")
        if not overwrite:
            refuse_conflicts(runs)
        printed = io.StringIO()
        executor = Local(Slots(2, 1, []))
        try:
            outcomes = run_all(runs, FAKE_PROGRAM, executor, Display(printed, runs), overwrite)
        finally:
            executor.shutdown(wait=False)
        return outcomes, printed.getvalue()

    return run


def modified(outcomes: list[Outcome]) -> list[float]:
    return [(run.directory / "summary.json").stat().st_mtime for run, _ in outcomes]


def test_runs_that_would_wait_for_the_same_pretraining_come_last(tmp_path: Path) -> None:
    sources = {"scratch": None, "tuned": "mae.yaml a=1", "probed": "mae.yaml a=1", "other": "mae.yaml", "file": "x.pt"}
    configs = {name: {"model": {"init_args": {"init_from": value}}} for name, value in sources.items()}
    runs = [Run(name, seed, config, tmp_path) for seed in (1, 2) for name, config in configs.items()]

    ordered = in_order(runs)

    at_once = [name for name in configs if name != "probed"]
    assert [(run.seed, run.variant) for run in ordered] == [
        *((1, name) for name in at_once),
        *((2, name) for name in at_once),
        (1, "probed"),
        (2, "probed"),
    ]


@pytest.mark.slow
def test_a_second_start_runs_nothing_again_and_a_conflict_is_refused_unless_overwritten(start: Start) -> None:
    first, printed = start()
    assert [failure for _, failure in first] == [None, None]
    assert "A, seed 1  epoch 4/4" in printed
    for run, _ in first:
        assert yaml.safe_load(run.config_path.read_text()) == run.config
        assert "PYTHONUNBUFFERED=1 OMP_NUM_THREADS=1 " in run.log_path.read_text().splitlines()[0]

    before = modified(first)
    again, printed = start()
    assert "2 of 2 runs are already finished" in printed
    assert modified(again) == before

    changed = {"variants": {"A": variant(0.9), "B": variant(0.7)}}
    with pytest.raises(ValueError, match=r"accuracy is 0\.8 there and 0\.7 in the study") as raised:
        start(**changed)
    assert len(str(raised.value).splitlines()) <= 5
    assert "--overwrite" in str(raised.value)
    assert modified(first) == before

    replaced, printed = start(overwrite=True, **changed)
    assert "1 of 2 runs are already finished" in printed
    assert modified(replaced)[0] == before[0]  # A is as it was
    assert modified(replaced)[1] > before[1]


@pytest.mark.slow
def test_a_run_that_was_cut_short_is_shown_and_begun_again_if_asked(start: Start) -> None:
    short = {"variants": {"A": variant(0.9, cut_short=[1]), "B": variant(0.8)}}
    first, printed = start(**short)
    why = "incomplete run: tested on 184 of 597 images (--overwrite retrains it)"
    assert [failure for _, failure in first] == [why, None]
    assert why in printed
    before = modified(first)
    assert modified(start(**short)[0]) == before
    after = modified(start(overwrite=True, **short)[0])
    assert after[0] > before[0]
    assert after[1] == before[1]  # B is whole


@pytest.mark.slow
def test_a_failing_run_is_shown_and_the_others_go_on(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vitlab.studies.training.run_all.POLL_SECONDS", None)  # the end of a run wakes the study
    outcomes, printed = start(variants={"A": variant(0.9, fail=[1]), "B": variant(0.8)}, seeds=[1, 2])
    assert [failure for _, failure in outcomes] == [
        "exit status 1: ValueError: the loss is not finite at epoch 3", None, None, None,
    ]  # fmt: skip
    assert "A, seed 1  FAILED" in printed
    assert "    | epoch 2\n    | ValueError: the loss is not finite" in printed


# Writes a run as an orphan of a killed study does: under its lock, for as long as its input is open.
ORPHAN = """
import sys
from pathlib import Path
from vitlab.runs.lock import run_lock
run = Path(sys.argv[1])
with run_lock(run):
    print("locked", flush=True)
    sys.stdin.read()
    if sys.argv[2:]:
        (run / "summary.json").write_text("{}")
"""


@pytest.mark.slow
@pytest.mark.parametrize("finishes", [False, True])
def test_a_run_that_another_process_writes_is_waited_for(finishes: bool, start: Start, tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "small-study" / "a" / "seed-1"
    command = [sys.executable, "-c", ORPHAN, str(folder), *(["finish"] if finishes else [])]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as orphan:
        assert orphan.stdout is not None
        assert orphan.stdin is not None
        assert orphan.stdout.readline() == "locked\n"
        other = folder.parents[1] / "b" / "seed-1" / "summary.json"
        release = threading.Thread(target=lambda: (wait_for(other.is_file), orphan.stdin.close()))  # type: ignore[union-attr]
        release.start()  # once B, which nobody else writes, is done
        outcomes, printed = start()
        release.join()
    assert [failure for _, failure in outcomes] == [None, None]
    assert f"A, seed 1 is waited for: {folder} is being written by process {orphan.pid} on" in printed
    assert printed.count("is waited for") == 1
    assert (folder / "pid").exists() is not finishes  # trained here only if the orphan left it unfinished


@pytest.mark.slow
def test_where_results_go_is_no_other_configuration(start: Start) -> None:
    (outcome, _), _ = start()
    stored = outcome.run.directory / "config.yaml"
    config = yaml.safe_load(stored.read_text())
    config["run"]["wandb"] = {"mode": "offline"}
    stored.write_text(yaml.safe_dump(config))
    assert conflicting([outcome.run]) == []
    config["run"]["probe"] = "knn"  # decides what is measured
    stored.write_text(yaml.safe_dump(config))
    assert conflicting([outcome.run]) == [outcome.run]


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # the signal may come while a file is being opened
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_an_interrupted_study_ends_its_processes(number: signal.Signals, start: Start, tmp_path: Path) -> None:
    folders = [tmp_path / "runs" / "small-study" / name / "seed-1" for name in ("a", "b")]

    def interrupt() -> None:
        wait_for(lambda: all((folder / "metrics.csv").is_file() for folder in folders))
        os.kill(os.getpid(), number)

    interrupter = threading.Thread(target=interrupt)
    interrupter.start()
    with pytest.raises(SystemExit) as stopped:
        start(variants={"A": variant(0.9, pause=60), "B": variant(0.8, pause=60)})
    interrupter.join()
    assert stopped.value.code == SIGNALS[number]
    for folder in folders:
        assert not alive(int((folder / "pid").read_text()))
        assert not (folder / "summary.json").exists()


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def cpu_runs(count: int) -> list[Run]:
    return [
        Run(f"V{i}", 1, {"trainer": {"max_epochs": 1, "accelerator": "cpu"}}, Path(f"runs/v{i}")) for i in range(count)
    ]


@pytest.mark.parametrize(
    ("cores", "jobs", "threads", "expected"),
    [
        *((2, None, "", (2, 1)), (64, None, "", (9, 7)), (8, 3, "", (3, 2)), (2, 4, "", (4, 1))),
        *((2, 1, "1", (1, 1)), (8, None, "2", (4, 2)), (2, None, "4,2", (1, 4))),
    ],
)
def test_cores_are_shared_among_the_runs(
    cores: int, jobs: int | None, threads: str, expected: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", threads)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(cores)))
    slots = allot(cpu_runs(9), jobs)
    assert (slots.jobs, slots.threads) == expected
    assert slots.environment(0)["OMP_NUM_THREADS"] == str(expected[1])


def test_each_run_gets_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    runs = [Run("A", seed, {"trainer": {"max_epochs": 1}}, Path("runs/a")) for seed in range(6)]
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    slots = allot(runs, None)
    assert slots.jobs == 2
    assert [slots.environment(slot)["CUDA_VISIBLE_DEVICES"] for slot in range(2)] == ["2", "5"]
    assert [allot(runs, 4).environment(slot)["CUDA_VISIBLE_DEVICES"] for slot in range(4)] == ["2", "5", "2", "5"]


def test_a_run_on_several_gpus_picks_them_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    runs = [Run("A", 1, {"trainer": {"max_epochs": 1, "devices": 4}}, Path("runs/a"))]
    assert allot(runs, None) == Slots(1, None, [])


def test_the_end_of_a_log_is_without_what_a_progress_bar_overwrote(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("start\n\nepoch 1\repoch 2\repoch 3\nError: x\n")
    assert last_lines(log, 2) == ["epoch 3", "Error: x"]
    assert last_lines(tmp_path / "absent") == []


# Progress


HEADER = "step,epoch,train/loss,val/loss,val/top1\n"


def run(variant: str = "ViT", epochs: int = 10, images: int | None = None, steps: int = -1) -> Run:
    config = {"trainer": {"max_epochs": epochs, "max_steps": steps}, "data": {"init_args": {"train_images": images}}}
    return Run(variant, 1, config, Path("runs") / variant.lower())


def active(variant: str, epochs: int, seconds: float, before: int = 0) -> Active:
    return Active(run(variant), before, Progress(epochs, 0.5), seconds)


def test_an_epoch_counts_once_it_was_validated(tmp_path: Path) -> None:
    metrics = tmp_path / "metrics.csv"
    assert read_progress(metrics, TOP1) == Progress(0, None)
    metrics.write_text(HEADER)
    assert read_progress(metrics, TOP1) == Progress(0, None)
    for being_written in ("", "19,1,,1"):  # left for later
        metrics.write_text(HEADER + f"9,0,1.5,,\n9,0,,1.4,0.61\n19,1,1.2,,\n{being_written}")
        assert read_progress(metrics, TOP1) == Progress(1, 0.61, 10.0)


def test_only_the_end_of_a_long_file_is_read(tmp_path: Path) -> None:
    metrics = tmp_path / "metrics.csv"
    metrics.write_text(
        HEADER + "".join(f"{step},{step // 100},1.5,,\n" for step in range(20_000)) + "20000,199,,1,0.7\n"
    )
    assert read_progress(metrics, TOP1) == Progress(200, 0.7, 20_001 / 200)


def test_time_left_by_hand() -> None:
    # ViT: 2 s an epoch from a finished run; Swin: 4 s from one under way (20 s, 5 epochs, none before).
    # Left: 5 Swin epochs = 20 s; waiting: a ViT 20 s and an unknown at the mean of 3 s, 30 s. Two at a time: 70/2.
    swin, waiting = active("Swin", 5, 20.0), [run("ViT"), run("Swin v2")]
    assert seconds_left([active("ViT", 10, 20.0)], [swin], waiting, jobs=2) == pytest.approx(35)
    assert seconds_left([], [swin], [], jobs=4) == pytest.approx(20)  # the last run cannot be shared
    # 10 s an epoch, 2 left: those of an earlier start do not make it look fast.
    assert seconds_left([], [active("Swin", 8, 20.0, before=6)], [], jobs=1) == pytest.approx(20)
    assert seconds_left([], [active("Swin", 0, 20.0)], [run()], jobs=1) is None  # before the first epoch


def test_time_left_where_epochs_differ_in_length() -> None:
    # 100 epochs of 50 images took 20 s, 4 ms an image; 2 epochs of 2,500 images will take as long.
    few, many = run("ViT, 50", 100, 50), run("ViT, 2500", 2, 2500)
    ended = [Active(few, 0, Progress(100, 0.5), 20.0)]
    assert seconds_left(ended, [], [many], jobs=1) == pytest.approx(20)
    # Where one run does not say how many images it has, all epochs are taken to be as long.
    assert seconds_left(ended, [], [run("all", 2)], jobs=1) == pytest.approx(0.4)


def test_steps_may_end_a_run_before_its_epochs() -> None:
    """45 steps are 4.5 epochs of 10: after 2 of them, in 6 s, 3 are left, and 5 of the run that waits."""
    first, second = run(steps=45), run(steps=45)
    item = Active(first, 0, Progress(2, 0.5, 10.0), 6.0)
    assert seconds_left([], [item], [second], jobs=1) == pytest.approx(3 * 3.0 + 5 * 3.0)
    assert "epoch 2/5" in Display(io.StringIO(), [first]).line(item)


def test_a_terminal_is_rewritten_in_place() -> None:
    stream = io.StringIO()
    stream.isatty = lambda: True  # type: ignore[method-assign]
    display = Display(stream, [run(), run("Swin")])
    display.update([active("ViT", 3, 65.0), active("Swin", 2, 65.0)], over=0, left=130.0)
    assert "ViT, seed 1   epoch  3/10  val  50.0 %  1:05" in stream.getvalue()
    assert "0 of 2 runs done, about 2:10 left" in stream.getvalue()
    display.update([], over=2, left=None)
    assert "\x1b[3A\x1b[J" in stream.getvalue()  # three lines up, then cleared
    assert stream.getvalue().endswith("  2 of 2 runs done\n")


def test_a_log_file_gets_a_line_a_minute() -> None:
    stream = io.StringIO()
    display = Display(stream, [run()])
    item = active("ViT", 3, 1.0)
    for item.seconds in (1.0, 30.0, 61.0, 62.0, 90.0, 122.0):
        display.update([item], over=0, left=None)
    assert len(stream.getvalue().splitlines()) == 2
    assert "\x1b" not in stream.getvalue()
