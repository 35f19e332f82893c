"""A new claim is checked before anybody runs it: each thing that it lacks is named, and nothing is trained."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fake_study import plain, variant

from benchmarks.tested_claims import checks, main
from vitlab.studies.file.registration import keep_word, register
from vitlab.studies.file.study import read_study

Write = Callable[..., Path]
CLAIM = {
    "sentence": "A is better than B.",
    "source": "Author 2020, table 1, page 3 (arXiv 2001.00000)",
    "published": {"A": 81.0, "B": 79.5},
    "order": "A > B",
    "differs": "Digits instead of photographs.",
    "doubt": "More seeds.",
}


@pytest.fixture
def claiming(write_study: Write) -> Write:
    def write(margin: float = 10.0, **changes: Any) -> Path:
        variants = {"A": variant(0.96), "B": variant(0.9)}
        return write_study(variants=variants, margin=margin, claim=CLAIM | changes)

    return write


def failures(path: Path, root: Path) -> list[str]:
    return [plain(check.text) for check in checks(path, root) if not check.passed]


def test_a_claim_that_has_all_passes(claiming: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = claiming()
    assert failures(path, tmp_path) == ["register it: `compare` does, first"]
    register(read_study(path), tmp_path)
    assert failures(path, tmp_path) == []
    assert main(["--check", str(path), "--root", str(tmp_path)]) == 0
    assert "ok  published: A 81, B 79.5" in capsys.readouterr().out
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"source": "Author 2020, page 3, arXiv 2001.00000"}, "source: add the table, figure or section"),
        ({"source": "Author 2020, Table 1, https://example.org"}, "source: add the page"),
        ({"source": "Author 2020, fig. 2, p. 4"}, "source: add the arXiv number, DOI or address"),
        ({"published": {"A": 81.0}}, "published: add the figure of B, as printed"),
        ({"published": {"A": 79.0, "B": 79.5}}, "published: A 79, B 79.5 are not A > B"),
        ({"margin": 0.01}, "margin 0.01: too small for the test images; take more, or another"),
    ],
)
def test_what_is_missing_is_named(
    changes: dict, expected: str, claiming: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = claiming(**changes)
    register(read_study(path), tmp_path)
    assert failures(path, tmp_path) == [expected]
    assert main(["--check", str(path), "--root", str(tmp_path)]) == 1
    assert f"NO  {expected}" in plain(capsys.readouterr().out)


def test_seeds_of_an_earlier_word_are_used(claiming: Write, tmp_path: Path) -> None:
    study = read_study(claiming())
    register(study, tmp_path)
    keep_word(study, "not settled", [3])
    assert failures(claiming(margin=11.0), tmp_path)[0] == "register it: `compare` does, first"
    assert failures(claiming(margin=11.0), tmp_path)[1] == "seeds 1, 2, 3 have results that were seen; give new ones"


def test_a_study_without_a_claim_is_refused(write_study: Write, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has no `claim`"):
        checks(write_study(), tmp_path)
