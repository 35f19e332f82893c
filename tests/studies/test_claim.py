"""A claim of a paper as part of a study: parsed, judged in one word, and the first line of the report."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fake_study import FAKE_PROGRAM, plain, results, right
from referee.claim import CONTRADICTED, NOT_TESTED, OPEN, REPEATED, parse_claim
from referee.report.claim import deciding, draw_claim, headline, in_words
from referee.report.drawing import Layout

from benchmarks.tested_claims import is_tested, main, read_claims, write_page
from vitlab.studies.compare import compare
from vitlab.studies.file.study import read_study
from vitlab.studies.report.verdict import judged, outlooks
from vitlab.studies.results import StudyResults

Write = Callable[..., Path]
CLAIM = {
    "sentence": "A is better than B.",
    "source": "Author 2020, table 1",
    "order": "A > B",
    "differs": "Digits instead of photographs.",
    "doubt": "More seeds.",
}


def parsed(order: Any, variants: tuple[str, ...] = ("A", "B", "C"), **changes: Any) -> Any:
    return parse_claim(CLAIM | {"order": order} | changes, variants, 0.5)


def claiming(
    order: str, scores: dict[str, float], seeds: int, margin: float, images: int = 100, **changes: Any
) -> StudyResults:
    """Return the results of a study that tests a claim."""
    study = results({name: {s: right(score, images, seed=s) for s in range(seeds)} for name, score in scores.items()})
    claim = parsed(order, tuple(scores), **changes)
    return replace(study, study=replace(study.study, margin=margin, claim=claim))


def sentences(study: StudyResults) -> list[str]:
    assert study.study.claim is not None
    return [plain(line) for line in in_words(study.study.claim, judged(study))]


def test_a_single_seed_shows_no_lead() -> None:
    assert sentences(claiming("A > B", {"A": 0.9, "B": 0.88}, 1, 1.0)) == ["A > B: not settled."]


@pytest.mark.parametrize(
    ("order", "shown"),
    [
        ("A = B", "repeated."),
        ("A > B", "repeated, smaller than the margin."),
        ("B > A", "contradicted, smaller than the margin."),
        ("B >= A", "repeated."),
    ],
)
def test_a_difference_beyond_chance_may_be_smaller_than_the_margin(order: str, shown: str) -> None:
    """Two points are settled at forty seeds on images that most get right, and are less than five."""
    study = claiming(order, {"A": 0.95, "B": 0.93}, 40, 5.0, images=200)
    (pair,) = study.verdict.pairs
    assert pair.settled
    assert sentences(study)[0].startswith(f"{order}: {shown} The first leads by")


def test_a_void_comparison_settles_no_claim() -> None:
    study = claiming("A > B", {"A": 0.95, "B": 0.85}, 4, 0.5)
    assert study.study.claim is not None
    assert headline(study.study.claim, judged(study)) == "A is better than B: repeated."
    other_code = [
        replace(run, environment=run.environment | {"code": run.run.variant, "torch": run.run.variant})
        for run in study.finished
    ]
    void = replace(study, finished=other_code)
    assert judged(void).word == OPEN
    assert sentences(void)[0].startswith("A > B: not settled.")


@pytest.mark.parametrize(("line", "word"), [(0.8, REPEATED), (0.9, NOT_TESTED)])
def test_a_claim_whose_precondition_is_not_met_is_not_tested(line: float, word: str) -> None:
    study = claiming("A > B", {"A": 0.95, "B": 0.85}, 4, 0.5, needs=f"score above {line}")
    assert judged(study).word == word
    lacks = "Not tested, since the score of B, 0.85, is not above 0.9 beyond chance."
    assert (sentences(study)[0] == lacks) == (word == NOT_TESTED)


@pytest.mark.parametrize(("before", "word"), [(0.8, REPEATED), (0.9, NOT_TESTED)])
def test_a_claim_about_features_may_need_them_above_those_of_the_untrained_network(before: float, word: str) -> None:
    study = claiming("A > B", {"A": 0.95, "B": 0.85}, 4, 0.5, needs="score above untrained")
    assert judged(study).word == NOT_TESTED  # nothing was probed
    study = claiming("A > B", {"A": 0.95, "B": 0.85}, 4, 0.5, needs="score above untrained")
    for each in study.finished:
        each.summary["metrics"] = {"test/top1_untrained": before}
    assert judged(study).word == word


def test_a_lead_is_that_of_the_variant_that_the_claim_calls_better() -> None:
    study = claiming("B > A", {"A": 0.95, "B": 0.85}, 4, 0.5)
    assert study.study.claim is not None
    ((order, lead, interval, p, word),) = deciding(study.study.claim, judged(study))
    assert (order, word) == ("B > A", CONTRADICTED)
    (pair,) = study.verdict.pairs
    assert (pair.better.name, float(lead.replace("−", "-"))) == ("A", pytest.approx(-100 * pair.lead, abs=0.1))
    low, high = (float(end.replace("−", "-")) for end in interval.strip("[]").split(",\u00a0"))
    assert low < -100 * pair.lead < high < 0
    assert p.startswith("<") or float(p) < 0.05


@pytest.mark.parametrize(("order", "planned"), [("A > B", True), ("C > A", False), ("A > D", False), ("A > E", True)])
def test_a_report_plans_what_would_settle_the_claim(order: str, planned: bool) -> None:
    """C is better than all; the leads of A over B and E are open; over D it is settled, but not among all pairs."""
    scores = {"A": (0.8, 0.83, 0.86), "B": (0.79, 0.82, 0.85), "C": (0.97, 0.975, 0.98), "D": (0.7, 0.73, 0.76)}
    scores |= dict.fromkeys("EFGH", (0.74, 0.79, 0.84))
    outcomes = {name: {s: right(score, seed=s) for s, score in enumerate(each)} for name, each in scores.items()}
    study = results(outcomes)
    assert not next(pair for pair in study.verdict.pairs if pair.name == "A – D").settled
    claim = parsed(order, tuple(scores))
    told = " ".join(outlooks(replace(study, study=replace(study.study, claim=claim, margin=1.0))))
    assert ("settle a" in told) == planned


@pytest.mark.slow
def test_the_report_opens_with_the_claim_and_one_word(write_study: Write, tmp_path: Path) -> None:
    claim = {
        **CLAIM,
        "sentence": "Swin v2 is better than Swin and Swin than ViT.",
        "order": "Swin v2 > Swin > ViT",
        "published": {"ViT": 70, "Swin": 80.5},
        "along": {"size": {"all": {1: "ViT", 2: "Swin", 3: "Swin v2"}}},
    }
    path = write_study(claim=claim, margin=0.5, seeds=[1, 2, 3, 4, 5])
    report = compare(path, tmp_path / "runs", program=FAKE_PROGRAM).with_name("report.md").read_text()
    first, *rest = [plain(line) for line in report.splitlines() if line]
    assert first == "# Swin v2 is better than Swin and Swin than ViT: repeated."
    assert any(line.startswith("Swin v2 > Swin: repeated. The first leads by") for line in rest)
    assert any(line.startswith("All variants: Swin v2 is better than Swin by") for line in rest)
    assert any(f"compare --config {path} --root {tmp_path / 'runs'} " in line for line in rest)
    assert "Claim: Author 2020, table 1: ViT 70, Swin 80.5." in rest
    assert "What differs here: Digits instead of photographs." in rest
    assert [line.split(" | ")[0] for line in rest if "repeated |" in line] == ["| Swin v2 > Swin", "| Swin > ViT"]
    assert f"![{claim['sentence']} As published, and in these runs.](figures/claim.png)" in rest
    record = json.loads((tmp_path / "runs/small-study/verdict.json").read_text())
    assert record["claim"] == {"sentence": claim["sentence"], "word": "repeated"}
    assert (tmp_path / "runs/small-study/figures/claim.png").is_file()


@pytest.mark.slow
def test_one_page_tells_of_all_claims_and_runs_what_is_missing(
    write_study: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, root, started = tmp_path / "claims", tmp_path / "runs/claims", list[str]()
    folder.mkdir()
    for name, minutes in {"dear": 9, "cheap": 1}.items():
        claim = CLAIM | {"sentence": f"The {name} claim.", "order": "Swin > ViT", "minutes": minutes}
        path = write_study(name=name, claim=claim, margin=0.5, seeds=[1, 2, 3, 4], base=str(tmp_path / "base.yaml"))
        path.rename(folder / f"{name}.yaml")
    write_study(base=str(tmp_path / "base.yaml")).rename(folder / "no_claim.yaml")

    def run_study(path: Path, to: Path) -> Path:
        started.append(path.stem)
        return compare(path, to, program=FAKE_PROGRAM)

    def run_claims() -> None:
        assert main(["--folder", str(folder), "--root", str(root)]) == 0

    page = write_page(read_claims(folder), root).read_text()
    assert page.count("not tested yet") == 2
    monkeypatch.setattr("benchmarks.tested_claims.compare", run_study)
    run_claims()
    page = (root / "report.html").read_text()
    assert started == ["cheap", "dear"]
    assert "2\u00a0claims tested: 2 repeated" in page
    assert page.index("The cheap claim.") < page.index("The dear claim.")
    links = re.findall(r"\((.*/report.html)\)", (root / "report.md").read_text())
    assert [(root / link).is_file() for link in links] == [True, True]
    run_claims()
    assert started == ["cheap", "dear"]
    with (tmp_path / "base.yaml").open("a") as file:
        file.write("# changed\n")
    assert all(is_tested(study, root) for study in read_claims(folder))
    with (tmp_path / "base.yaml").open("a") as file:
        file.write("trainer: {gradient_clip_val: 1.0}\n")
    assert not any(is_tested(study, root) for study in read_claims(folder))
    assert main(["--folder", str(folder), "--root", str(root)]) == 1
    assert capsys.readouterr().err.count("the claim was registered and has results, but with other settings") == 2

    with pytest.raises(ValueError, match="no study with a `claim`"):
        read_claims(tmp_path)


def test_the_page_begins_with_what_surprises_most(write_study: Write, tmp_path: Path) -> None:
    records = {
        "sure": {"word": "repeated", "p": 1e-4, "here": ["A > B: 2.0 [1.0, 3.0]"], "minutes": 2},
        "open": {"word": "not settled", "p": 0.3, "here": ["A > B: 0.5 [−1.0, 2.0]"], "minutes": 3},
        "against": {"word": "contradicted", "p": 0.04, "here": ["A > B: −1.0 [−1.9, −0.1]"], "minutes": 4},
        "old": {"word": "repeated", "minutes": 5},  # of a version that wrote no p
        "unfinished": {"word": "contradicted", "p": 0.04, "minutes": 1, "ended": False},  # a look before the last
        "changed": {"word": "contradicted", "p": 0.04, "minutes": 1},
    }
    folder, root = tmp_path / "claims", tmp_path / "runs"
    folder.mkdir()
    for name, record in records.items():
        claim = CLAIM | {"sentence": f"The claim {name}.", "doubt": f"Doubt of {name}.", "order": "Swin > ViT"}
        path = write_study(name=name, claim=claim, margin=0.5, base=str(tmp_path / "base.yaml"))
        path = path.rename(folder / f"{name}.yaml")
        (root / name).mkdir(parents=True)
        files = "of other settings" if name == "changed" else read_study(path).digest
        (root / name / "claim.json").write_text(json.dumps({"files": files, "ended": True} | record))
    page = write_page(read_claims(folder), root)
    text = page.with_suffix(".md").read_text().replace("\u00a0", " ")
    places = [text.index(f"| {name} | The claim {name}. |") for name in ("against", "open", "sure", "old")]
    assert places == sorted(places)
    # Benjamini and Hochberg: 0.04 is the second of three, 0.04 · 3/2; 1e-4 the first, 3e-4.
    assert "| The claim against. | contradicted | – | 0.040 | 0.060 |" in text
    assert "| The claim sure. | repeated | – | < 0.001 | < 0.001 |" in text
    assert "[95 %]: A > B: −1.0 [−1.9, −0.1]." in text
    assert "4 claims tested: 2 repeated" in text
    assert "3 words of 4 are settled." in text
    for name in ("unfinished", "changed"):
        assert f"| {name} | The claim {name}. | not finished | – |" in text
    assert "at most 0.2 wrong ones are expected" in text
    assert "That of 1 settled word is larger." in text
    assert "Doubt of sure." in text  # of repeated ones, too
    assert '<img src="against/figures/claim.png"' in page.read_text()


def test_a_claim_that_cannot_be_tested_does_not_stop_the_others(
    write_study: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, started = tmp_path / "claims", list[str]()
    folder.mkdir()
    for name in ("bad", "good"):
        claim = CLAIM | {"order": "Swin > ViT"}
        write_study(name=name, claim=claim, margin=0.5, base=str(tmp_path / "base.yaml")).rename(
            folder / f"{name}.yaml"
        )

    def compare(path: Path, root: Path) -> None:
        started.append(path.stem)
        if path.stem == "bad":
            raise ValueError("bad.yaml: no such budget")

    monkeypatch.setattr("benchmarks.tested_claims.compare", compare)
    assert main(["--folder", str(folder), "--root", str(tmp_path / "runs/claims")]) == 1
    assert started == ["bad", "good"]
    assert "bad.yaml: no such budget" in capsys.readouterr().err


@pytest.mark.parametrize(("published", "titles"), [({"A": 80.0, "B": 70.0}, ["as published", "here"]), ({}, [""])])
def test_the_figure_has_no_empty_panel(published: dict[str, float], titles: list[str]) -> None:
    study = results({"A": {0: right(0.8, 30)}, "B": {0: right(0.7, 30)}})
    figure = draw_claim(parsed("A > B", published=published), study.verdict, Layout(800, 2))
    assert [axes.get_title() for axes in figure.axes if axes.axison] == titles
