"""Every notebook runs from a clean kernel, on embedded data, imports rooms alone, and is saved with its outputs."""

import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).parent.parent / "notebooks").glob("*.ipynb"))
each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


@pytest.mark.release
@pytest.mark.filterwarnings("ignore")  # the kernel's own start; what a notebook warns of is looked for below
@each_notebook
def test_the_notebook_runs(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # as in these tests: models this small only lose by a second thread
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=1200, resources={"metadata": {"path": str(path.parent)}}).execute()
    streams = [o["text"] for cell in notebook.cells for o in cell.get("outputs", []) if o["output_type"] == "stream"]
    assert not any("Warning" in text for text in streams)


@each_notebook
def test_the_notebook_imports_rooms_alone(path: Path) -> None:
    cells = [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    modules = re.findall(r"^\s*(?:from|import) (vitlab[\w.]*)", "\n".join(cells), re.MULTILINE)
    assert not [module for module in modules if module.count(".") > 1]
    assert not re.search(r"\bvitlab\.\w+\.\w+\.\w+\(", "\n".join(cells))  # nor by attributes


@each_notebook
def test_the_notebook_is_saved_as_one_run_left_it(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert all(cell.outputs for cell in cells)
    assert not any(output.output_type == "error" for cell in cells for output in cell.outputs)


@each_notebook
def test_what_is_saved_names_no_machine_and_is_small(path: Path) -> None:
    outputs = [output for cell in nbformat.read(path, as_version=4).cells for output in cell.get("outputs", [])]
    texts = [output.get("text") or str(output.get("data", {}).get("text/plain")) for output in outputs]
    assert not [text for text in texts if re.search(r"(?<![\w.])/(tmp|home|root|work|Users|var)\b|Warning", text)]
    assert path.stat().st_size < 400_000
