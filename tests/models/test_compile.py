"""torch.compile takes every model whole, and of every objective its loss, or the blocks that this goes through."""

import copy
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch._dynamo.utils import counters

from tests.models.small_models import SMALL, images, shake
from tests.objectives.small import BACKBONES, OBJECTIVES, RECIPE, views_for
from vitlab.evaluation.utilization import Utilization
from vitlab.models import TimmModel, VisionTransformer
from vitlab.objectives import Supervised
from vitlab.runs.exactness import differences_after_kills


@pytest.mark.slow
def test_there_is_no_graph_break_in_a_step_of_mixed_precision(family: str) -> None:
    torch.compiler.reset()
    model = shake(SMALL[family](drop_path_rate=0.1, attn_drop_rate=0.1)).train()
    compiled = torch.compile(model, backend="eager", fullgraph=True)  # raises at the first break
    x, logits = images(model), []
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for each in (model, compiled):
            torch.manual_seed(0)
            logits.append(each(x))
        torch.testing.assert_close(*logits)
    logits[1].square().sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.slow
@torch.no_grad()
def test_there_is_no_graph_break_while_biases_are_kept(family: str) -> None:
    torch.compiler.reset()
    model = shake(SMALL[family]()).eval()
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    x = images(model)
    with model.biases_kept():  # type: ignore[operator]
        torch.testing.assert_close(compiled(x), model(x))


# torch looks whether each input of a part has a gradient, and hides what it is then told, but not from us.
quietly = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")


@quietly
@pytest.mark.slow
@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_objective_can_be_compiled(name: str, whole: bool) -> None:
    """The oracle is the same objective before it was compiled; without a graph of the blocks, nothing was compiled."""
    views, labels = views_for(name)
    losses, names = [], []
    for compiled in (False, True):
        torch.compiler.reset()
        counters.clear()
        torch.manual_seed(0)
        family = "swin_v2" if name in ("supervised", "simmim", "um_mae", "esvit", "lejepa") else "vit"
        objective = OBJECTIVES[name](BACKBONES[family]())
        if compiled:
            objective.compile_parts(backend="eager", whole=whole)
        losses.append(objective.loss(views, labels))
        names.append(list(objective.state_dict()))
    losses[1].backward()
    torch.testing.assert_close(losses[1], losses[0])
    assert counters["stats"]["unique_graphs"] > 0
    assert whole or not counters["graph_break"]
    assert names[0] == names[1]


@quietly
def test_a_deep_vit_is_compiled_block_by_block() -> None:
    """Each block has its own rate of drop path, and torch by itself gives up after eight."""
    torch.compiler.reset()
    counters.clear()
    model = VisionTransformer(img_size=8, patch_size=2, embed_dim=8, depth=24, num_heads=2, drop_path_rate=0.4)
    Supervised(model, *RECIPE).compile_parts(backend="eager")
    model(torch.randn(2, 3, 8, 8))
    assert counters["stats"]["unique_graphs"] == 24


def test_a_timm_model_is_compiled_whole() -> None:
    model = TimmModel("vit_tiny_patch16_224", num_classes=5)
    assert model.blocks == [model.net]


@pytest.mark.slow
def test_a_compiled_vit_with_batch_norms_has_the_same_gradients_and_statistics() -> None:
    torch.compiler.reset()
    model = shake(SMALL["vit"](norm="batch")).train()
    compiled = copy.deepcopy(model)
    compiled.compile(backend="aot_eager", fullgraph=True)
    x = images(model)
    for each in (model, compiled):
        each(x).square().sum().backward()
    for ours, theirs in zip(model.parameters(), compiled.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-4)
    for name, statistic in model.named_buffers():
        torch.testing.assert_close(compiled.get_buffer(name), statistic)


@pytest.mark.slow
def test_a_killed_run_with_a_compiled_loss_continues_to_the_bit(tiny: Callable[..., Path], tmp_path: Path) -> None:
    arguments = [str(tiny({"run": {"compile": "whole"}})), "--run.checkpoint.every_n_steps", "1"]
    assert differences_after_kills(arguments, [3], tmp_path / "runs") == []


def test_what_a_count_met_uncompiled_is_compiled_afterwards() -> None:
    # torch 2.11 compiles no function that it first meets under a counter, and `run.compile` changed nothing.
    compiled: list[object] = []

    def backend(graph: torch.fx.GraphModule, inputs: object) -> object:
        compiled.append(graph)
        return graph.forward

    model = VisionTransformer(img_size=8, num_classes=10, patch_size=4, embed_dim=16, depth=1, num_heads=2)
    block, tokens = model.blocks[0], torch.randn(2, 5, 16)
    block.compile(backend=backend)
    utilization, trainer = Utilization(), SimpleNamespace(global_step=0)
    utilization.on_train_batch_start(trainer, model, ((tokens,), None), 0)  # type: ignore[arg-type]
    block(tokens)
    utilization.on_before_optimizer_step()
    assert utilization.flops
    assert not compiled
    block(tokens)
    assert compiled
