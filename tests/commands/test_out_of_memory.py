"""A run that asks for more memory than there is ends with one line that says what takes less."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from vitlab.commands.dispatch import run
from vitlab.objectives import Supervised

CUDA = "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 8.00 GiB."
CPU = "[enforce fail at alloc_cpu.cpp:126] . DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."


@pytest.mark.parametrize("error", [torch.OutOfMemoryError(CUDA), RuntimeError(CPU)], ids=["gpu", "cpu"])
def test_running_out_of_memory_is_answered_in_one_line(
    tiny: Callable[..., Path], error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def loss(*args: object) -> torch.Tensor:
        raise error

    monkeypatch.setattr(Supervised, "loss", loss)
    assert run("fit", ["--config", str(tiny())]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith(f"error: out of memory. {error}")
    assert "--data.batch_size" in last
    assert "--trainer.accumulate_grad_batches" in last


def test_another_error_of_the_program_is_not_hidden(tiny: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def loss(*args: object) -> torch.Tensor:
        raise RuntimeError("shapes differ")

    monkeypatch.setattr(Supervised, "loss", loss)
    with pytest.raises(RuntimeError, match="shapes differ"):
        run("fit", ["--config", str(tiny())])
