"""A loss or gradient that is not finite: the step is left out, and its batch, weights and cause are kept for a look.

The check is on the device and nobody waits for it: the optimizer's fused kernel gets the answer (`found_inf`) and
leaves the weights as they are. On a GPU the answer is read one step later, on the CPU at once. An optimizer without
such a kernel knows nothing of the answer: there it is read at once on a GPU too, and the step never begins.
"""

import json
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn

from vitlab.atomic_files import written_whole
from vitlab.data import ImageDataModule
from vitlab.distributed import mean_over_processes
from vitlab.objectives import Objective
from vitlab.objectives.objective import StepLeftOut
from vitlab.objectives.sharding import as_gradients, is_shared_out, own_parts
from vitlab.runs.resume import generators, set_generators

log = logging.getLogger("vitlab")

# So many steps in a row are no accident of a batch; the weights themselves are past help.
MOST_IN_A_ROW = 50


@dataclass
class Finding:
    """What was seen when the batches of a step were computed once more.

    Attributes:
        step: optimizer steps before this one.
        epoch: counted from 0.
        batches: of the epoch, counted from 0; several where gradients are accumulated.
        seed: of the run.
        loss: of the batch that was not finite, else of the last.
        cause: the module that first gave what is not finite from what is, and whether forward or backward.
        images: names of the batch's images.
        generators: the state of each random generator before each batch.
    """

    step: int
    epoch: int
    batches: list[int]
    seed: int
    loss: float = float("nan")
    cause: str = "not found: everything was finite the second time"
    images: list[str] = field(default_factory=list)


class FiniteSteps(Callback):
    """Leaves out every optimizer step whose loss or gradient is not finite; then stops the run, or goes on.

    Args:
        directory: the run's; what is found goes to `not_finite/` in it.
        action: stop: with status 1, the last good checkpoint kept. skip: go on, and count.
    """

    def __init__(self, directory: Path, action: Literal["stop", "skip"]) -> None:
        self.directory, self.action = directory, action
        self.left_out = self._in_a_row = 0
        self._batches: list[int] = []
        self._states: list[dict[str, Any]] = []
        self._loss_is_finite: Tensor | None = None
        self._asked: tuple[Tensor, Finding, list[dict[str, Any]]] | None = None

    def state_dict(self) -> dict[str, int]:
        return {"left_out": self.left_out}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        self.left_out = state_dict["left_out"]

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._batches.append(batch_idx)
        self._states.append(generators())

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        finite = torch.isfinite(loss.detach())
        self._loss_is_finite = finite if self._loss_is_finite is None else self._loss_is_finite & finite

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        assert self._loss_is_finite is not None
        finite, scaled = self._loss_is_finite, getattr(trainer.precision_plugin, "scaler", None) is not None
        leaves_out_itself = scaled or takes_found_inf(optimizer)
        if not scaled:  # float16's scaler meets infinite gradients by design, and leaves such steps out itself
            gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
            # Of several processes each has a loss of its own, but all have the same gradient, or a part of it each.
            finite = all_finite(own_parts(gradients)) & (finite if trainer.world_size == 1 else True)
            if is_shared_out(pl_module):
                finite = mean_over_processes(finite.float()) == 1
            if leaves_out_itself:
                optimizer.found_inf = as_gradients((~finite).float(), gradients)  # type: ignore[attr-defined]
        assert isinstance(pl_module, Objective)
        seed = int(trainer.datamodule.seed)  # type: ignore[attr-defined]
        this = finite, Finding(trainer.global_step, trainer.current_epoch, self._batches, seed), self._states
        self._loss_is_finite, self._batches, self._states = None, [], []
        if finite.is_cuda and leaves_out_itself:
            this, self._asked = self._asked, this  # type: ignore[assignment]
        if this is not None:
            self._look(trainer, pl_module, *this)
        if not leaves_out_itself and not bool(finite):
            raise StepLeftOut

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._asked is not None:
            assert isinstance(pl_module, Objective)
            self._look(trainer, pl_module, *self._asked)
            self._asked = None
        if self.left_out:
            pl_module.log("train/steps_left_out", float(self.left_out), rank_zero_only=True)

    def _look(
        self, trainer: Trainer, objective: Objective, finite: Tensor, at: Finding, states: list[dict[str, Any]]
    ) -> None:
        if bool(finite):
            self._in_a_row = 0
            return
        self.left_out, self._in_a_row = self.left_out + 1, self._in_a_row + 1
        if self.action == "skip" and self._in_a_row <= MOST_IN_A_ROW:
            log.warning("Step %d is left out, its loss or gradient is not finite (%d so far).", at.step, self.left_out)
            return
        folder = self.directory / "not_finite"
        trainer.save_checkpoint(folder / "state.ckpt")
        found = recompute(trainer, objective, at, states, folder / "batch.pt")
        if trainer.is_global_zero:
            with written_whole(folder / "report.json") as file:
                file.write(json.dumps(asdict(found), indent=2).encode())
            with written_whole(folder / "generators.pt") as file:
                torch.save(states, file)
            log.error(
                "Step %d: loss or gradient not finite; the step is left out and the run stops. %s\n"
                "Seen again at any time by: python -m vitlab replay %s",
                *(at.step, describe(found), folder),
            )
        raise SystemExit(1)


