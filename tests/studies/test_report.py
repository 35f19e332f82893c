"""A small study from its YAML to the page, with planted accuracies, and the page in a browser."""

import base64
import csv
import dataclasses
import io
import json
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator, Sequence
from html import escape
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from fake_study import Digits, results, right, train_here, variant, write_study
from matplotlib import figure as drawn
from matplotlib.text import Text as Text2D
from PIL import Image
from referee.formats import SPACE
from referee.report import drawing
from referee.report.document import Cell, Details, Figure, Gallery, Part, Table, Text, write_document

from tests.conftest import EDGE, edges
from vitlab.evaluation.predictions import data_uri
from vitlab.studies.compare import RunsFailed, compare, results_of
from vitlab.studies.file.metric import TOP1
from vitlab.studies.report import figures, page, sections
from vitlab.studies.report.page import workspace, write_dashboard, write_report
from vitlab.studies.report.sections import CLEAN, gallery, interesting, methods, models_shown
from vitlab.studies.results import Compute, Context, StudyResults

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium to look at the page")
LONG = "Swin v2 under an unusually long name"


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory, digits: Digits) -> Path:
    """Return the folder of a study in which nothing goes wrong."""
    folder = tmp_path_factory.mktemp("clean")
    with pytest.MonkeyPatch.context() as patch:
        train_here(patch)
        return compare(write_study(folder, digits, seeds=[1, 2]), folder / "runs").parent


@pytest.fixture(scope="module")
def troubled(tmp_path_factory: pytest.TempPathFactory, digits: Digits) -> Path:
    """Return the folder of a study with a failed run, an unmeasured cost, an undeclared difference, a coin."""
    folder = tmp_path_factory.mktemp("troubled")
    smoothed = variant(0.965, no_cost=True)
    smoothed["model"]["init_args"]["label_smoothing"] = 0.2
    smoothed["data"] = {"init_args": {"image_size": 256}}
    variants = {"ViT": variant(0.94, fail=[2]), "Swin": smoothed, LONG: variant(0.99), "Coin": variant(0.08)}
    study = write_study(folder, digits, seeds=[1, 2], variants=variants)
    with pytest.MonkeyPatch.context() as patch:
        train_here(patch)
        with pytest.raises(RunsFailed, match="ViT, seed 2") as failed:
            compare(study, folder / "runs")
    return failed.value.report.parent


