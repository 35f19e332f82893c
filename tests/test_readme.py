"""Every command of README.md and docs/commands.md runs, on small data for two steps; other docs name what exists."""

import re
import runpy
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import datasets
import nbformat
import pytest
import torch
import yaml
from nbclient import NotebookClient

from tests.conftest import EXPERIMENTS
from tests.test_experiments import SHORT, make_cifar, make_photos
from vitlab import __main__ as main_module
from vitlab.__main__ import main
from vitlab.models import VisionTransformer
from vitlab.studies.file.study import read_study

ROOT = EXPERIMENTS.parent
README = (ROOT / "README.md").read_text()
DOCS = {path.name: path.read_text() for path in sorted((ROOT / "docs").glob("*.md"))}
PAGES = {"README " + part.partition("\n")[0]: part for part in re.split(r"^## ", README, flags=re.M)[1:]} | DOCS
TYPED = re.compile(
    r"(?:^|`)((?:python -m )?vitlab (?:fit|compare) [^`#\n]+|make (?!help|install|test|docs|claims)[\w-]+)", re.M
)
FIRST = {found[1]: name for name, text in PAGES.items() if (found := TYPED.search(text))}
SHELL = re.compile(r"^(?:    |`?)(python -m vitlab [^`#\n]*)", re.MULTILINE)
COMMANDS = dict.fromkeys([*SHELL.findall(README.replace("\\\n", "")), *SHELL.findall(DOCS["commands.md"])])
TARGETS = {target for text in (README, *DOCS.values()) for target in re.findall(r"[`(]make ([\w-]+)", text)}


def make_table(folder: Path, photos: Path) -> None:
    """Save photographs as a data set of the Hub, in a folder that is called as it is there."""
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])})
    rows = [{"image": str(file), "label": file.parent.name} for file in sorted(photos.rglob("*.jpg"))]
    datasets.DatasetDict({"train": datasets.Dataset.from_list(rows, features=features)}).save_to_disk(folder)


def write_small_photo_study(experiments: Path) -> None:
    """Let `my_photos` be two variants of `my_photos_cpu`, of weights made here and of a pre-training of an epoch."""
    vit = VisionTransformer(32, 4, num_classes=2, embed_dim=96, depth=4, num_heads=3, global_pool="avg")
    torch.save(vit.state_dict(), "vit.pth")
    study = yaml.safe_load((experiments / "studies/my_photos_cpu.yaml").read_text())
    network, trained = study["factors"].values()
    network["ViT"]["let"]["weights"] = "vit.pth"
    study["factors"] = {"network": {"ViT": network["ViT"]}}
    study["factors"]["trained"] = {name: trained[name] for name in ("frozen", "pre-trained further")}
    del study["except"]
    study |= {"name": "my_photos", "seeds": [1], "budget": {"epochs": 1}}
    (experiments / "studies/my_photos.yaml").write_text(yaml.safe_dump(study))
    before = experiments / "my_photos/cpu_further_vit.yaml"
    text = re.sub("init_from: .*", "init_from: null", before.read_text())
    before.write_text(re.sub("max_epochs: .*", "max_epochs: 1", text))
    for file in (experiments / "my_photos").glob("cpu_*.yaml"):
        file.write_text(re.sub("batch_size: .*", "batch_size: 4", file.read_text()))