def takes_found_inf(optimizer: torch.optim.Optimizer) -> bool:
    """Say whether an optimizer can leave its next step out itself: PyTorch's fused kernels, and no others, can.

    SGD's cannot leave out the first: it makes the momentum of memory that holds anything, and does not fill it.
    """
    if isinstance(optimizer, torch.optim.SGD) and optimizer.defaults["momentum"] and not optimizer.state:
        return False
    known = isinstance(optimizer, torch.optim.Adam | torch.optim.SGD | torch.optim.Adagrad)  # AdamW is an Adam
    return known and all(group.get("fused") for group in optimizer.param_groups)


def describe(found: Finding) -> str:
    """Return one sentence."""
    return f"Loss {found.loss:.4g}, first in {found.cause}, with {', '.join(found.images[:3])} …"


def recompute(
    trainer: Trainer, objective: Objective, at: Finding, states: Sequence[dict[str, Any]], file: Path | None = None
) -> Finding:
    """Compute the batches of a step once more, up to the first that is not finite, and find where that comes from.

    Args:
        trainer: knows the data and the precision.
        objective: with the weights from before the step.
        at: the step.
        states: of the random generators, before each batch.
        file: where the views, labels and image names of the batch are kept.
    """
    data: ImageDataModule = trainer.datamodule  # type: ignore[attr-defined]
    for number, state in zip(at.batches, states, strict=True):
        (views, labels), at.images = data.training_batch(at.epoch, number, objective.device)
        set_generators(state)
        objective.zero_grad()
        with ExitStack() as watched:
            causes = watched.enter_context(watch(objective))
            with trainer.precision_plugin.train_step_context():
                loss = objective.loss(views, labels)
            at.loss = float(loss.detach())
            loss.backward()
        if not all(bool(torch.isfinite(view).all()) for view in views):
            at.cause = "the images"
        elif causes:
            at.cause = causes[0]
        elif not bool(torch.isfinite(loss.detach())):
            at.cause = f"{type(objective).__name__}.loss (forward)"
        else:
            continue
        break
    objective.zero_grad()
    if file is not None and trainer.is_global_zero:
        with written_whole(file) as stream:
            torch.save({"views": views, "labels": labels, "images": at.images}, stream)
    return at


@contextmanager
def watch(objective: nn.Module) -> Iterator[list[str]]:
    """List, in the order of computation, the modules that give something not finite, and were given none."""
    causes: list[str] = []
    spoilt = False  # once an output is not finite, neither need be what flows back

    with ExitStack() as hooks, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*Full backward hook is firing")  # at the first module: as it should
        for name, module in objective.named_modules():
            if any(module.children()):
                continue

            def forward(module: nn.Module, given: Any, gave: Any, name: str = name) -> None:
                nonlocal spoilt
                spoilt = spoilt or not finite(gave)
                if finite(given) and not finite(gave):
                    weights = "" if finite(list(module.parameters())) else ", whose weights are not finite"
                    causes.append(f"{name} (forward{weights})")

            def backward(module: nn.Module, gave: Any, given: Any, name: str = name) -> None:
                gradients = [p.grad for p in module.parameters() if p.grad is not None]
                if not spoilt and finite(given) and not (finite(gave) and finite(gradients)):
                    causes.append(f"{name} (backward)")

            for handle in (module.register_forward_hook(forward), module.register_full_backward_hook(backward)):
                hooks.callback(handle.remove)
        yield causes


def all_finite(tensors: list[Tensor]) -> Tensor:
    """Return whether all of some tensors are finite, where they are; of each one number is looked at.

    On a GPU its largest, computed of all tensors at once. On a CPU, where that takes nine times as long, its sum: this
    is not finite either where finite numbers add up to more than float32 holds, 3e38, of which no optimizer could take
    a step.
    """
    on_host = all(tensor.device.type == "cpu" for tensor in tensors)
    each = [tensor.sum() for tensor in tensors] if on_host else torch._foreach_norm(tensors, float("inf"))
    return torch.isfinite(torch.stack([number.float() for number in each])).all()


def finite(nest: Any) -> bool:
    """Return whether all floating-point tensors in a nest of lists and tuples are finite."""
    if isinstance(nest, Tensor):
        return not nest.is_floating_point() or bool(torch.isfinite(nest).all())
    return all(finite(each) for each in nest) if isinstance(nest, (list, tuple)) else True


class Replay(Callback):
    """Computes a kept step once more as soon as the run's state is restored, and ends there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.found: Finding | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, Objective)
        at = Finding(**json.loads((self.folder / "report.json").read_text(encoding="utf-8")))
        at.loss, at.cause = Finding.loss, Finding.cause
        states = torch.load(self.folder / "generators.pt", weights_only=True)
        self.found = recompute(trainer, pl_module, at, states)
        raise SystemExit(0)
