"""What a file of somebody else may do: an experiment, a study or a run whose configuration names code to be run.

The oracle is a file, which every trap would create.
"""

import io
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import vitlab
from tests.conftest import TINY, edges
from vitlab.__main__ import COMMANDS, main
from vitlab.config import IMPORT, Config, merge, nest
from vitlab.experiment.parser import Settings
from vitlab.models.stored import build
from vitlab.objectives import Objective, Supervised

REFUSED = "could run anything"
RUN = "runs/tiny/seed-0"


def shell() -> Config:
    return {"class_path": "os.system", "init_args": {"command": f"touch {Path.cwd() / 'TRAP'}"}}


def optimizer(arguments: Any) -> Config:
    settings = {"lr": 1e-3, "optimizer": "torch.optim.RAdam", "arguments": arguments}
    return {"model": {"init_args": {"optimizer": {"class_path": "vitlab.optim.AnyOptimizer", "init_args": settings}}}}


def timm(**more: Any) -> Config:
    backbone = {"class_path": "vitlab.models.TimmModel", **more}
    return {"model": {"init_args": {"backbone": merge({"init_args": {"name": "resnet18"}}, backbone)}}}


def callback(function: Any) -> Config:
    called = {"class_path": "lightning.pytorch.callbacks.LambdaCallback", "init_args": {"on_fit_start": function}}
    return {"trainer": {"callbacks": [called]}}


def own(key: str, path: str = "trap.Class") -> Config:
    return nest(key, {"class_path": path})


def task() -> Config:
    """A class of vitlab whose objects start a process when they are called."""
    arguments = {"command": ["touch", str(Path.cwd() / "TRAP")], "log": "log", "seed": 0}
    return {"class_path": "vitlab.studies.training.executors.RunTask", "init_args": arguments}


