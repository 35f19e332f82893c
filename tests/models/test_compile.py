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
def test_compiling_in_place_keeps_names_and_values(family: str) -> None:
    torch.compiler.reset()
    model = shake(SMALL[family]()).eval()
    x = images(model)
    names, expected = list(model.state_dict()), model(x)
    model.compile(backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(model(x), expected)
    assert list(model.state_dict()) == names