class Page(HTMLParser):
    """Collects what a page would load, its ids, and its text."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.ids: list[str] = []
        self.references: list[str] = []
        self.text = ""
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            if name in ("src", "srcset", "data", "poster", "action") or (name == "href" and tag == "link"):
                self.loads.append(value or "")
            if name in ("href", "xlink:href") and tag != "link":
                self.references.append(value or "")

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.mark.slow
@pytest.mark.parametrize("study", ["clean", "troubled"])
def test_the_page_loads_nothing_from_elsewhere(study: str, request: pytest.FixtureRequest) -> None:
    path = request.getfixturevalue(study) / "report.html"
    page = Page(path)
    assert len(page.loads) >= 24  # the gallery
    assert all(load.startswith("data:image/") for load in page.loads)
    html = path.read_text()
    assert not re.search(r"@import|<link|<script[^>]+src", html)
    assert all(target.startswith("#") for target in re.findall(r"url\(['\"]?([^)'\"]*)", html))
    # Every reference stays in the page and finds its target, once.
    assert all(reference.startswith("#") and reference[1:] in page.ids for reference in page.references)
    assert max(Counter(page.ids).values()) == 1
    assert max(Counter(re.findall(r'role="region" aria-label="(.*?)"', html)).values()) == 1
    for tag in ("details", "section", "table", "div", "ul", "figure"):
        assert len(re.findall(f"<{tag}[ >]", html)) == html.count(f"</{tag}>"), tag
    assert not re.search(r"https?://(?!www\.w3\.org/)", html)  # names of XML vocabularies, never fetched


def test_the_verdict_comes_first_and_the_numbers_follow(clean: Path) -> None:
    text = Page(clean / "report.html").text
    h1 = re.search(r"<h1[^>]*>(.*?)</h1>", (clean / "report.html").read_text())
    assert h1 is not None
    assert "Swin v2" in h1[1]
    order = ["Ranking", "Differences", "Learning", "Cost", "Calibration", "Classes", "Images", "Reproduce"]
    positions = [text.index(f"\n{title}\n") for title in order]
    assert positions == sorted(positions)
    assert "python -m vitlab compare --config" in text
    table = pd.read_csv(clean / "results.csv")
    assert len(table) == 6
    for name, mean in table.groupby("variant")["top1"].mean().items():
        row = re.search(
            rf">{name}</span>\s*(?:<span[^>]*>[^<]*</span>)*</th><td class=\"n\"><strong>([\d.]+)<", _html(clean)
        )
        assert row is not None
        assert float(row[1]) == pytest.approx(100 * mean, abs=0.051)


def _html(folder: Path) -> str:
    return (folder / "report.html").read_text()


def test_markdown_comes_with_its_figures(clean: Path) -> None:
    pictures = re.findall(r"!\[.*?\]\((.*?)\)", (clean / "report.md").read_text())
    assert len(pictures) == 5
    assert all((clean / picture).stat().st_size > 10_000 for picture in pictures)
    assert all((clean / picture).with_suffix(".pdf").read_bytes().startswith(b"%PDF") for picture in pictures)


def test_markdown_says_what_the_page_says(
    tmp_path: Path, digits: Digits, no_figures: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    documents = []
    monkeypatch.setattr(
        page, "write_document", lambda each, folder: documents.append(each) or write_document(each, folder)
    )
    study = results({name: {s: right(a, 300, s) for s in (1, 2, 3)} for name, a in {"A|B": 0.9, "<i>": 0.7}.items()})
    object.__setattr__(study.study, "path", tmp_path / "study.yaml")
    study.study.path.write_text("name: x")
    write_report(study, digits, tmp_path)
    text = (tmp_path / "report.md").read_text()

    def said(parts: Sequence[Part]) -> Iterator[str]:
        for part in parts:
            match part:
                case Text():
                    yield from (line.replace("\\", "") for line in part.text.splitlines())  # code is indented
                case Table():
                    yield from (column.replace("\n", " ") for column in part.columns)
                    cells = [cell for row in part.rows for cell in (row.head, *row.cells, *row.marks)]
                    yield from (cell.text if isinstance(cell, Cell) else cell for cell in cells)
                case Figure():
                    yield part.caption
                case Details():
                    yield part.summary
                    yield from said(part.parts)
                case Gallery():
                    yield "report.html#images"

    document = documents[0]
    assert 'id="images"' in (tmp_path / "report.html").read_text()
    plain = text.replace("\\", "")
    for line in [document.heading, *document.lead, *document.remarks, *(s.title for s in document.sections)]:
        assert line in plain
    for section in document.sections:
        for line in said(section.parts):
            assert line in plain
    # No name breaks a table: in each, all rows have as many cells as the first.
    for table in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        assert len({len(re.findall(r"(?<!\\)\|", row)) for row in table.splitlines()}) == 1, table


@pytest.mark.parametrize(
    ("study", "seeds"),
    [("clean", "3 variants, 2 seeds each"), *edges(("troubled", "4 variants, 1 to 2 of 2 seeds each"))],
)
def test_what_the_seeds_vary_and_what_is_held_fixed_is_told(
    study: str, seeds: str, request: pytest.FixtureRequest
) -> None:
    for name in ("report.html", "report.md"):
        text = (request.getfixturevalue(study) / name).read_text().replace(SPACE, " ")
        assert "augmentation; training set and split are held fixed." in text
        assert seeds in text


@pytest.mark.parametrize(
    ("costs", "more", "front"),
    [
        ([1, 2, 3, 4], False, [0, 2]),  # 1 costs more than 0 for less accuracy, 3 more than 2
        ([1, 2, 3, 4], True, [3, 2]),
        ([1, 1, 1, 1], False, [2]),
    ],
)
def test_the_front_holds_who_is_not_beaten_in_both(costs: list[float], more: bool, front: list[int]) -> None:
    assert figures.pareto_front(costs, [0.8, 0.7, 0.95, 0.9], more) == front


@pytest.mark.slow(edge=True)
def test_what_went_wrong_is_told_at_the_top_and_enters_no_average(troubled: Path) -> None:
    html = _html(troubled)
    assert "`" not in re.sub(r"<(script|style|pre).*?</\1>", "", html, flags=re.DOTALL)  # code is marked as such
    top = html[html.index("<h1") : html.index("<nav")]
    for remark in (
        f"1 of 8{SPACE}runs failed and are excluded from all averages (ViT, seed 2: exit status 1: ValueError: the",
        "No variant beats k-NN on raw pixels",
        "Not a pure architecture comparison: label smoothing",
    ):
        assert remark in top
        assert remark in (troubled / "report.md").read_text()
    assert "1 of 2</td>" in html  # seeds of ViT
    assert "≤ majority class" in html
    assert (troubled / "results.csv").read_text().count("not finite") == 1


class Awkward(Digits):
    """Class names that are markup."""

    def __init__(self) -> None:
        super().__init__()
        self.class_names = ["<b>cat</b>", "dog & son", '"eel"']


@pytest.mark.slow
def test_the_report_takes_in_robustness_of_the_runs_as_they_are(
    clean: Path, tmp_path: Path, digits: Digits, monkeypatch: pytest.MonkeyPatch
) -> None:
    charts = [chart._replace(draw=_blank) for chart in figures.charts_for(TOP1)]
    monkeypatch.setattr(figures, "charts_for", lambda metric: charts.copy())
    shutil.copytree(clean.parent.parent, tmp_path, dirs_exist_ok=True)
    folder = tmp_path / "runs" / "small-study"
    measures = {"noise": "σ of the noise", "blur": "σ of the blur, % of the side"}
    kinds = (CLEAN, 0.0, 0.9), ("noise", 0.1, 0.8), ("noise", 0.2, 0.6), ("blur", 4.0, 0.5)
    rows = [(name, measures.get(name, ""), strength, 597, top1) for name, strength, top1 in kinds]
    table = pd.DataFrame(rows, columns=["corruption", "measure", "strength", "images", "top1"])
    for summary in folder.glob("*/seed-*/summary.json"):
        table.to_csv(summary.with_name("robustness.csv"), index=False)

    def report() -> str:
        write_report(*results_of(tmp_path / "study.yaml", tmp_path / "runs"), folder)
        return (folder / "report.md").read_text()

    assert "## Robustness" not in (folder / "report.md").read_text()
    text = report()
    assert "| Swin | 90.0 | 70.0 | 50.0 |" in text
    assert "Not measured for the present models" not in text
    assert (folder / "figures" / "curves_of_robustness.png").stat().st_size > 10_000
    page = Page(folder / "report.html")
    assert "robustness" in page.ids
    assert "σ of the blur, % of the side" in page.text
    assert all(load.startswith("data:image/") for load in page.loads)

    (folder / "swin" / "seed-2" / "robustness.csv").unlink()  # as if it had been trained again
    text = report()
    assert "Not measured for the present models: Swin, seed 2." in text
    assert f"    python -m vitlab robustness {folder}\n" in text


def _blank(results: StudyResults, layout: drawing.Layout) -> drawn.Figure:
    return drawn.Figure()


def test_names_are_text_not_markup(tmp_path: Path, no_figures: None) -> None:
    (tmp_path / "study.yaml").write_text("name: x")
    study = results({"A<i>": {1: right(0.9, 90), 2: right(0.8, 90)}, "B": {1: right(0.7, 90), 2: right(0.7, 90)}})
    images = Awkward()
    object.__setattr__(study, "class_names", images.class_names)
    object.__setattr__(study.study, "path", tmp_path / "study.yaml")
    html = write_report(study, images, tmp_path).read_text()
    assert "<b>cat" not in html
    assert "A<i>" not in html
    assert "dog &amp; son" in html


def test_a_baseline_says_whose_training_images_it_has_where_the_variants_have_others(
    tmp_path: Path, no_figures: None
) -> None:
    (tmp_path / "study.yaml").write_text("name: x")
    study = results({"A": {0: right(0.9, 90), 1: right(0.8, 90)}, "B": {0: right(0.7, 90), 1: right(0.7, 90)}})
    images = Awkward()
    object.__setattr__(study, "class_names", images.class_names)
    object.__setattr__(study.study, "path", tmp_path / "study.yaml")
    assert "those of A" not in write_report(study, images, tmp_path).read_text()
    for run in study.finished:
        run.data["splits"] = {"train": {"digest": run.run.variant}}
    assert "training images, those of A" in write_report(study, images, tmp_path).read_text()


@pytest.mark.parametrize("test", ["pooled", *edges("paired")])
def test_a_study_of_which_nothing_is_left_still_has_a_page(
    test: str, tmp_path: Path, digits: Digits, in_process: None
) -> None:
    variants = {"A": variant(0.9, fail=[1]), "B": variant(0.8, fail=[1])}
    study = write_study(tmp_path, digits, seeds=[1], variants=variants, test=test)
    with pytest.raises(RunsFailed) as failed:
        compare(study, tmp_path / "runs")
    assert "No run finished" in failed.value.report.read_text()


# ---- in the browser


def dump(page: Path, width: int = 1280) -> str:
    """Return the page's elements after its scripts have run."""
    assert CHROMIUM is not None
    command = [
        CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
        "--disable-component-update", "--disable-sync", "--no-first-run", "--hide-scrollbars",
        f"--user-data-dir={page.parent / 'profile'}", f"--window-size={width},2000", "--dump-dom", page.as_uri(),
    ]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout


