"""The geometry of windows, against values of the official code and against what the words mean."""

import math

import pytest
import torch
from timm.models.swin_transformer import SwinTransformerBlock
from torchvision.models.swin_transformer import shifted_window_attention

from tests.models.small_models import SMALL, shake
from vitlab.models.swin_v2 import ContinuousBias
from vitlab.models.windows import (
    ScaledUnit,
    attend,
    clamp_window,
    resize_bias_table,
    shift_mask,
    stage_windows,
)


@pytest.mark.parametrize(
    ("window", "pretrained", "expected"),
    [
        # Printed by the official Swin v2 code for rows -(w-1) … 0 of one column.
        (4, 0, [-1.056642, -0.887655, -0.624823, 0.0]),
        (8, 4, [-1.43256, -1.362488, -1.280434, -1.18144, -1.056642, -0.887655, -0.624823, 0.0]),
        (16, 8, [-1.393777]),
        (1, 0, [0.0]),  # one offset; (1 - 1) / (1 - 1) is nan in the official code
    ],
)
def test_log_spaced_offsets_are_the_official_codes(window: int, pretrained: int, expected: list[float]) -> None:
    bias = ContinuousBias(2, (window, window), (pretrained, pretrained), log_spaced=True)
    rows = bias.relative_coords_table.unflatten(0, (2 * window - 1, 2 * window - 1))[:, 0, 0]
    torch.testing.assert_close(rows[: len(expected)], torch.tensor(expected), atol=1e-6, rtol=0)


def test_linear_spaced_offsets_reach_one_in_the_window_trained_on() -> None:
    bias = ContinuousBias(2, (8, 8), (4, 4), log_spaced=False)
    assert bias.relative_coords_table.max() == pytest.approx(7 / 3)
    assert ContinuousBias(2, (4, 4), (0, 0), log_spaced=False).relative_coords_table.abs().max() == 1


@pytest.mark.parametrize(
    ("size", "window", "shift"), [((8, 8), (4, 4), (2, 2)), ((9, 13), (4, 4), (2, 2)), ((6, 12), (6, 4), (0, 2))]
)
def test_shift_mask_is_timms(size: tuple[int, int], window: tuple[int, int], shift: tuple[int, int]) -> None:
    block = SwinTransformerBlock(8, size, num_heads=1, window_size=window, shift_size=shift)
    assert torch.equal(shift_mask(size, window, shift), block.attn_mask)


