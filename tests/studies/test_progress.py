import io
from pathlib import Path

import pytest

from vitlab.studies.file.metric import TOP1
from vitlab.studies.file.runs import Run
from vitlab.studies.training.run_all import Active, Display, Progress, read_progress, seconds_left

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
