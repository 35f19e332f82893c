"""Files with code in them, given to each command that reads files: refused in one message, and the code has not run."""

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from tests.conftest import edges
from vitlab.commands.dispatch import run
from vitlab.config import load_yaml
from vitlab.objectives.output_cache import OutputCache

Write = Callable[..., Path]
TRAP = "trap"


class Payload:
    """Creates the file `trap` in the working directory when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (TRAP,)


@pytest.fixture
def trained(finished: Path) -> Path:
    """Write files with the payload beside a finished run: `evil.ckpt`, `.pth` …; return the run's directory."""
    state = torch.load(finished / "checkpoints" / "last.ckpt", weights_only=True)
    torch.save({**state, "payload": Payload()}, "evil.ckpt")
    torch.save({"state_dict": state["state_dict"], "payload": Payload()}, "evil.pth")
    torch.save({"model": state["state_dict"], "p": Payload()}, "old.pth", _use_new_zipfile_serialization=False)
    for name in ("evil.safetensors", "plain.ckpt"):
        Path(name).write_bytes(pickle.dumps(Payload()))
    return finished


def _the_trap_works() -> None:
    pickle.loads(Path("plain.ckpt").read_bytes())
    assert Path(TRAP).exists()


def _refused(command: str, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert run(command, arguments) == 2
    said = capsys.readouterr().err
    assert said.count("error: ") == 1
    message = said[said.index("error: ") :]
    assert len(message.splitlines()) <= 5
    assert "Traceback" not in said
    assert not Path(TRAP).exists()
    return message


@pytest.mark.parametrize("file", ["evil.ckpt", "plain.ckpt"])
@pytest.mark.parametrize("command", ["test", "export", *edges("validate", "probe", "transfer")])
def test_as_a_checkpoint(trained: Path, capsys: pytest.CaptureFixture[str], command: str, file: str) -> None:
    more = ["--sizes", "8", "--out", "out"] if command == "transfer" else []
    config = ["--config", str(trained / "config.yaml"), "--ckpt_path", file]
    message = _refused(command, [*config, *more], capsys)
    assert file in message
    assert ("could run as code" in message) == (file == "evil.ckpt")
    _the_trap_works()


def test_as_the_state_that_is_compared_or_continued(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (trained / "checkpoints" / "last.ckpt").write_bytes(Path("evil.ckpt").read_bytes())
    assert "could run as code" in _refused("verify", [str(trained)], capsys)
    (trained / "summary.json").unlink()
    _refused("fit", ["--config", "tiny.yaml"], capsys)


@pytest.mark.parametrize("file", ["evil.ckpt", "evil.pth", "old.pth", "evil.safetensors", "plain.ckpt"])
@pytest.mark.parametrize("of", ["model", *edges("teacher")])
def test_as_weights(trained: Path, capsys: pytest.CaptureFixture[str], of: str, file: str) -> None:
    key = {"model": "--model.init_from", "teacher": "--model.teacher.weights"}[of]
    if of == "teacher":
        config = load_yaml("tiny.yaml")
        model = config["model"]["init_args"]
        teacher = {"model": model["backbone"], "weights": str(trained)}
        target = {"class_path": "vitlab.objectives.HardTarget"}
        config["model"] = {
            "class_path": "vitlab.objectives.Distillation",
            "init_args": {**model, "teacher": teacher, "target": target},
        }
        model["backbone"] = {
            "class_path": "vitlab.models.VisionTransformer",
            "init_args": {**model["backbone"]["init_args"], "distilled": True},
        }
        Path("tiny.yaml").write_text(yaml.safe_dump(config))
    message = _refused("fit", ["--config", "tiny.yaml", "--run.name", "other", key, file], capsys)
    assert file in message
    assert not Path("runs/other").exists()


def test_as_the_cifar_archive(tiny: Write, capsys: pytest.CaptureFixture[str]) -> None:
    arrays = {name: np.array([Payload()], dtype=object) for name in ("x_train", "y_train", "x_test", "y_test")}
    Path("data").mkdir()
    np.savez("data/cifar10.npz", **arrays)
    data = {"data": {"class_path": "vitlab.data.CIFAR10", "init_args": {"root": "data"}}}
    message = _refused("fit", ["--config", str(tiny(data))], capsys)
    assert "allow_pickle=False" in message


def test_as_a_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("evil.yaml").write_text(f"model: !!python/object/apply:os.mkdir [{TRAP}]\n")
    assert "not valid YAML" in _refused("fit", ["--config", "evil.yaml"], capsys)


def test_as_a_cache_of_a_teachers_logits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("shard.safetensors").write_bytes(pickle.dumps(Payload()))
    cache = OutputCache(tmp_path, width=3)
    images = torch.rand(2, 3, 4, 4)
    assert torch.equal(cache.outputs(images, lambda x: torch.ones(2, 3)), torch.ones(2, 3))
    assert not Path(TRAP).exists()