TRAPS = {
    "a command in an argument of any type": lambda: optimizer({"eps": shell()}),
    "a command in a list of it": lambda: optimizer({"betas": [shell(), 0.9]}),
    "a command for timm": lambda: timm(init_args={"model_kwargs": {"norm_layer": shell()}}),
    "a command in dict_kwargs": lambda: timm(dict_kwargs={"norm_layer": shell()}),
    "a command as a function": lambda: callback("os.system"),
    "a command through torch": lambda: callback("torch.os.system"),
    "a command through vitlab": lambda: callback("vitlab.config.os.system"),
    "a command as a callback": lambda: callback(shell()),
    "a command as a model": lambda: {"model": shell()},
    "a function that reads pickles": lambda: callback("torch.load"),
    "a function that runs a folder": lambda: callback({"class_path": "torch.hub.load", "init_args": {"model": "x"}}),
    "a function of vitlab": lambda: callback("vitlab.commands.runs.run_rm"),
    "a callable class of vitlab": lambda: callback(task()),
    "a module, objective": lambda: own("model"),
    "a module, data": lambda: own("data"),
    "a module, backbone": lambda: own("model.init_args.backbone"),
    "a module, optimizer": lambda: own("model.init_args.optimizer"),
    "a module, schedule": lambda: own("model.init_args.schedule"),
    "a module, metric": lambda: own("model.init_args.extra_metrics.x"),
    "a module, type": lambda: merge(optimizer({}), nest("model.init_args.optimizer.init_args.optimizer", "trap.Class")),
    "a module, logger": lambda: own("trainer.logger"),
    "a module, strategy": lambda: own("trainer.strategy"),
    "a module, plugins": lambda: own("trainer.plugins"),
    "a module, profiler": lambda: own("trainer.profiler"),
    "a module, text": lambda: nest("trainer.logger", "trap.Class"),
    "a file with a function": lambda: nest("trainer.callbacks", "callbacks.yaml"),
}
QUICK = ("a command in an argument of any type", "a function that reads pickles", "a module, objective")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Work in a folder with a finished run, a study, a picture and a module that is a trap."""
    folder = tmp_path_factory.mktemp("trust")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend(folder)
        patch.delenv(IMPORT)
        trap = "import pathlib\npathlib.Path(__file__).with_name('TRAP').touch()\n"
        Path("trap.py").write_text(trap + "from vitlab.models import VisionTransformer as Class\n")
        Path("callbacks.yaml").write_text(yaml.safe_dump(callback("torch.hub.load")["trainer"]["callbacks"]))
        Path("tiny.yaml").write_text(yaml.safe_dump(merge(TINY, {"trainer": {"limit_train_batches": 1}})))
        Image.fromarray(np.zeros((20, 20, 3), np.uint8)).save("picture.png")
        assert main(["fit", "tiny.yaml"]) == 0
        yield folder


def plant(trap: Config) -> None:
    """Write the trap into an experiment, a study and the finished run, its checkpoints too."""
    config = merge(TINY, trap)
    Path("trapped.yaml").write_text(yaml.safe_dump(config))
    decay = "model.init_args.optimizer.init_args.weight_decay"
    variants = {"one": nest(decay, 0.1), "two": nest(decay, 0.2)}
    study = {"name": "s", "base": "trapped.yaml", "variants": variants, "seeds": [1], "budget": {"epochs": 1}}
    Path("study.yaml").write_text(yaml.safe_dump(study))
    shutil.rmtree("planted", ignore_errors=True)
    shutil.copytree(RUN, "planted/trapped/seed-0")
    for file in Path("planted").rglob("config.yaml"):
        file.write_text(yaml.safe_dump(merge(yaml.safe_load(file.read_text()), trap)))
    for file in Path("planted").rglob("*.ckpt"):
        state = torch.load(file, weights_only=True)
        state["vitlab_config"] = merge(state["vitlab_config"], trap)
        torch.save(state, file)


def said(*arguments: str) -> str:
    """Run a command and return what it prints; whether it did what it was told to does not matter here."""
    sys.modules.pop("trap", None)
    with redirect_stdout(io.StringIO()) as out, redirect_stderr(out):
        try:
            main(arguments)
        except Exception as error:
            print(error)
    assert not Path("TRAP").exists(), arguments
    return out.getvalue()


def given(command: str, file: str) -> list[str]:
    """Return what a command takes besides a file."""
    more = {
        "predict": ["--images", "picture.png", "--out", "out"],
        "embed": ["--images", "picture.png", "--out", "out.parquet"],
        "visualize": ["--out", "drawn"],
        "export": ["--out", "exported"],
        "transfer": ["--sizes", "20", "--out", "transferred"],
        "list": ["--root", "planted"],
        "rm": ["--root", "planted"],
        "schema": ["schemas"],
    }
    without_file = ("list", "rm", "init", "schema")
    return [command, *([] if command in without_file else [file]), *more.get(command, [])]


@pytest.mark.parametrize(
    "name", [each if each in QUICK else pytest.param(each, marks=pytest.mark.slow) for each in TRAPS]
)
def test_no_experiment_runs_what_it_was_not_trusted_with(name: str, place: Path) -> None:
    Path("trapped.yaml").write_text(yaml.safe_dump(merge(TINY, TRAPS[name]())))
    expected = "not correspond to a subclass of Objective" if name == "a command as a model" else REFUSED
    assert expected in said("fit", "trapped.yaml") or REFUSED in said("fit", "trapped.yaml")


def test_a_class_is_not_even_imported_where_none_is_expected(place: Path) -> None:
    Path("trapped.yaml").write_text(yaml.safe_dump(merge(TINY, own("run.wandb.tags"))))
    assert "run.wandb.tags" in said("fit", "trapped.yaml")


# Those that read what is wrong here as data, or first ask for a finished study or a claim.
READERS = {"list", "rm", "init", "schema", "verdict", "predict", "embed", "robustness"}


@pytest.mark.parametrize("trap", ["a command in an argument of any type", "a module, backbone"])
@pytest.mark.parametrize(
    "command", [each if each in ("test", "export") else pytest.param(each, marks=pytest.mark.slow) for each in COMMANDS]
)
def test_no_command_runs_what_it_was_not_trusted_with(command: str, trap: str, place: Path) -> None:
    plant(TRAPS[trap]())
    answers = [said(*given(command, file)) for file in ("planted/trapped/seed-0", "trapped.yaml", "study.yaml")]
    assert any(REFUSED in answer for answer in answers) or command in READERS, answers


def test_a_model_is_loaded_from_trusted_modules_alone(place: Path) -> None:
    plant(own("model.init_args.backbone"))
    with pytest.raises(ValueError, match=f"trap.Class {REFUSED}"):
        vitlab.load("planted/trapped/seed-0")
    assert not Path("TRAP").exists()
    plant(optimizer({"eps": shell()}))
    assert vitlab.load("planted/trapped/seed-0").class_names  # of the optimizer nothing is read
    assert not Path("TRAP").exists()


@pytest.mark.parametrize("way", ["--import", "path", "trust", "environment"])
def test_what_the_user_names_is_trusted(way: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("mine_too.py").write_text("from vitlab.objectives import Supervised\nclass Mine(Supervised): ...\n")
    monkeypatch.setenv(IMPORT, "mine_too" if way == "environment" else "")
    one_step = {"trainer": {"limit_train_batches": 1}}
    Path("own.yaml").write_text(yaml.safe_dump(merge(merge(TINY, one_step), own("model", "mine_too.Mine"))))
    if way == "trust":
        vitlab.trust("mine_too")
    arguments = {"--import": ["own.yaml", "--import", "mine_too"], "path": ["tiny.yaml", "--model", "mine_too.Mine"]}
    assert REFUSED not in said("fit", *arguments.get(way, ["own.yaml"]), "--print_config")


def test_a_trusted_function_may_be_named_and_a_default_is_none_of_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(IMPORT, "tests")
    for settings in (own("model", f"{__name__}.WithDefault"), callback(f"{__name__}.shell")):
        Settings(merge(TINY, settings), [])
    assert build(Objective, merge(TINY, own("model", f"{__name__}.WithDefault"))["model"]).activation is torch.relu


def test_what_no_module_has_is_not_imported(place: Path) -> None:
    assert "--import nowhere: No module named" in said("fit", "tiny.yaml", "--import", "nowhere")


class WithDefault(Supervised):
    def __init__(self, *args: Any, activation: Any = torch.relu, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.activation = activation


def link(there: Path, elsewhere: Path, content: str | None) -> None:
    """Put a link to a folder, or to a file with this content, in the place of what a run or study writes."""
    shutil.rmtree(there) if there.is_dir() else there.unlink(missing_ok=True)
    there.parent.mkdir(parents=True, exist_ok=True)
    elsewhere.mkdir() if content is None else elsewhere.write_text(content)
    there.symlink_to(elsewhere)


FOLDERS = (".", "..", "checkpoints", "other_test")


@pytest.mark.parametrize(
    "name", ["checkpoints", "metrics.csv", *edges(".", "..", "other_test", "data.json", ".lock", "predictions.parquet")]
)
def test_a_run_writes_nothing_through_a_link(name: str, place: Path, tmp_path: Path) -> None:
    shutil.rmtree("linked", ignore_errors=True)
    shutil.copytree(RUN, "linked/tiny/seed-0")
    Path("linked/tiny/seed-0/summary.json").unlink()
    elsewhere, content = tmp_path / "elsewhere", None if name in FOLDERS else "theirs"
    link(Path(os.path.normpath(f"linked/tiny/seed-0/{name}")), elsewhere, content)
    assert "nothing is written through a link" in said("fit", "tiny.yaml", "--run.root", "linked")
    if name not in FOLDERS[:3]:  # without which there is nothing to test
        assert "nothing is written through a link" in said("test", "linked/tiny/seed-0")
    assert not any(elsewhere.iterdir()) if content is None else elsewhere.read_text() == content


@pytest.mark.parametrize(
    "name", ["one", *edges("", "one/seed-1", "one/seed-1.log", "report.html", ".lock", "results.csv")]
)
def test_a_study_writes_nothing_through_a_link(name: str, place: Path, tmp_path: Path) -> None:
    shutil.rmtree("linked", ignore_errors=True)
    plant({})
    elsewhere, content = tmp_path / "elsewhere", "theirs" if "." in name else None
    link(Path("linked/s", name), elsewhere, content)
    assert "nothing is written through a link" in said("compare", "study.yaml", "--root", "linked")
    assert not any(elsewhere.iterdir()) if content is None else elsewhere.read_text() == content


@pytest.mark.parametrize(
    ("command", "name"),
    [
        (["probe"], "features"),
        (["export", "--format", "safetensors"], "export/model.safetensors"),
        *edges(
            (["probe"], "probe-last.json"),
            (["probe"], "."),
            (["probe", "--ckpt_path", RUN + "/checkpoints/last.ckpt"], "other_test"),
            (["export", "--format", "safetensors"], "export"),
            (["export", "--format", "safetensors"], "export/README.md"),
            (["robustness"], "robustness"),
            (["robustness"], "../robustness/robustness.csv"),
        ),
    ],
)
def test_what_measures_and_exports_a_run_writes_nothing_through_a_link(
    command: list[str], name: str, place: Path, tmp_path: Path
) -> None:
    shutil.rmtree("linked", ignore_errors=True)
    shutil.copytree(RUN, "linked/tiny/seed-0")
    elsewhere, content = tmp_path / "elsewhere", "theirs" if Path(name).suffix else None
    link(Path(os.path.normpath(f"linked/tiny/seed-0/{name}")), elsewhere, content)
    where = "linked/tiny" if command[0] == "robustness" else "linked/tiny/seed-0"
    if name == ".":
        shutil.copytree(RUN, elsewhere, dirs_exist_ok=True)
    before = sorted(elsewhere.rglob("*")) if content is None else []
    assert "nothing is written through a link" in said(command[0], where, *command[1:])
    assert sorted(elsewhere.rglob("*")) == before if content is None else elsewhere.read_text() == content


def test_the_folder_of_all_runs_may_be_a_link(place: Path, tmp_path: Path) -> None:
    shutil.copytree("runs", tmp_path / "disk")
    Path("linked-root").symlink_to(tmp_path / "disk")
    Path("linked-root/tiny/seed-0/latest").symlink_to("checkpoints")  # as W&B's, within the run
    assert main(["fit", "tiny.yaml", "--run.root", "linked-root"]) == 0