@pytest.mark.slow
def test_every_command_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The README's, then those of docs/commands.md, in one directory, since later ones use what earlier ones made."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(EXPERIMENTS, tmp_path / "experiments")
    make_cifar(tmp_path / "data")
    make_photos(tmp_path / "photos")
    make_table(tmp_path / "timm/oxford-iiit-pet", tmp_path / "photos")
    assert len(COMMANDS) >= 10
    for command in (each for each in COMMANDS if "compare folder" not in each):  # it downloads weights
        arguments = shlex.split(command)[3:]
        if arguments[0] in {"fit", "probe"}:
            arguments += [part for option in SHORT.items() for part in option]
        if arguments[0] == "export":
            arguments += ["--format", "safetensors"]  # a minute for the others, which test_export.py writes
        if arguments[0] == "benchmark":
            arguments += ["--data.batch_size", "4"]
        if "experiments/finetune_folder.yaml" in arguments:
            arguments += ["--model.init_from", "null"]  # no network here
        if "my_photos" in arguments:
            write_small_photo_study(tmp_path / "experiments")
            arguments[1] = "experiments/studies/my_photos.yaml"
        elif arguments[0] == "compare":
            if (name := "my_photos_quick") in arguments:
                arguments = f"compare --data.batch_size 4 --data.root photos studies/{name}.yaml".split()
                arguments[-1:] = ["--config", f"experiments/{arguments[-1]}"]
            study = tmp_path / arguments[-1]
            text = re.sub(r"epochs: \d+|images: \d+", "epochs: 1", study.read_text())
            study.write_text(re.sub("seeds: .*", "seeds: [1]", text))
        assert main(arguments) == 0, command
    assert (tmp_path / "runs/quickstart/report.html").is_file()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Lightning's advice on a short training
