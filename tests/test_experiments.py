"""Every experiment file that is shipped parses, builds and trains two steps, on small images made here."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import replace
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest
import yaml

from tests.conftest import EXPERIMENTS
from tests.noise import make_noise, write_shards
from vitlab.__main__ import COMMANDS
from vitlab.commands.dispatch import run
from vitlab.config import WEIGHTS, flatten, load_yaml, locate, nest, short, weights_of
from vitlab.experiment.chain import Source
from vitlab.experiment.experiment import Experiment
from vitlab.studies.compare import ResolvedStudy
from vitlab.studies.file.runs import differing_keys, plan
from vitlab.studies.file.study import read_study, slug

FILES = sorted(EXPERIMENTS.glob("*.yaml"))
STUDIES = sorted((EXPERIMENTS / "studies").glob("*.yaml"))
CLAIMS = [
    path for path in sorted((EXPERIMENTS / "claims").rglob("*.yaml")) if {"claim", "like"} & load_yaml(path).keys()
]
ALL = [*sorted(EXPERIMENTS.rglob("*.yaml")), *sorted((EXPERIMENTS.parent / "benchmarks").glob("*.yaml"))]
MAKE = "".join((EXPERIMENTS.parent / name).read_text() for name in ("Makefile", "maintainers.mk"))
TARGETS = {*re.findall(r"^([a-z-]+):", MAKE, re.MULTILINE), *(path.stem for path in (*FILES, *STUDIES))}
COMMAND = re.compile(r"python -m vitlab ([^#\n`]*)")
FIRST = {command: path for path in ALL if (command := COMMAND.findall(path.read_text())[0].strip())}
TRAINED_ELSEWHERE = ("imagenet/", "overlays/fsdp2")  # the second by two processes, in tests/objectives/test_sharding.py
FITS = [each for each in FIRST if each.startswith("fit ") and not any(part in each for part in TRAINED_ELSEWHERE)]

SHORT = {
    "--trainer.max_epochs": "1",
    "--trainer.limit_train_batches": "2",
    "--trainer.limit_val_batches": "1",
    "--trainer.limit_test_batches": "1",
    "--trainer.accelerator": "cpu",
    "--data.batch_size": "2",
    "--data.eval_batch_size": "4",
    "--run.test": "false",
    "--run.compile": "false",  # what is compiled is in tests/models/test_compile.py, without checks of shapes
}
NARROW = {  # else a ViT-L, its teacher and 65,536 outputs take 12 GB and a quarter of an hour
    "--model.backbone.embed_dim": "24",
    "--model.backbone.depth": "1",
    "--model.backbone.num_heads": "2",
    "--model.out_dim": "32",
}


def make_cifar(root: Path, images: int = 6) -> None:
    rng = np.random.default_rng(0)
    root.mkdir()
    for classes in (10, 100):
        arrays = {}
        for split, n in (("train", images * classes), ("test", 2 * classes)):
            arrays[f"x_{split}"] = rng.integers(0, 256, (n, 32, 32, 3), dtype=np.uint8)
            arrays[f"y_{split}"] = np.arange(n) % classes
        np.savez(root / f"cifar{classes}.npz", **arrays)


def make_photos(root: Path) -> None:
    make_noise(root.parent, {root.name: 12}, ("cat", "dog"), (40, 30), "jpg")


def make_shards(folder: Path, photos: Path) -> None:
    for split in ("train", "val"):
        files = sorted(photos.rglob("*.jpg"))
        records = ({"image": file.read_bytes(), "label": int(file.parent.name == "dog")} for file in files)
        write_shards(folder / split, records, chunk_size=5)


@pytest.mark.filterwarnings("ignore:unclosed file", "ignore::pytest.PytestUnraisableExceptionWarning")  # of LitData
@pytest.mark.parametrize(
    "command", [pytest.param(each, marks=[] if "deit_hard" in each else pytest.mark.slow) for each in FITS]
)
def test_the_first_command_of_every_file_trains_two_steps(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a folder without runs and experiments, as after `pip install`, where what a run starts from is trained too."""
    monkeypatch.chdir(tmp_path)
    make_cifar(tmp_path / "data")
    for folder in ("photos", "imagenet", "imagenette2-160"):
        make_photos(tmp_path / folder)
    if "shards" in command:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        make_shards(tmp_path / "shards", tmp_path / "photos")
    (tmp_path / "benchmarks").symlink_to(EXPERIMENTS.parent / "benchmarks")
    arguments = re.sub(r"--trainer.devices \d+", "", command).split()[1:]
    text = "".join(locate(file).read_text() for file in arguments if file.endswith(".yaml"))
    options = SHORT | {"--trainer.fast_dev_run": "2"}
    if "imagenet" in command:
        options["--trainer.precision"] = "32-true"  # else minutes a step on some CPUs; smaller networks keep theirs
    if "vit_large" in text:
        options |= NARROW
    options |= {f"--{short(key)}": f"{each} data.batch_size=4" for key, each in before(text)}
    if "timm/" in text:
        options["--model.init_from"] = "null"  # a download
    assert run("fit", [*arguments, *(word for pair in options.items() for word in pair)]) == 0
    assert not Path("runs").exists()