@pytest.mark.parametrize("layout", [drawing.WIDE, pytest.param(drawing.NARROW, marks=EDGE)])
def test_names_of_80_characters_leave_charts_their_room(layout: drawing.Layout) -> None:
    names = [f"Swin v2 with {part} and further words up to eighty characters: {part}".ljust(80, "x") for part in "AB"]
    study = results({name: {1: right(0.9), 2: right(0.91)} for name in names})
    for chart in figures.charts_for(TOP1):
        figure = chart.draw(study, layout)
        figure.savefig(BytesIO())  # a layout that was given up is a warning, and so an error
        widest = sum(axes.get_position().width for axes in figure.axes[: layout.columns])
        assert widest > 0.4, chart.name
        shown = [text.get_text() for text in figure.findobj(Text2D)]
        assert not [text for text in shown if names[0] in text]
    rows = sections._ranked_rows(study)
    assert {*names} <= {row.head for row in rows}


@needs_browser
@pytest.mark.parametrize("study", ["clean", *edges("troubled")])
def test_nothing_sticks_out_on_a_phone(study: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    # A window cannot be as narrow as a phone, a frame can. As `srcdoc` it is of the page's own origin and loaded
    # before the page is, so that the page can say how wide it is.
    report = escape(_html(request.getfixturevalue(study)))
    (tmp_path / "phone.html").write_text(
        f'<iframe srcdoc="{report}" style="border:0; width:390px; height:800px"></iframe><script>onload = () => '
        "document.title = 'width ' + frames[0].document.documentElement.scrollWidth</script>"
    )
    assert "<title>width 390</title>" in dump(tmp_path / "phone.html")


# The gallery of test images


ALL = np.ones(6, dtype=bool)


def but(*wrong: int) -> np.ndarray:
    return ~np.isin(np.arange(6), wrong)


def test_disagreements_come_first_then_what_all_get_wrong() -> None:
    # Image 4 divides the models shown (seed 1) in both seeds, image 2 in one of two; 5 is wrong for all, 0 once.
    study = results({"A": {1: but(5), 2: but(5)}, "B": {1: but(5, 4, 2), 2: but(5, 4, 0)}})
    assert {run.run.seed for run in models_shown(study).values()} == {1}
    assert interesting(study)[:4].tolist() == [4, 2, 5, 0]


def test_the_seed_that_most_variants_finished_is_shown() -> None:
    shown = models_shown(results({"A": {1: ALL, 2: ALL}, "B": {2: ALL}}))
    assert [run.run.seed for run in shown.values()] == [2, 2]


class Tiny:
    """Six images of one pixel pattern each."""

    num_classes, class_names = 3, ("cat", "dog", "eel")

    def raw_images(self, split: str, indices: list[int]) -> list[np.ndarray]:
        assert split == "test"
        return [np.full((8, 8, 1), 40 * index, dtype=np.uint8) for index in indices]


def test_a_card_tells_each_models_answer_beside_the_others() -> None:
    study = results({"A": {1: but(5), 2: ALL}, "B": {1: but(5, 4), 2: ALL}})
    first, *_, last = gallery(study, Tiny())
    assert first.label == "dog"  # image 4, the labels being 0 1 2 0 1 2
    assert [(a.variant, a.predicted, a.right, a.seeds_right, a.seeds) for a in first.answers] == [
        ("A", "dog", True, 2, 2),
        ("B", "eel", False, 1, 2),
    ]
    assert abs(first.answers[1].confidence - 0.9) < 1e-6
    assert len({answer.predicted for answer in last.answers}) == 1


def decode(uri: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))))


