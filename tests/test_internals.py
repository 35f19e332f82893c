"""Each promise that vitlab/internals.py makes of another package; a new version that breaks one fails here."""

import argparse
import ast
import builtins
import signal
from collections.abc import Callable, Iterator
from inspect import unwrap
from pathlib import Path
from typing import Any, NoReturn

import pytest
import timm.optim
import torch
from jsonargparse import ArgumentParser
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy
from torch import nn
from torch.utils.data import DataLoader

from tests.objectives.small import quick_trainer
from vitlab import internals
from vitlab.experiment.errors import explain, readable

PACKAGE = Path(internals.__file__).parent


class Recorder(LightningModule):
    """Learns nothing; logs each batch and records where the trainer believes it is.

    Args:
        stop_at: the batch of the first epoch after which a checkpoint is written.
    """

    def __init__(self, stop_at: int | None = None, folder: Path = Path()) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.stop_at, self.folder = stop_at, folder
        self.positions: list[tuple[int, int]] = []
        self.within: list[bool] = []
        self.means: list[tuple[float, int]] = []

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def train_dataloader(self) -> Any:
        self.positions.append(internals.training_position(self.trainer))
        return DataLoader(torch.arange(4.0), batch_size=1)  # type: ignore[arg-type]

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.log("loss", batch.mean(), on_step=False, on_epoch=True, batch_size=1)
        return self.weight * batch.mean()

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.within.append(internals.is_within_an_epoch(self.trainer))
        mean = internals.epoch_means(self.trainer)["training_step.loss"]
        self.means.append((float(mean.value), int(mean.cumulated_batch_size)))
        if self.current_epoch == 0 and batch_idx == self.stop_at:
            self.trainer.save_checkpoint(self.folder / "state.ckpt")

    def on_train_epoch_end(self) -> None:
        self.within.append(internals.is_within_an_epoch(self.trainer))
        if self.stop_at is None:
            self.trainer.save_checkpoint(self.folder / "state.ckpt")


def train(module: Recorder, prepare: Callable[[Trainer], None] = lambda trainer: None, **arguments: Any) -> Recorder:
    trainer = quick_trainer(arguments.pop("max_epochs"), **arguments)
    prepare(trainer)
    state = module.folder / "state.ckpt"
    trainer.fit(module, ckpt_path=state if state.is_file() else None)
    return module


quiet = pytest.mark.filterwarnings("ignore")


@quiet
@pytest.mark.parametrize(("stop_at", "position"), [(1, (0, 2)), (3, (1, 0)), (None, (1, 0))])
def test_lightning_counts_the_batches_of_an_epoch_from_where_a_checkpoint_stopped(
    stop_at: int | None, position: tuple[int, int], tmp_path: Path
) -> None:
    assert train(Recorder(stop_at, tmp_path), max_epochs=1).positions == [(0, 0)]
    assert train(Recorder(99, tmp_path), max_epochs=2).positions[0] == position


@quiet
def test_lightning_has_recorded_the_end_of_an_epoch_when_its_hook_is_called(tmp_path: Path) -> None:
    assert train(Recorder(99, tmp_path), max_epochs=2).within == [True] * 4 + [False] + [True] * 4 + [False]


@quiet
@pytest.mark.parametrize(("steps", "epochs"), [(6, 2), (4, 1), (3, 1)])
def test_lightning_counts_the_epoch_in_which_a_limit_of_steps_is_reached(
    steps: int, epochs: int, tmp_path: Path
) -> None:
    """In epochs of four steps."""
    trained = train(Recorder(99, tmp_path), max_epochs=-1, max_steps=steps)
    internals.count_last_epoch(trained.trainer)
    assert trained.trainer.current_epoch == epochs


@quiet
def test_lightning_repeats_no_end_of_an_epoch_in_a_run_limited_in_steps(tmp_path: Path) -> None:
    train(Recorder(None, tmp_path), max_epochs=1)
    continued = train(Recorder(99, tmp_path), internals.continue_after_whole_epochs, max_epochs=-1, max_steps=8)
    assert continued.within == [True] * 4 + [False]
    assert continued.trainer.current_epoch == 2


@pytest.mark.parametrize(("given", "at_the_end"), [(None, False), (False, False), (True, True)])
def test_lightning_stops_early_where_it_is_told(given: bool | None, at_the_end: bool) -> None:
    stopping = EarlyStopping("loss", check_on_train_epoch_end=given)
    internals.decide_after_validation(stopping)
    stopping.setup(Trainer(logger=False, accelerator="cpu"), LightningModule(), "fit")
    assert stopping._check_on_train_epoch_end is at_the_end