def before(text: str) -> list[tuple[str, str]]:
    """Return the settings of an experiment that name another one."""
    given = {f"model.{key}": value for key, value in flatten(yaml.safe_load(text)["model"]).items()}
    return [(key, value) for key, value in given.items() if isinstance(value, str) and Source.parse(value)]


def test_every_file_takes_weights_that_it_trains_downloads_or_tells_to_train_first() -> None:
    """Of the ImageNet recipes, which take days, the head's first command trains what comes before."""
    untold = {}
    for path in ALL:
        for key, value in flatten(load_yaml(path)).items():
            if key.rpartition(".")[2] not in WEIGHTS or not isinstance(value, str) or re.search(r"^\$|\.npz$", value):
                continue  # what begins with $ is another factor's `let`, whose own value is checked
            source, head = Source.parse(value), path.read_text().partition("\nseed_everything")[0]
            first = COMMAND.findall(path.read_text())[0]
            told = (
                (source is not None and locate(source.file).is_file())
                or (value.startswith("timm/") and re.search("download|released weights", head))
                or (value.startswith("runs/") and f"{path.parent.name}/{Path(value).parent.name}.yaml" in first)
            )
            if not told:
                untold[f"{path.name}: {key}"] = value
    assert untold == {}


@pytest.mark.parametrize(
    ("name", "command"),
    [("window_transfer", "transfer"), ("window_transfer_digits", "transfer"), ("swin_ablation_digits", "visualize")],
)
def test_make_hands_the_runs_of_a_study_on(name: str, command: str) -> None:
    """The runs lie where the study's name puts them, and the last command takes them from there."""
    place = f"runs/{slug(read_study(EXPERIMENTS / 'studies' / f'{name}.yaml').name)}"
    told = subprocess.run(
        ["make", "--dry-run", name], cwd=EXPERIMENTS.parent, capture_output=True, text=True, check=True
    )
    study, then = [line for line in told.stdout.splitlines() if "-m vitlab" in line]
    assert f"compare --config experiments/studies/{name}.yaml" in study
    assert f"{command} --config {place}/*/seed-" in then
    assert f"--out {place}/" in then


@pytest.mark.parametrize(
    ("study", "file"), [("digits", "experiments/studies/digits.yaml"), ("my/own.yaml", "my/own.yaml")]
)
def test_make_dashboard_takes_a_study_by_its_name_or_its_file(study: str, file: str) -> None:
    command = ["make", "--dry-run", "dashboard", f"STUDY={study}"]
    told = subprocess.run(command, cwd=EXPERIMENTS.parent, capture_output=True, text=True, check=True)
    assert f"compare --config {file} --dashboard" in told.stdout