def test_small_images_keep_every_pixel_and_photos_are_shrunk() -> None:
    rng = np.random.default_rng(0)
    for channels in (1, 3):
        small = rng.integers(0, 256, (28, 20, channels), dtype=np.uint8)
        np.testing.assert_array_equal(decode(data_uri(small)).reshape(small.shape), small)
    photo = data_uri(rng.integers(0, 256, (480, 640, 3), dtype=np.uint8))
    assert photo.startswith("data:image/jpeg")
    assert decode(photo).shape == (120, 160, 3)


# The report in W&B


@pytest.fixture
def study(tmp_path: Path) -> StudyResults:
    study = results({name: {seed: right(a, 300, seed) for seed in (1, 2)} for name, a in {"A": 0.9, "B": 0.7}.items()})
    object.__setattr__(study.study, "path", tmp_path / "study.yaml")
    study.study.path.write_text("name: Study")
    return study


@pytest.mark.slow
def test_without_a_key_the_report_is_logged_offline(study: StudyResults, digits: Digits, tmp_path: Path) -> None:
    write_report(study, digits, tmp_path)
    place = write_dashboard(study, tmp_path, online=False)
    (run,) = (tmp_path / "wandb").glob("offline-run-*")
    assert place == f"offline; to upload it: wandb sync {run}"
    media = run / "files" / "media"
    (pairs,) = (media / "table").glob("pairs_*.json")
    table = json.loads(pairs.read_text())
    row = dict(zip(table["columns"], table["data"][0], strict=True))
    assert (row["better"], row["worse"], row["verdict"]) == ("A", "B", "better")
    assert row["lead"] == pytest.approx(20)
    assert {path.stem.split("_")[0] for path in (media / "images" / "figures").iterdir()} >= {"ranking", "calibration"}
    assert list((media / "html").glob("report_*.html"))


