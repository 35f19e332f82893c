"""torch.compile takes every model whole."""

import pytest
import torch
from small_models import SMALL, images, shake


@pytest.mark.slow
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_there_is_no_graph_break(family: str, training: bool) -> None:
    torch.compiler.reset()
    model = shake(SMALL[family](drop_path_rate=0.1, attn_drop_rate=0.1)).train(training)
    explanation = torch._dynamo.explain(model)(images(model))  # type: ignore[arg-type]
    assert explanation.graph_count == 1
    assert explanation.graph_break_count == 0


@pytest.mark.slow
def test_there_is_no_graph_break_in_a_step_of_mixed_precision(family: str) -> None:
    torch.compiler.reset()
    model = shake(SMALL[family]())
    compiled = torch.compile(model, backend="eager", fullgraph=True)  # raises at the first break
    x = images(model)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = compiled(x)
        torch.testing.assert_close(logits, model(x))
    logits.square().sum().backward()
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


@pytest.mark.slow
def test_compiling_in_place_keeps_names_and_values(family: str) -> None:
    torch.compiler.reset()
    model = shake(SMALL[family]()).eval()
    x = images(model)
    names, expected = list(model.state_dict()), model(x)
    model.compile(backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(model(x), expected)
    assert list(model.state_dict()) == names