@pytest.mark.parametrize("family", ["swin", "swinv2"])
@pytest.mark.parametrize(("size", "window"), [((12, 12), 7), ((9, 13), 4), ((8, 8), 7), ((5, 6), 4)], ids=str)
def test_a_shifted_map_that_windows_do_not_divide_is_attended_to_as_by_torchvision(
    size: tuple[int, int], window: int, family: str
) -> None:
    """timm rolls before it pads, so that opposite ends of such a map attend to each other."""
    model = shake(SMALL[family](img_size=(2 * size[0], 2 * size[1]), window_size=window)).double()
    block = model.layers[0].blocks[1]
    attn, x = block.attn, torch.randn(2, *size, 8, dtype=torch.float64)
    if family == "swin":
        own = {"qkv_bias": attn.qkv.bias}
    else:
        zero = torch.zeros_like(attn.q_bias)
        own = {"qkv_bias": torch.cat([attn.q_bias, zero, attn.v_bias]), "logit_scale": attn.logit_scale}
    places = [window, window], attn.num_heads, [window // 2, window // 2]
    weights = attn.qkv.weight, attn.proj.weight, attn.bias().unsqueeze(0)
    expected = shifted_window_attention(x, *weights, *places, proj_bias=attn.proj.bias, **own)
    torch.testing.assert_close(block.attend(x), expected)


@pytest.mark.parametrize("family", ["swin", "swinv2"])
@pytest.mark.parametrize("size", [(4, 4), (2, 2), (2, 8), (3, 6), (1, 1)], ids=str)
def test_a_window_that_covers_a_smaller_map_is_clamped_and_not_shifted(size: tuple[int, int], family: str) -> None:
    """With `clamps`: torchvision's attention in a window of the map's side, with the biases of the same offsets."""
    model = shake(SMALL[family](img_size=16)).double()  # windows of 4 on a map of 8 × 8
    x, window = torch.randn(2, *size, 8, dtype=torch.float64), [min(side, 4) for side in size]
    inside = [4 * row + column for row in range(window[0]) for column in range(window[1])]
    for odd, block in enumerate(model.layers[0].blocks):
        attn, block.clamps = block.attn, True
        own = {"qkv_bias": attn.qkv.bias} if family == "swin" else {"logit_scale": attn.logit_scale}
        if family == "swinv2":
            own["qkv_bias"] = torch.cat([attn.q_bias, torch.zeros_like(attn.q_bias), attn.v_bias])
        weights = attn.qkv.weight, attn.proj.weight, attn.bias()[None, :, inside][..., inside]
        places = window, attn.num_heads, [2 * odd * (side > 4) for side in size]
        expected = shifted_window_attention(x, *weights, *places, proj_bias=attn.proj.bias, **own)
        torch.testing.assert_close(block.attend(x), expected)


def test_gradient_of_the_scaled_unit_vector_is_the_derivative() -> None:
    x = torch.randn(2, 3, 4, 5, dtype=torch.float64, requires_grad=True)
    scale = torch.rand(3, 1, 1, dtype=torch.float64, requires_grad=True)
    assert torch.allclose(ScaledUnit.apply(x, scale)[0], scale * torch.nn.functional.normalize(x, dim=-1))
    assert torch.autograd.gradcheck(lambda *inputs: ScaledUnit.apply(*inputs)[0], (x, scale))


@pytest.mark.parametrize(
    ("size", "window", "clamped", "shift"),
    [
        ((14, 14), (7, 7), (7, 7), (3, 3)),
        ((7, 7), (7, 7), (7, 7), (0, 0)),  # one window holds the map: nothing to shift
        ((4, 4), (7, 7), (4, 4), (0, 0)),
        ((4, 14), (7, 7), (4, 7), (0, 3)),  # each side by itself
        ((8, 8), (1, 1), (1, 1), (0, 0)),
    ],
)
def test_a_window_never_exceeds_its_map(
    size: tuple[int, int], window: tuple[int, int], clamped: tuple[int, int], shift: tuple[int, int]
) -> None:
    assert clamp_window(size, window) == (clamped, shift)


def test_windows_are_given_once_as_a_rectangle_or_for_each_stage() -> None:
    assert stage_windows(7, 2) == [(7, 7), (7, 7)]
    assert stage_windows([4, 6], 3) == [(4, 6)] * 3
    assert stage_windows([8, 4, 2], 3) == [(8, 8), (4, 4), (2, 2)]
    for wrong in (0, [4, 4, 4], [4, 0]):
        with pytest.raises(ValueError, match="window_size"):
            stage_windows(wrong, 4)


def test_a_bias_table_resized_keeps_a_smooth_bias() -> None:
    # A bias that falls linearly with the distance in rows: as a picture its slope shrinks, its ends stay.
    rows = torch.linspace(-1, 1, 7).view(7, 1).expand(7, 7).reshape(49, 1)
    resized = resize_bias_table(rows, (4, 4), (8, 8)).view(15, 15)
    assert resized.shape == (15, 15)
    assert torch.equal(resize_bias_table(rows, (4, 4), (4, 4)), rows)
    assert resized[7].abs().max() < 1e-5  # the middle stays the middle
    assert (resized[0] < -0.9).all()
    assert (resized.diff(dim=0)[2:-2] > 0).all()
    assert math.isclose(resized[0, 0], -resized[-1, 0], abs_tol=1e-5)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize("windows", [64, 65_600])  # a CUDA grid has 65,535 places along two of its axes
def test_a_gpu_attends_as_the_cpu_does(windows: int, shifted: bool) -> None:
    torch.manual_seed(0)
    mask = shift_mask((28, 28), (7, 7), (3, 3)) if shifted else None  # of 16 windows
    bias = torch.randn(1, 49, 49)
    q, k, v = torch.randn(3, windows, 1, 49, 8).unbind()
    results = []
    for device in ("cpu", "cuda"):
        inputs = [x.to(device).detach().requires_grad_() for x in (q, k, v, bias)]
        out = attend(*inputs, None if mask is None else mask.to(device), 0.3, 0.0)
        out.square().sum().backward()
        results.append([out, *(x.grad for x in inputs)])
    for ours, expected in zip(*results, strict=True):
        assert (ours.cpu() - expected).abs().max() < 1e-4 * expected.abs().max()