@pytest.mark.slow(edge=True)
def test_the_workspace_shows_the_tables_and_the_studys_runs_alone(study: StudyResults) -> None:
    view = workspace(study, "vitlab", "team")
    assert (view.entity, view.project, view.name) == ("team", "vitlab", "Study")
    definition = view._to_model().model_dump_json()  # what `save` would send
    for name in ("pairs", "runs", "classes", "val/top1", "figures/ranking", "Study"):
        assert name in definition


# The paragraph on methods: each of its statements, with its opposite


def text(study: StudyResults) -> str:
    return " ".join(methods(study)).replace(SPACE, " ")


def two(**changes: Any) -> StudyResults:
    found = results({name: {s: right(0.9 - 0.1 * i, 90) for s in (1, 2, 3)} for i, name in enumerate("AB")})
    return dataclasses.replace(found, study=dataclasses.replace(found.study, **changes))


def test_it_tells_data_seeds_test_and_versions() -> None:
    study = two()
    for run in study.finished:
        run.environment.update(torch="2.15.0", device="a CPU", precision="32-true")
        optimizer = {"class_path": "vitlab.optim.AdamW", "init_args": {"lr": 0.001}}
        run.run.config["model"] = {"class_path": "vitlab.objectives.Supervised", "init_args": {"optimizer": optimizer}}
        run.data.update(splits={"train": {"images": 1200}, "val": {"images": 120}, "test": {"images": 90}})
    told = text(study)
    assert told.startswith("Digits: 1,200 training, 120 validation and 90 test images of 3 classes. ")
    assert (
        "We compared “A” and “B” with 3 seeds each, which change the initialization, the data order and the augm"
        in told
    )
    assert "Pairs were compared at a level of 5 %; chance is other seeds and other test images, by Student's t" in told
    assert told.endswith("torch 2.15.0 on a CPU in 32-true.")
    assert "“A” and “B”: trained for 2 epochs by Supervised and AdamW at a rate of 0.001. " in told
    assert "frozen" not in told
    assert "tested after each" not in told


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"margin": 1.0}, "Differences below 1 point were taken not to matter."),
        ({"vary": ("order",)}, "which change the data order."),
        ({"test": "paired"}, "chance is other seeds and other test images, by Student's t on the differences by seed"),
        (
            {"looks": (3, 4, 5), "seeds": [1, 2, 3, 4, 5]},
            "planned for 3 to 5 seeds and tested after each from seed 3 on",
        ),
    ],
)
def test_it_tells_what_a_study_does_otherwise(changes: dict[str, Any], said: str) -> None:
    assert said not in text(two())
    assert said in text(two(**changes))


