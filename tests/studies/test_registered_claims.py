"""A claim is registered before its first run; what its word depends on does not change after a word."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fake_study import FAKE_PROGRAM, plain, variant

from vitlab.commands.dispatch import run
from vitlab.studies.claims import read_claims, write_page
from vitlab.studies.compare import compare
from vitlab.studies.file.registration import first_word, keep_word, record_of, register
from vitlab.studies.file.study import read_study

Write = Callable[..., Path]
CLAIM = {
    "sentence": "A is better than B.",
    "source": "Author 2020, table 1",
    "order": "A > B",
    "differs": "Digits instead of photographs.",
    "doubt": "More seeds.",
}
SHIPPED = sorted(Path("experiments/claims").glob("**/*.yaml"))


@pytest.fixture
def claiming(write_study: Write) -> Write:
    variants = {"A": variant(0.96), "B": variant(0.9)}
    return lambda **changes: write_study(**{"variants": variants, "margin": 1.0, "claim": CLAIM, **changes})


def test_the_first_run_registers_the_claim_and_leaves_the_rest_of_the_file(
    claiming: Write, tmp_path: Path, in_process: None, no_figures: None
) -> None:
    path = claiming()
    path.write_text("# A comment.\n" + path.read_text().replace("margin: 1.0", "margin: 1.0 # points") + "\n\n")
    before = path.read_text()
    report = compare(path, tmp_path / "runs", program=FAKE_PROGRAM)
    added = path.read_text().removeprefix(before.rstrip("\n") + "\n")
    assert re.fullmatch(r'registered: \{ date: \d{4}-\d\d-\d\d, digest: "[0-9a-f]{16}" \}\n', added)
    (registration,) = record_of(study := read_study(path))
    assert registration["digest"] == study.digest == (study.registered or {})["digest"]
    assert registration["seeds"] == [1, 2, 3]
    assert [word["word"] for word in registration["words"]] == ["repeated"]
    assert "Registered on" in plain(report.with_suffix(".md").read_text())
    known = (tmp_path / "record/study.json").read_bytes()
    compare(path, tmp_path / "runs", program=FAKE_PROGRAM)  # a report again is no other word
    assert (tmp_path / "record/study.json").read_bytes() == known


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
    register(read_study(path))
    registered = read_study(path).registered
    keep_word(read_study(path), "repeated", [3, 3])
    study = read_study(claiming(registered=registered, **{key: CHANGED[key]}))
    with pytest.raises(ValueError, match="the claim was registered and has a word, but with other settings") as refused:
        register(study)
    assert "--register-anew and new seeds" in str(refused.value)
    assert len(record_of(study)) == 1


def test_before_a_word_and_in_words_alone_a_claim_may_change(claiming: Write) -> None:
    path = claiming()
    register(read_study(path))
    register(changed := read_study(claiming(margin=0.5)))
    assert [each["digest"] for each in record_of(changed)] == [changed.digest]
    keep_word(changed, "not settled", [3, 3])
    texts = {"claim": CLAIM | {"doubt": "Less."}, "question": "Which?", "jobs": 1, "name": "Another"}
    register(read_study(claiming(margin=0.5, **texts)))
    assert len(record_of(changed)) == 1


def test_anew_takes_new_seeds_and_keeps_the_words(claiming: Write, tmp_path: Path) -> None:
    register(study := read_study(claiming()))
    with pytest.raises(ValueError, match="is as it was registered"):
        register(study, anew=True)
    keep_word(study, "contradicted", [3, 3])
    changed = read_study(claiming(budget={"epochs": 8}, seeds=[3, 4, 5]))
    with pytest.raises(ValueError, match=r"has seen results of seeds 3\.\nGive new ones, from 4 on"):
        register(changed, anew=True)
    path = claiming(budget={"epochs": 8}, seeds=[4, 5, 6])
    register(changed := read_study(path), anew=True)
    keep_word(changed, "repeated", [3, 3])
    keep_word(changed, "repeated", [4, 4])
    words = [[word["word"] for word in each["words"]] for each in record_of(changed)]
    assert words == [["contradicted"], ["repeated"]]
    assert first_word(changed) == "contradicted"
    page = write_page(read_claims(path.parent), tmp_path / "runs").with_suffix(".md").read_text()
    assert re.search(r"\| Small study \| contradicted \| not tested yet", page)


def test_a_registration_without_its_record_still_binds(claiming: Write) -> None:
    path = claiming()
    register(read_study(path))
    line = read_study(path).registered
    (path.parent / "record/study.json").unlink()
    with pytest.raises(ValueError, match="with other settings"):
        register(read_study(claiming(registered=line, margin=2.0)))


def test_the_command_refuses_in_one_message(
    claiming: Write, write_study: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    register(read_study(claiming()))
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
    with pytest.raises(ValueError, match="a claim is registered in its file, and beside it in ") as why:
        register(read_study(claiming()))
    assert "Copy the study to a folder that you can write to" in str(why.value)


@pytest.mark.parametrize("path", [path for path in SHIPPED if "claim:" in path.read_text()], ids=str)
def test_a_shipped_claim_is_as_it_was_registered(path: Path) -> None:
    study = read_study(path)
    assert (study.registered or {})["digest"] == study.digest == record_of(study)[-1]["digest"]


def test_the_first_words_are_those_of_the_documentation() -> None:
    """6 repeated, 6 contradicted, 11 not settled: docs/claims.md and the README."""
    words = [first_word(read_study(path)) for path in SHIPPED if path.parent.name == "claims"]
    assert {word: words.count(word) for word in set(words)} == {"repeated": 6, "contradicted": 6, "not settled": 11}
    for path in Path("experiments/claims").glob("**/record/*.json"):
        assert all(each["words"] for each in json.loads(path.read_text()))