def test_every_yaml_file_starts_with_its_command_and_the_expected_result() -> None:
    """And what `make help` prints of it, its first line, is short."""
    assert {str(path): fault for path in ALL if (fault := fault_of_head(path))} == {}


def named_by(path: Path) -> str:
    """Return the command that the head of a file names, with the file where that is run by its name."""
    folders = {EXPERIMENTS: "fit", EXPERIMENTS / "imagenet": "fit", EXPERIMENTS / "studies": "compare"}
    command = folders.get(path.parent)
    place = path.relative_to(EXPERIMENTS.parent)
    return f"{command} --config {place}" if command else "(fit|compare|probe)"


def fault_of_head(path: Path) -> str:
    head = "".join(takewhile(lambda line: line.startswith("#"), path.read_text().splitlines(keepends=True)))
    described, command, expected = [*head.split("#\n"), "", ""][:3]
    named = [EXPERIMENTS.parent / name for name in re.findall(r"(?:experiments|benchmarks)/[\w./]+\.yaml", head)]
    faults = {
        "more than a line of description": len(described.splitlines()) != 1,
        "a long description": len(described) > (93 if path in {*FILES, *STUDIES} else 121),
        "no expected result": not expected.startswith("# Expected: "),
        "another command": not set(re.findall(r"python -m vitlab (\w+)", head)) <= set(COMMANDS),
        "no command": not re.search(rf"python -m vitlab {named_by(path)}", command),
        "a file that does not exist": not all(file.is_file() for file in named),
        "another target": not set(re.findall(r"\bmake ([\w-]+)", command)) <= {*TARGETS},
    }
    return ", ".join(fault for fault, there in faults.items() if there)


