"""Packages that only some commands need: without them, one line names the command that installs them."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from vitlab.commands.dispatch import run
from vitlab.commands.extras import need
from vitlab.data import LitData

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


@pytest.mark.parametrize("package", ["wandb", "wandb_workspaces"])
def test_a_dashboard_without_its_packages_names_its_extra_before_training(
    package: str, tiny: Write, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny()
    Path("study.yaml").write_text("base: tiny.yaml\nvariants: {a: {}, b: {seed_everything: 1}}\nseeds: [1, 2]\n")
    monkeypatch.setitem(sys.modules, package, None)
    assert run("compare", ["study.yaml", "--dashboard"]) == 2
    said = capsys.readouterr().err
    assert said == f"error: --dashboard needs the package {package}: pip install 'vitlab[dashboard]'\n"
    assert not Path("runs").exists()


def test_shards_without_litdata_name_their_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "litdata", None)
    with pytest.raises(
        ValueError, match=r"The source LitData needs the package litdata: pip install 'vitlab\[sources\]'"
    ):
        LitData(str(tmp_path))


def test_what_is_installed_needs_no_word() -> None:
    need("export", "numpy", "torch", what="Nothing")
