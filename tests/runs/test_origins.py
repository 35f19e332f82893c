"""What environment.json records of code and weights that no version number tells."""

import importlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from vitlab.commands.dispatch import run
from vitlab.runs import record
from vitlab.runs.record import continued, sources, weights

SHIFTED = """
import torch
from own_helper import shifts
from vitlab.models import VisionTransformer


class Shifted(VisionTransformer):
    def forward(self, images):
        if self.training:
            return super().forward(images)
        return sum(super(Shifted, self).forward(torch.roll(images, shift, 3)) for shift in shifts)
"""


@pytest.fixture
def own_class(tiny: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Path]]:
    """Write a class that averages shifted views at test time, with a helper; return how to write its experiment."""
    Path("own_shifted.py").write_text(SHIFTED)
    Path("own_helper.py").write_text("shifts = (-1, 0, 1)\n")
    monkeypatch.syspath_prepend(Path.cwd())
    backbone = {
        "class_path": "own_shifted.Shifted",
        "init_args": {"patch_size": 4, "embed_dim": 16, "depth": 2, "num_heads": 2},
    }
    yield lambda name: tiny({"model": {"init_args": {"backbone": backbone}}}, name=name)
    for name in ("own_shifted", "own_helper"):
        sys.modules.pop(name, None)


def recorded(name: str) -> dict:
    return json.loads(Path(f"runs/{name}/seed-0/environment.json").read_text())


def test_a_class_of_the_users_own_is_recorded_by_the_hash_of_its_files(own_class: Callable[..., Path]) -> None:
    assert run("fit", ["--config", str(own_class("one"))]) == 0
    (path, source), *others = recorded("one")["sources"].items()
    assert (path, others) == ("own_shifted.Shifted", [])
    assert not {"weights", "changed"} & recorded("one").keys()
    assert recorded("one")["code"] == record.LOADED == record.code()
    assert Path(source["file"]) == Path("own_shifted.py").resolve()

    config = {"model": {"class_path": "own_shifted.Shifted"}}
    assert sources(config) == {path: source}
    for file in ("own_helper.py", "own_shifted.py"):  # what the class imports counts too
        before = sources(config)[path]["hash"]
        Path(file).write_text(Path(file).read_text() + "# other code\n")
        assert sources(config)[path]["hash"] != before


def test_only_files_without_a_version_are_recorded(own_class: Callable[..., Path]) -> None:
    importlib.import_module("own_shifted")
    assert sources({"model": {"class_path": "vitlab.objectives.Supervised"}, "lr": 0.1, "loss": "torch.nn.Loss"}) == {}
    values = {"block": "own_shifted.Shifted", "weight": "0.5", "root": "runs/own_shifted.py"}
    assert list(sources(values)) == ["own_shifted.Shifted"]  # a class as a plain value


def test_weights_are_recorded_by_the_hash_of_their_file(tmp_path: Path) -> None:
    first, second = tmp_path / "first.pth", tmp_path / "second.pth"
    first.write_bytes(b"weights")
    second.write_bytes(b"other weights")
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "run" / "checkpoints" / "last.ckpt").write_bytes(b"weights")

    def recorded_of(source: Path) -> str | None:
        return weights({"model": {"init_args": {"init_from": str(source)}}}, {})["model.init_args.init_from"]["hash"]

    assert recorded_of(first) == recorded_of(tmp_path / "run") != recorded_of(second) is not None
    assert recorded_of(tmp_path / "deleted.pth") is None
    teacher = {"weights": str(second), "model": {"init_args": {"name": "resnet18", "pretrained": True}}}
    named = weights({"model": {"init_args": {"init_from": None, "teacher": teacher}}}, {})
    assert [entry["path"] for entry in named.values()] == [str(second), "timm/resnet18"]


def test_the_code_that_trains_has_a_hash(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    models, studies = tmp_path / "vitlab" / "models", tmp_path / "vitlab" / "studies"
    for folder in (models, studies):
        folder.mkdir(parents=True)
        (folder / "a.py").write_text("a = 1\n")
    monkeypatch.setattr(record, "__file__", str(models / "record.py"))
    before = record.code()
    (studies / "a.py").write_text("a = 2\n")  # a report does not train
    assert record.code() == before
    (models / "a.py").write_text("a = 2\n")
    changed = record.code()
    (models / "a.py").rename(models / "b.py")
    assert len({before, changed, record.code()}) == 3


def test_a_run_that_continues_with_other_code_says_so() -> None:
    began = {"code": "1", "sources": {"a.B": {"hash": "1"}}, "weights": {"init_from": "1"}}
    assert continued(began, {"code": "1", "sources": {"a.B": {"hash": "1"}}}) == began  # the weights may be gone
    other = continued(began, {"code": "1", "sources": {"a.B": {"hash": "2"}}})
    assert other["changed"] == ["sources"]
    assert continued(other, other)["changed"] == ["sources"]  # also after the next start