def test_it_tells_frozen_variants_and_where_weights_are_from() -> None:
    study = two()
    for run in study.finished:
        if run.run.variant == "B":
            run.run.config.update(trainer={"max_epochs": 0}, run={"probe": "knn"})
    compute = [Compute("experiments/dino.yaml", ["B"], taught=False, in_each_run=True)]
    told = text(dataclasses.replace(study, context=Context(compute=compute)))
    assert "“B”: k-NN read the features of the frozen network, without augmentation." in told
    assert "“B” started from experiments/dino.yaml, a run of its own for each seed." in told


def test_the_files_for_a_paper_hold_what_the_page_says(tmp_path: Path, no_figures: None) -> None:
    (tmp_path / "study.yaml").write_text("name: x")
    from test_report import Awkward

    study, images = two(), Awkward()
    object.__setattr__(study, "class_names", images.class_names)
    object.__setattr__(study.study, "path", tmp_path / "study.yaml")
    page = write_report(study, images, tmp_path).read_text()
    assert "For a paper" in page
    table = (tmp_path / "table.tex").read_text()
    assert table.startswith(r"\begin{tabular}")
    with (tmp_path / "report.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert {"section": "Ranking", "table": "Ranking", "row": "A", "column": "Accuracy, %", "value": "90.0"} in rows
    assert all(
        row["value"] in page.replace("&#39;", "'").replace("&amp;", "&") for row in rows if "<" not in row["value"]
    )
