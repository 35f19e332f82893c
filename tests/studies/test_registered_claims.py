"""A claim is registered before its first run; what its word depends on does not change after a word."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fake_study import FAKE_PROGRAM, plain, variant
from test_claim import CLAIM

from benchmarks.tested_claims import checks, main, read_claims, write_page
from vitlab.commands.dispatch import run
from vitlab.config import load_yaml
from vitlab.studies.compare import compare
from vitlab.studies.file.registration import first_word, keep_word, record_of, register
from vitlab.studies.file.study import read_study

Write = Callable[..., Path]
RUNS = Path("no runs here")
SHIPPED = sorted(Path("experiments/claims").glob("**/*.yaml"))


@pytest.fixture
def claiming(write_study: Write) -> Write:
    variants = {"A": variant(0.96), "B": variant(0.9)}
    return lambda **changes: write_study(**{"variants": variants, "margin": 1.0, "claim": CLAIM, **changes})


def test_the_first_run_registers_the_claim_and_leaves_its_file_as_it_is(
    claiming: Write, tmp_path: Path, in_process: None, no_figures: None
) -> None:
    path = claiming(registered={"date": "2026-11-20", "digest": "x"})  # as an earlier version wrote into the file
    before = path.read_bytes()
    (path.parent / "record.json").write_text('{"another": []}')
    report = compare(path, tmp_path / "runs", program=FAKE_PROGRAM)
    assert path.read_bytes() == before
    assert json.loads((path.parent / "record.json").read_text()).keys() == {"another", "study"}
    (registration,) = record_of(study := read_study(path))
    assert registration["digest"] == study.digest == read_study(claiming()).digest
    assert registration["registered"] == time.strftime("%Y-%m-%d")
    assert registration["seeds"] == [1, 2, 3]
    assert [word["word"] for word in registration["words"]] == ["repeated"]
    assert "Registered on" in plain(report.with_suffix(".md").read_text())
    known = (tmp_path / "record.json").read_bytes()
    compare(path, tmp_path / "runs", program=FAKE_PROGRAM)  # a report again is no other word
    assert (tmp_path / "record.json").read_bytes() == known


CHANGED = {
    "budget": {"epochs": 8},
    "metric": {"name": "top5", "mode": "max"},
    "margin": 0.5,
    "seeds": [1, 2, 3, 4],
    "claim": CLAIM | {"order": "B > A"},
    "variants": {"A": variant(0.96), "B": variant(0.91)},
}


@pytest.mark.parametrize("key", CHANGED)
def test_a_change_after_a_word_is_refused(key: str, claiming: Write) -> None:
    path = claiming()
    register(read_study(path), RUNS)
    keep_word(read_study(path), "repeated", [3, 3])
    study = read_study(claiming(**{key: CHANGED[key]}))
    with pytest.raises(
        ValueError, match="the claim was registered and has results, but with other settings"
    ) as refused:
        register(study, RUNS)
    assert f"has changed since {record_of(study)[0]['registered']}.\nChange it back" in str(refused.value)
    assert "--register-anew and new seeds" in str(refused.value)
    assert len(record_of(study)) == 1


def test_before_a_word_and_in_words_alone_a_claim_may_change(claiming: Write) -> None:
    path = claiming()
    register(read_study(path), RUNS)
    register(changed := read_study(claiming(margin=0.5)), RUNS)
    assert [each["digest"] for each in record_of(changed)] == [changed.digest]
    keep_word(changed, "not settled", [3, 3])
    texts = {"claim": CLAIM | {"doubt": "Less."}, "question": "Which?", "jobs": 1, "name": "Another"}
    register(read_study(claiming(margin=0.5, **texts)), RUNS)
    assert len(record_of(changed)) == 1


def test_a_look_binds_the_settings_and_is_no_word(claiming: Write) -> None:
    register(study := read_study(claiming(seeds={"from": 3, "to": 8})), RUNS)
    keep_word(study, "not settled", [3, 3], ended=False)
    assert first_word(study) == ""
    with pytest.raises(ValueError, match="with other settings"):
        register(read_study(claiming(seeds={"from": 3, "to": 8}, margin=0.5)), RUNS)
    study = read_study(claiming(seeds={"from": 3, "to": 8}))
    keep_word(study, "repeated", [5, 5])
    assert first_word(study) == "repeated"
    assert [word["word"] for word in record_of(study)[-1]["words"]] == ["repeated"]


def test_a_run_that_finished_before_any_word_binds_too(claiming: Write, tmp_path: Path) -> None:
    register(study := read_study(claiming()), tmp_path)
    done = study.folder(tmp_path, "A") / "seed-1/summary.json"
    done.parent.mkdir(parents=True)
    done.write_text("{}")
    with pytest.raises(ValueError, match="with other settings"):
        register(read_study(claiming(margin=0.5)), tmp_path)


def test_anew_takes_new_seeds_and_keeps_the_words(claiming: Write, tmp_path: Path) -> None:
    register(study := read_study(claiming()), RUNS)
    with pytest.raises(ValueError, match="is as it was registered"):
        register(study, RUNS, anew=True)
    keep_word(study, "contradicted", [3, 3])
    for seeds, seen in (([3, 4, 5], "3"), ({"from": 3, "to": 4}, "1, 2, 3")):
        changed = read_study(claiming(budget={"epochs": 8}, seeds=seeds))
        with pytest.raises(ValueError, match=rf"{seen} have results; give seeds from 4 on"):
            register(changed, RUNS, anew=True)
    assert read_study(claiming(seeds={"from": 3, "to": 5, "first": 4})).seeds == [4, 5, 6, 7, 8]
    path = claiming(budget={"epochs": 8}, seeds=[4, 5, 6])
    register(changed := read_study(path), RUNS, anew=True)
    keep_word(changed, "repeated", [3, 3])
    keep_word(changed, "repeated", [4, 4])
    words = [[word["word"] for word in each["words"]] for each in record_of(changed)]
    assert words == [["contradicted"], ["repeated"]]
    assert first_word(changed) == "contradicted"
    page = write_page(read_claims(path.parent), tmp_path / "runs").with_suffix(".md").read_text()
    assert "| Small study | A is better than B. | not tested yet | contradicted |" in page


def test_the_command_refuses_in_one_message(
    claiming: Write, write_study: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    register(read_study(claiming()), RUNS)
    keep_word(read_study(claiming()), "repeated", [3, 3])
    changed: dict[str, Any] = {"margin": 2.0}
    root = ["--root", str(tmp_path / "runs")]
    assert run("compare", ["--config", str(claiming(**changed)), *root]) == 2
    assert "the claim was registered" in capsys.readouterr().err
    assert run("compare", ["--config", str(write_study()), *root, "--register-anew"]) == 2
    assert "has no claim to register" in capsys.readouterr().err
    assert not list(tmp_path.glob("runs/**/seed-*"))


def test_a_folder_that_cannot_be_written_is_named(claiming: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, text: str) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("vitlab.studies.file.registration.write_text", refuse)
    with pytest.raises(ValueError, match=r"a claim is registered in .*record\.json: .*denied"):
        register(read_study(claiming()), RUNS)


@pytest.mark.parametrize("path", [path for path in SHIPPED if {"claim", "like"} & load_yaml(path).keys()], ids=str)
def test_a_shipped_claim_is_as_it_was_registered(path: Path) -> None:
    study = read_study(path)
    assert record_of(study)[-1]["digest"] == study.digest


def test_the_first_words_are_those_of_the_documentation() -> None:
    """Of 23: 6 repeated, 6 contradicted, 11 not settled; of eleven added later: 5, 2, 3 equal, 1 not settled."""
    words = [first_word(read_study(path)) for path in SHIPPED if path.parent.name == "claims"]
    expected = {"repeated": 6 + 5, "contradicted": 6 + 2, "not settled": 11 + 1, "equal within the margin": 3}
    assert {word: words.count(word) for word in set(words)} == expected
    for path in Path("experiments/claims").glob("**/record.json"):
        assert all(each["words"] for claim in json.loads(path.read_text()).values() for each in claim)


# What a new claim lacks is named before anybody runs it


NEW = {
    "sentence": "A is better than B.",
    "source": "Author 2020, table 1, page 3 (arXiv 2001.00000)",
    "published": {"A": 81.0, "B": 79.5},
    "order": "A > B",
    "differs": "Digits instead of photographs.",
    "doubt": "More seeds.",
}


@pytest.fixture
def new_claim(write_study: Write) -> Write:
    def write(margin: float = 10.0, **changes: Any) -> Path:
        variants = {"A": variant(0.96), "B": variant(0.9)}
        return write_study(variants=variants, margin=margin, claim=NEW | changes)

    return write


def failures(path: Path, root: Path) -> list[str]:
    return [plain(check.text) for check in checks(path, root) if not check.passed]


def test_a_claim_that_has_all_passes(new_claim: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = new_claim()
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
    changes: dict, expected: str, new_claim: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = new_claim(**changes)
    register(read_study(path), tmp_path)
    assert failures(path, tmp_path) == [expected]
    assert main(["--check", str(path), "--root", str(tmp_path)]) == 1
    assert f"NO  {expected}" in plain(capsys.readouterr().out)


def test_seeds_of_an_earlier_word_are_used(new_claim: Write, tmp_path: Path) -> None:
    study = read_study(new_claim())
    register(study, tmp_path)
    keep_word(study, "not settled", [3])
    assert failures(new_claim(margin=11.0), tmp_path)[0] == "register it: `compare` does, first"
    assert failures(new_claim(margin=11.0), tmp_path)[1] == "seeds 1, 2, 3 have results that were seen; give new ones"


def test_a_study_without_a_claim_is_refused(write_study: Write, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has no `claim`"):
        checks(write_study(), tmp_path)
