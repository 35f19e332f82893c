"""Packages that only some commands need: without them, one line names the command that installs them."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from vitlab.commands.dispatch import run
from vitlab.data import HuggingFace, LitData
from vitlab.experiment.errors import need

Write = Callable[..., Path]


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
def test_export_without_a_package_of_onnx_names_its_extra_before_any_work(
    package: str, tiny: Write, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    assert run("export", ["--config", str(tiny())]) == 2
    said = capsys.readouterr().err
    assert said == f"error: --format onnx needs the package {package}: pip install 'vitlab[export]'\n"
    assert not Path("runs").exists()


def test_a_dashboard_without_its_package_names_its_extra_before_training(
    tiny: Write, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny()
    Path("study.yaml").write_text("base: tiny.yaml\nvariants: {a: {}, b: {seed_everything: 1}}\nseeds: [1, 2]\n")
    monkeypatch.setitem(sys.modules, "wandb_workspaces", None)
    assert run("compare", ["study.yaml", "--dashboard"]) == 2
    said = capsys.readouterr().err
    assert said == "error: --dashboard needs the package wandb_workspaces: pip install 'vitlab[dashboard]'\n"
    assert not Path("runs").exists()


@pytest.mark.parametrize(("source", "package"), [(LitData, "litdata"), (HuggingFace, "datasets")])
def test_a_source_without_its_package_names_its_extra(
    source: type, package: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    said = rf"{source.__name__} needs the package {package}: pip install 'vitlab\[sources\]'"
    with pytest.raises(ValueError, match=said):
        source(str(tmp_path))


def test_what_is_installed_needs_no_word() -> None:
    need("export", "numpy", "torch", what="Nothing")