@quiet
def test_lightning_sums_up_what_it_averages_over_an_epoch(tmp_path: Path) -> None:
    assert train(Recorder(99, tmp_path), max_epochs=1).means == [(0, 1), (1, 2), (3, 3), (6, 4)]


@quiet
def test_lightning_attaches_its_trainer_to_the_module(tmp_path: Path) -> None:
    module = Recorder(99, tmp_path)
    assert internals.trainer_of(module) is None
    train(module, max_epochs=1)
    assert internals.trainer_of(module) is module.trainer


@pytest.mark.parametrize("replaces", [True, False])
def test_lightning_says_whether_it_replaces_samplers(replaces: bool) -> None:
    trainer = Trainer(accelerator="cpu", logger=False, use_distributed_sampler=replaces)
    assert internals.replaces_samplers(trainer) is replaces


def test_lightning_declares_its_limits_where_a_parser_looks() -> None:
    internals.narrow_options_of_the_trainer()
    annotations = unwrap(Trainer.__init__).__annotations__
    for split in ("train", "val", "test", "predict"):
        first, *_ = annotations[f"limit_{split}_batches"].__args__
        assert first is int


@quiet
def test_lightning_shards_over_as_many_processes_as_it_is_told() -> None:
    strategy = ModelParallelStrategy()
    strategy.parallel_devices = [torch.device("cpu")] * 3
    internals.shard_over_all_processes(strategy)
    assert vars(strategy)["_data_parallel_size"] == 3
    assert "_data_parallel_size" not in vars(DDPStrategy())


def test_lightning_clips_gradients_of_a_fused_optimizer() -> None:
    from lightning.fabric.plugins.precision.amp import _optimizer_handles_unscaling

    optimizer = torch.optim.AdamW([nn.Parameter(torch.zeros(2))], fused=True)
    assert _optimizer_handles_unscaling(optimizer)
    internals.clip_unscaled_gradients(optimizer)
    assert not _optimizer_handles_unscaling(optimizer)


def test_argparse_lists_its_options_and_actions() -> None:
    parser = argparse.ArgumentParser()
    added = parser.add_argument("--seed", "-s")
    assert list(internals.options_of(parser)) == ["-h", "--help", "--seed", "-s"]
    assert internals.options_of(parser)["--seed"] is added


class Base:
    """A parent class for a parser."""


class Fine(Base):
    def __init__(self, size: int = 1) -> None:
        """Take one option."""


class Other:
    """No Base."""


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("{class_path: Nowhere}", "no class Nowhere."),
        ("{class_path: tests.test_internals.Nowhere}", "tests.test_internals has no Nowhere."),
        ("{class_path: tests.test_internals.Other}", "Other does not correspond to a subclass of Base"),
        ("{class_path: tests.test_internals.Fine, init_args: {sise: 1}}", "no option sise."),
    ],
)
def test_jsonargparse_says_what_is_wrong_in_words_that_are_understood(value: str, message: str) -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--net", type=Base)
    with pytest.raises(argparse.ArgumentError) as failure:
        parser.parse_args([f"--net={value}"])
    assert message in explain(failure.value.message, ())


def test_argparse_names_missing_arguments() -> None:
    class Parser(argparse.ArgumentParser):
        def error(self, message: str) -> NoReturn:
            raise ValueError(message)

    parser = Parser()
    parser.add_argument("--first", required=True)
    parser.add_argument("second")
    with pytest.raises(ValueError, match="required") as failure:
        parser.parse_args([])
    assert readable(failure.value) == "the command needs --first, second: give --first … and --second …."


def optimizers() -> Iterator[tuple[torch.optim.Optimizer, bool]]:
    def weights() -> list[nn.Parameter]:
        return [nn.Parameter(torch.ones(2))]

    yield torch.optim.Adagrad(weights(), fused=True), True
    yield torch.optim.AdamW(weights(), fused=True), True
    yield torch.optim.SGD(weights(), lr=0.1, fused=True), True
    yield torch.optim.SGD(weights(), lr=0.1, momentum=0.9, fused=True), False  # in its first step
    yield torch.optim.AdamW(weights(), foreach=True), False
    yield timm.optim.Lion(weights()), False


def test_only_torchs_fused_optimizers_skip_a_step_on_the_device() -> None:
    for optimizer, skips in optimizers():
        assert internals.can_skip_its_step(optimizer) is skips, optimizer
        (weight,) = optimizer.param_groups[0]["params"]
        weight.grad = torch.ones(2)
        internals.skip_step_if(optimizer, torch.tensor(1.0))
        if skips:
            optimizer.step()
            assert weight.tolist() == [1, 1], optimizer
            internals.skip_step_if(optimizer, torch.tensor(0.0))
            optimizer.step()
            assert weight.tolist() != [1, 1], optimizer


