"""The simulated claims have the truth that is stated, and the tables are written; what they say takes minutes."""

from pathlib import Path

import pytest

from benchmarks import claims
from benchmarks.claims import World, is_wrong, main


def test_a_word_is_wrong_where_it_is_false_of_the_means() -> None:
    ahead, level, behind = (World("A > B", (lead, 0.0), margin=2.0) for lead in (3.0, 1.0, -3.0))
    assert [is_wrong(world, "repeated") for world in (ahead, level, behind)] == [False, False, True]
    assert [is_wrong(world, "contradicted") for world in (ahead, level, behind)] == [True, True, False]
    assert [is_wrong(World("A = B", (lead, 0.0), margin=2.0), "contradicted") for lead in (1.0, 3.0)] == [True, False]


def test_the_tables_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "OUT", tmp_path)
    main(["--studies", "4"])
    text = (tmp_path / "claims.md").read_text()
    assert "Wrong words for a claim, %; 4 studies a cell." in text
    assert "Looks at 4 to 15 seeds; 4 studies a row." in text