@pytest.mark.parametrize("command", FIRST)
def test_the_first_command_of_every_section_and_page_runs_alone(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In a folder without runs, on small data for two steps; what needs images of the reader says how to give them."""
    monkeypatch.delenv("VITLAB_IMPORT")
    monkeypatch.chdir(tmp_path)
    shutil.copytree(EXPERIMENTS, tmp_path / "experiments")
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    make_cifar(tmp_path / "data", images=20)
    if "photos.csv" in command:
        make_photos(tmp_path / "photos")
        rows = [f"{file},{file.parent.name}\n" for file in sorted((tmp_path / "photos").rglob("*.jpg"))]
        (tmp_path / "photos.csv").write_text("file,label\n" + "".join(rows))
        command += " --model.init_from null"  # no network here
    needs_images = any(name in command for name in ("imagenet", "my_photos", "compare folder"))
    if command.startswith("make "):
        told = subprocess.run(["make", "--dry-run", *command.split()[1:]], cwd=ROOT, capture_output=True, text=True)
        command = next(line for line in told.stdout.splitlines() if "-m vitlab " in line)
    name, *arguments = shlex.split(command.partition(" --executor")[0].partition("vitlab ")[2])  # no SLURM here
    if name == "fit":
        arguments += [part for option in SHORT.items() for part in option]
    else:
        given = Path(arguments[arguments.index("--config") + 1] if "--config" in arguments else arguments[0])
        study = tmp_path / given if given.suffix else tmp_path / "experiments/studies" / f"{given}.yaml"
        if study.is_file() and "for a GPU" in study.read_text().partition("\n")[0]:
            pytest.skip("its head says so")
        if study.stem == "mine":
            blocks = re.findall(r"```yaml\n(.*?)```", DOCS[FIRST[command]], re.DOTALL)
            study.parent.mkdir(exist_ok=True)
            study.write_text(next(block for block in blocks if "variants:" in block))
        text = re.sub(r"^seeds: .*", "seeds: [1]", study.read_text(), flags=re.M)
        study.write_text(re.sub(r"^budget: .*\n", "", text, flags=re.M) + "budget: { epochs: 1 }\n")
    status = main([name, *arguments])
    if status:
        assert "--data.root" in capsys.readouterr().err
    assert status == (2 if needs_images else 0)


@pytest.mark.release
@pytest.mark.filterwarnings("ignore")  # Lightning's advice on a short training
def test_the_python_of_the_documentation_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(EXPERIMENTS, tmp_path / "experiments")
    make_cifar(tmp_path / "data")
    make_photos(tmp_path / "photos")
    shutil.copy(next((tmp_path / "photos").rglob("*.*g")), "cat.jpg")
    settings = [f"{option.removeprefix('--')}={value}" for option, value in SHORT.items()]
    short = {
        '"data.root=photos"': f'"data.root=photos", "model.init_from=null", *{settings}',  # no network here
        '"data.batch_size=64"': f"*{settings}",
        'Experiment("experiments/swin_cifar10.yaml")': f'Experiment("experiments/swin_cifar10.yaml", *{settings})',
        "num_training=100": "num_training=15",
        "CIFAR10(batch_size=128)": "CIFAR10(batch_size=4)",
        "Trainer(max_epochs=100)": "Trainer(max_steps=2, accelerator='cpu', logger=False)",
    }
    blocks = [block for text in (README, DOCS["python.md"]) for block in re.findall(r"```python\n(.*?)```", text, re.S)]
    names: dict[str, Any] = {}
    for block in blocks:
        if block.startswith("# mine/"):  # executed in tests/extending
            continue
        for long, brief in short.items():
            block = block.replace(long, brief)
        exec(block, names)
    assert {"class", "probability"} <= {*names["table"].columns}
    assert len(names["features"]) == len(list((tmp_path / "photos").rglob("*.*g")))


@pytest.mark.parametrize("target", sorted(TARGETS))
def test_every_target_of_the_documentation_exists(target: str) -> None:
    assert subprocess.run(["make", "--dry-run", target], cwd=ROOT, capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize(
    ("page", "variants"), [("studies.md", ["ViT", "Swin"]), ("claims.md", ["small patches", "large patches"])]
)
def test_the_study_of_the_documentation_is_a_valid_one(page: str, variants: list[str], tmp_path: Path) -> None:
    text, *_ = re.findall(r"```yaml\n(.*?)```", DOCS[page], re.DOTALL)
    shutil.copytree(EXPERIMENTS, tmp_path / "experiments")
    study = tmp_path / "experiments/studies/mine.yaml"
    study.write_text(text)
    assert list(read_study(study).variants) == variants


@pytest.mark.parametrize("name", DOCS)
def test_commands_and_files_of_the_documentation_exist(name: str) -> None:
    assert set(re.findall(r"python -m vitlab ([a-z][\w-]*)", DOCS[name])) <= set(main_module.COMMANDS)
    places = re.findall(r"\b(?:experiments|tests)/[\w./]+\w", DOCS[name])
    links = [f"docs/{link}" for link in re.findall(r"\]\((?!http)([^)#]+)", DOCS[name])]
    scripts = [
        f"benchmarks/{script}" + ("/__main__.py" if (ROOT / "benchmarks" / script).is_dir() else ".py")
        for script in re.findall(r"python -m benchmarks\.(\w+)", DOCS[name])
    ]
    # The reader writes mine.yaml.
    known = [place for place in [*places, *links, *scripts] if Path(place).stem != "mine"]
    assert [place for place in known if not (ROOT / place).exists()] == []


def test_every_place_picture_and_page_that_the_readme_names_exists() -> None:
    places = re.findall(r"(?<![\w/])(?:vitlab|experiments|notebooks|examples|benchmarks|tests)/[\w./]*", README)
    links = re.findall(r"\]\((?!http)([^)#]+)\)", README)
    assert len(places) >= 10
    assert [place for place in [*places, *links] if not (ROOT / place).exists()] == []


def test_the_site_has_every_page_and_the_gallery_names_what_exists() -> None:
    """`make docs` checks the links and their anchors; this needs no MkDocs."""
    site = (ROOT / "mkdocs.yml").read_text()
    pages = re.findall(r"[\w/]+\.md", site.partition("\nnav:")[2].partition("\nplugins:")[0])
    assert {f"docs/{name}" for name in DOCS} <= set(pages)
    assert [page for page in pages if not (ROOT / page).is_file()] == []
    entries = yaml.safe_load((ROOT / "docs/gallery.yaml").read_text())
    entry_of = runpy.run_path(str(ROOT / "docs/gallery.py"))["entry_of"]
    for _, command, _, title in map(entry_of, [*entries["kept"], *entries["others"]]):
        assert title
        files = [word for word in command if word.endswith((".csv", ".json")) and "{" not in word]
        assert [file for file in files if not (ROOT / file).is_file()] == []
    machine, reports = re.compile(r"[>\s](/tmp|/home|/root|/work|/Users)/"), (ROOT / "docs/gallery").glob("*.html")
    assert [report.name for report in reports if machine.search(report.read_text())] == []


# Notebooks


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