def test_torch_takes_norms_of_tensors_of_all_sizes_and_scales_them_in_place() -> None:
    tensors = [torch.tensor([3.0, 4.0]), torch.tensor([[2.0]])]
    assert [float(norm) for norm in internals.foreach("norm", tensors)] == [5, 2]
    internals.foreach("mul_", tensors, [torch.tensor(2.0), torch.tensor(0.5)])
    assert [tensor.flatten().tolist() for tensor in tensors] == [[6, 8], [1]]


def test_torch_counts_attention_on_a_cpu_and_no_checkpoint_twice() -> None:
    internals.count_attention_on_cpu()
    q = torch.randn(1, 2, 8, 4, requires_grad=True)

    def step(recompute: bool) -> int:
        def attend(x: torch.Tensor) -> torch.Tensor:
            return nn.functional.scaled_dot_product_attention(x, x, x) @ torch.ones(4, 4)

        with internals.flop_counter() as counter:
            y = torch.utils.checkpoint.checkpoint(attend, q, use_reentrant=False) if recompute else attend(q)
            y.sum().backward()
        return int(counter.get_total_flops())

    forward = 2 * (2 * 2 * 8 * 8 * 4)  # two products, two heads, 8 tokens of 4 channels
    assert step(recompute=False) > 3 * forward
    assert step(recompute=True) == step(recompute=False)


def test_torch_names_the_object_that_it_refuses_to_unpickle(tmp_path: Path) -> None:
    torch.save({"code": builtins.eval}, tmp_path / "file.pt")
    with pytest.raises(Exception, match="Weights only") as refused:
        torch.load(tmp_path / "file.pt", weights_only=True)
    assert internals.pickled_name(refused.value) == "eval"
    assert internals.pickled_name(ValueError("damaged")) is None


def test_torch_says_that_a_cpu_is_out_of_memory() -> None:
    with pytest.raises(RuntimeError) as error:
        torch.empty(2**55)
    assert internals.is_out_of_memory(error.value)
    assert not internals.is_out_of_memory(RuntimeError("shapes differ"))


def test_timms_rand_augment_draws_weighted_operations_once_and_keeps_a_bit() -> None:
    assert internals.rand_augment("rand-m9", {})[1] is None
    transform, most_layers = internals.rand_augment("rand-m10-mmax20-n3-tweights", {})
    assert transform.num_layers == 3
    assert most_layers == len(transform.ops) == 15
    operations = [each for each in internals.rand_augment("rand-m10", {})[0].ops if "Posterize" in each.name]
    assert operations
    for operation in operations:
        levels = [operation.level_fn(level, operation.hparams)[0] for level in range(21)]
        assert min(levels) >= 1


def test_pillow_has_libtiffs_switches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it has none, the function does nothing; so what it calls is recorded."""
    import ctypes

    load, names = ctypes.CDLL, list[str]()

    class Library:
        def __init__(self, path: str) -> None:
            self.library = load(path)

        def __getattr__(self, name: str) -> Any:
            names.append(name)
            return getattr(self.library, name)

    monkeypatch.setattr(ctypes, "CDLL", Library)
    internals.silence_libtiff()
    assert names == ["TIFFSetWarningHandler", "TIFFSetErrorHandler"]


def test_submitit_knows_the_signal_of_a_preemption() -> None:
    assert internals.preemption_signal() in {signal.SIGUSR1, signal.SIGUSR2}


def defined_names(tree: ast.Module) -> set[str]:
    """Return every name with an underscore that a file defines or assigns to."""
    names = set()
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name) | ast.arg(arg=name):
                names.add(name)
            case ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, value=ast.Name("self"), ctx=ast.Store()):
                names.add(name)
            case ast.ImportFrom(names=aliases):
                names |= {alias.asname for alias in aliases if alias.asname}
    return names


DOCUMENTED = {"_exit", "_asdict", "_replace", "_fields", "_make"}  # of named tuples


@pytest.mark.slow
def test_no_other_file_uses_what_another_package_keeps_to_itself() -> None:
    trees = {path: ast.parse(path.read_text()) for path in PACKAGE.rglob("*.py") if path.name != "internals.py"}
    own = DOCUMENTED.union(*map(defined_names, trees.values()))
    foreign = []
    for path, tree in trees.items():
        for node in ast.walk(tree):
            match node:
                case ast.Attribute(attr=name):
                    names = [name]
                case ast.ImportFrom(module=module, names=aliases):
                    names = [*(module or "").split("."), *(alias.name for alias in aliases)]
                case _:
                    continue
            foreign += [
                f"{path.relative_to(PACKAGE)}:{node.lineno}: {name}"
                for name in names
                if name.startswith("_") and not name.startswith("__") and name not in own
            ]
    assert not foreign
