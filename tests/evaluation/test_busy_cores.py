from pathlib import Path

import pytest

from vitlab.evaluation.cost import busy_cores as module
from vitlab.evaluation.cost.busy_cores import OtherPrograms, busy_seconds

# proc(5): user nice system idle iowait irq softirq steal guest guest_nice, in ticks; guests are counted in user too.
STAT = """cpu  0 0 0 0 0 0 0 0 0 0
cpu0 100 20 30 9000 800 4 5 1 60 7
cpu1 1000 0 0 9000 0 0 0 0 0 0
intr 5
"""


def test_work_is_counted_on_the_given_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "stat").write_text(STAT)
    monkeypatch.setattr(module, "STAT", tmp_path / "stat")
    monkeypatch.setattr(module.os, "sysconf", lambda name: 100)
    assert busy_seconds({0}) == 1.6
    assert busy_seconds({0, 1}) == pytest.approx(11.6)


def test_own_work_does_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Ten seconds of which this process computes for four, while the cores work for ten in all: others took .6 of one.
    times = {"wall": 0.0, "own": 0.0, "all": 50.0}
    monkeypatch.setattr(module.time, "perf_counter", lambda: times["wall"])
    monkeypatch.setattr(module.time, "process_time", lambda: times["own"])
    monkeypatch.setattr(module, "busy_seconds", lambda cores: times["all"])
    (tmp_path / "stat").write_text(STAT)
    monkeypatch.setattr(module, "STAT", tmp_path / "stat")
    others = OtherPrograms()
    assert others.mean is None  # nothing measured yet
    with others:
        times |= {"wall": 10.0, "own": 4.0, "all": 60.0}
    times["all"] = 99.0  # between two turns
    assert others.mean == pytest.approx(0.6)
    monkeypatch.setattr(module, "STAT", tmp_path / "nothing")
    assert others.mean is None  # the system does not report it