@pytest.mark.slow
@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_every_run_of_a_study_is_built(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of its first seed, as `compare` builds them before it starts any: on the meta device, where weights are free."""
    monkeypatch.chdir(tmp_path)
    make_cifar(tmp_path / "data")
    for folder in ("photos", "imagenet", "data/tiny_imagenet_40"):
        make_photos(tmp_path / folder)
    study = read_study(path)
    for point in study.points:
        runs = plan(replace(point, seeds=study.seeds[:1]), tmp_path)
        assert Experiment(runs[0].config).config == runs[0].config  # its file is the same run again
        assert [run.variant for run in runs] == [variant for variant in study.variants for _ in study.parts]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Lightning's advice on a short training
@pytest.mark.parametrize(
    "path",
    [
        path
        for path in (*STUDIES, *CLAIMS)
        if re.search(r"(init_from|weights): experiments/|distillation/", path.read_text())
    ],
    ids=lambda path: f"{path.parent.name}/{path.stem}",
)
def test_a_study_trains_what_its_runs_start_from(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One run of each, of one fold and seed, for two steps, in a folder without runs and experiments."""
    monkeypatch.chdir(tmp_path)
    make_cifar(tmp_path / "data")
    make_photos(tmp_path / "photos")
    started = {}
    for each in plan(read_study(path), tmp_path):
        for key, source in weights_of(each.config).items():
            if Source.parse(source):
                started.setdefault(re.sub(r" data\.(split_seed|folds\.test)=\d+", "", source), (source, each, key))
    for source, each, key in started.values():
        wanted, parsed = f"{source} data.batch_size=4", Source.parse(source)
        assert parsed is not None
        if before(locate(parsed.file).read_text()):  # it starts from a training of minutes
            wanted += " model.init_from=null"
        changes = {key: wanted, "trainer.fast_dev_run": 2, "data.init_args": {"batch_size": 4, "train_images": None}}
        experiment = Experiment(each.config, *(nest(*change) for change in changes.items()))
        if not any("timm/" in str(first.config) for first in experiment.before().values()):  # a download
            experiment.find_weights()
            experiment.fit()
    assert started


@pytest.mark.slow
def test_a_budget_of_images_counts_those_of_each_variant(tmp_path: Path) -> None:
    """100, 300 or 900 training images: as many are seen."""
    study = read_study(EXPERIMENTS / "claims/data_hunger.yaml")
    planned = ResolvedStudy.of(replace(study, seeds=study.seeds[:1]), tmp_path)
    planned.spend_budget()
    planned.tune(no_runs)
    for each in planned.runs:
        batches = each.config["data"]["init_args"]["train_images"] // 64
        batches = each.config["trainer"].get("limit_train_batches") or batches  # the epochs are shortened
        assert each.epochs * 64 * batches == pytest.approx(12_900, rel=0.02)
    assert [difference.key for difference in differing_keys(study, planned.runs) if not difference.declared] == []


def no_runs(runs: object) -> NoReturn:
    raise AssertionError("nothing is to be measured")


@pytest.mark.slow
def test_the_quick_study_of_photographs_reports_and_says_how_to_use_its_leader(tmp_path: Path) -> None:
    make_photos(tmp_path / "photos")
    shutil.copytree(tmp_path / "photos", tmp_path / "new")
    study = tmp_path / "experiments/studies/my_photos_quick.yaml"
    shutil.copytree(EXPERIMENTS, tmp_path / "experiments")
    text = re.sub("^seeds: .*", "seeds: [1]", study.read_text(), flags=re.MULTILINE)
    study.write_text(re.sub("^budget: .*", "budget: { images: 16 }", text, flags=re.MULTILINE))

    def vitlab(command: str) -> str:
        words, path = [sys.executable, "-m", "vitlab", *shlex.split(command)], str(EXPERIMENTS.parent)
        run = partial(subprocess.run, cwd=tmp_path, env={**os.environ, "PYTHONPATH": path}, check=True)
        return run(words, stdout=subprocess.PIPE, text=True).stdout

    (command,) = (line for line in COMMAND.findall(text) if line.startswith("compare"))
    told = vitlab(f"{command} --data.batch_size 4").splitlines()
    assert told[0].startswith("my_photos_quick: 3\u00a0variants × 1\u00a0seed.")
    assert told[1] == "Images: 16 train, 2 val, 6 test."
    use = (tmp_path / "runs/my-photos-quick/report.md").read_text().partition("## Use\n")[2]
    vitlab(re.findall(r"python -m vitlab (predict .*)", use)[0])
    assert len((tmp_path / "predictions/predictions.csv").read_text().splitlines()) == 1 + 24


def test_every_study_is_read() -> None:
    assert [path for path in STUDIES if len(read_study(path).variants) < 2] == []


@pytest.mark.slow
@pytest.mark.parametrize(
    "path",
    [path for path in CLAIMS if "metric" not in load_yaml(path)],  # those with a metric are trained below
    ids=lambda path: str(path.relative_to(EXPERIMENTS / "claims")),
)
def test_every_claim_is_a_study_that_can_start(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the first run its variants are built, and the experiments that they start from."""
    monkeypatch.chdir(tmp_path)
    make_cifar(tmp_path / "data")
    study = read_study(path)
    assert study.claim is not None
    assert plan(study, tmp_path / "runs")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Lightning's advice on a short training
@pytest.mark.parametrize(
    "path",
    [path for path in CLAIMS if "metric" in load_yaml(path)],
    ids=lambda path: path.parent.name + "/" + path.stem,
)
def test_a_claim_ranks_by_what_its_runs_measure(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make_cifar(tmp_path / "data")
    first, *_ = plan(read_study(path), tmp_path)
    short = {"trainer": {"max_epochs": 1, "limit_train_batches": 2}, "data": {"init_args": {"batch_size": 4}}}
    metrics = Experiment(first.config, short).fit()
    assert first.metric.test in metrics
