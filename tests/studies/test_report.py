"""A small study from its YAML to the page, with planted accuracies, and the page in a browser."""

import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator, Sequence
from html import escape
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path

import pandas as pd
import pytest
from fake_study import Digits, results, right, train_here, variant, write_study
from matplotlib import figure as drawn
from matplotlib.text import Text as Text2D
from referee.formats import SPACE
from referee.report import drawing
from referee.report.document import Cell, Details, Figure, Gallery, Part, Table, Text, write_document

from tests.conftest import EDGE, edges
from vitlab.studies.compare import RunsFailed, compare, results_of
from vitlab.studies.file.metric import TOP1
from vitlab.studies.report import figures, page, sections
from vitlab.studies.report.page import write_report
from vitlab.studies.report.sections import CLEAN
from vitlab.studies.results import StudyResults

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


def test_a_point_names_itself_under_the_pointer(clean: Path) -> None:
    titles = re.findall(r"<title>(.*?)</title>", _html(clean))[1:]  # the first is the page's
    assert any(re.fullmatch(r"Swin v2, seed 2: 9\d\.\d\d %", title) for title in titles)
    assert any(re.fullmatch(r"Swin: 9\d\.\d\d % at 154\sk parameters", title) for title in titles)
    assert any(re.match(r"ViT: \d+ % of \d+ predictions with about \d+ % confidence", title) for title in titles)


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
