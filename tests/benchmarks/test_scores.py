"""Thousands of studies at once are judged as `all_pairs` judges each, and the tables are written."""

from pathlib import Path

import numpy as np
import pytest
from referee.statistics.contrast import all_pairs
from referee.statistics.sequential import levels, watch

from benchmarks.scores import World, drawn, judged, main, truth, watched


def test_each_study_is_judged_by_the_rule() -> None:
    world = World((3.0, 0.0, 0.0, 1.0), (1.0, 2.0, 1.0, 4.0), (3, 5, 4, 7))
    scores = drawn(world, 30)
    found = judged(scores)
    for study in range(30):
        pairs = all_pairs([y[study][:, None] for y in scores]).values()
        assert found.adjusted[study] == pytest.approx([each.adjusted for each in pairs], rel=1e-6)
        assert found.low[study] == pytest.approx([each.interval.low for each in pairs])
    assert truth(world).tolist() == [3, 3, 2, 0, -1, -1]


def test_looks_are_those_of_a_watched_study() -> None:
    """Also losers train no more; `hopeless`, which the table leaves out, ends none of these few looks."""
    world, sizes = World((0.0, 0.0, -100.0), (1.0, 4.0, 1.0), (6, 6, 6)), (4, 5, 6)
    scores, false = drawn(world, 60), 0
    for study in range(60):
        rows = {v: {seed: y[study, seed : seed + 1] for seed in range(6)} for v, y in enumerate(scores)}
        settled = watch(rows, range(6), sizes).settled
        false += any({0, 1} == {*pair} for pair in settled)
    assert watched(world, sizes, levels(sizes), 60) >= round(100 * false / 60, 1)


def test_the_tables_are_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["two_states", "plans", "--studies", "20", "--out", str(tmp_path)])
    text = (tmp_path / "scores.md").read_text()
    assert text.strip() in capsys.readouterr().out
    assert "seeds end in one of two states" in text
    assert np.char.count(text, "\n| 3 |") == 2
