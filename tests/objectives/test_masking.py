"""Masks: exact counts at every size, no preference for a place, and patches that come back as they were."""

import math
from fractions import Fraction

import pytest
import torch

from vitlab.objectives.masking import (
    block_masking,
    enlarge,
    gather_tokens,
    num_hidden_blocks,
    patchify,
    random_masking,
    scatter_tokens,
    unpatchify,
)


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_patches_are_in_maes_order() -> None:
    """Its einsum is nchpwq -> nhwpqc: value (row, column, channel) of patch (h, w)."""
    images = torch.arange(2 * 3 * 8 * 12).reshape(2, 3, 8, 12).float()
    patches = patchify(images, 4).reshape(2, 2, 3, 4, 4, 3)  # (B, h, w, p, q, C)
    assert patches[1, 1, 2, 3, 0, 2] == images[1, 2, 1 * 4 + 3, 2 * 4 + 0]
    assert torch.equal(patches, torch.einsum("nchpwq->nhwpqc", images.reshape(2, 3, 2, 4, 3, 4)))


@pytest.mark.parametrize(("height", "width", "channels", "patch"), [(8, 8, 3, 4), (8, 12, 1, 2), (6, 3, 4, 3)])
def test_unpatchify_undoes_patchify(height: int, width: int, channels: int, patch: int) -> None:
    images = torch.randn(2, channels, height, width, generator=generator())
    assert torch.equal(unpatchify(patchify(images, patch), patch, height // patch, width // patch), images)


@pytest.mark.parametrize("ratio", [0.1, 0.25, 0.5, 0.6, 0.7, 0.75, 0.9])
def test_every_image_hides_the_same_number_of_tokens(ratio: float) -> None:
    for tokens in range(2, 260):
        keep, mask = random_masking(3, tokens, ratio, generator=generator())
        exact = Fraction(ratio).limit_denominator(100) * tokens
        hidden = mask.sum(1)
        assert (hidden == hidden[0]).all()
        assert abs(int(hidden[0]) - exact) <= Fraction(1, 2)
        assert keep.shape == (3, tokens - int(hidden[0]))
        assert not mask.gather(1, keep).any()


def test_every_token_is_hidden_equally_often() -> None:
    _, mask = random_masking(20_000, 7, 3 / 7, generator=generator())
    frequency = mask.float().mean(0)
    standard_error = math.sqrt(3 / 7 * 4 / 7 / 20_000)
    assert (frequency - 3 / 7).abs().max() < 4 * standard_error


# (pixels, blocks hidden) of SimMIM's generator with blocks of 32 px at 0.6, run on the released code
@pytest.mark.parametrize(("pixels", "hidden"), [(192, 22), (224, 30), (128, 10), (96, 6), (64, 3), (32, 1)])
def test_blocks_are_counted_as_in_simmim(pixels: int, hidden: int) -> None:
    mask = block_masking(2, pixels // 4, pixels // 4, 8, 0.6, generator=generator())
    assert mask.sum((1, 2)).tolist() == [hidden * 64] * 2
    assert enlarge(mask, 4).sum((1, 2)).tolist() == [hidden * 32 * 32] * 2


@pytest.mark.parametrize("ratio", [Fraction(1, 10), Fraction(3, 5), Fraction(7, 10), Fraction(3, 4)])
def test_rounding_up_is_exact(ratio: Fraction) -> None:
    """0.7 · 10 is 7.000000000000001 in floating point, of which the ceiling is 8."""
    for blocks in range(1, 500):
        assert num_hidden_blocks(blocks, float(ratio)) == math.ceil(blocks * ratio)


def test_blocks_are_hidden_whole() -> None:
    mask = block_masking(4, 6, 9, 3, 0.5, generator=generator())
    blocks = mask.unflatten(2, (3, 3)).unflatten(1, (2, 3)).transpose(2, 3).flatten(3)  # (B, 2, 3, 9)
    assert ((blocks.sum(-1) == 0) | (blocks.sum(-1) == 9)).all()


def test_what_is_taken_can_be_put_back() -> None:
    tokens = torch.randn(3, 10, 4, generator=generator())
    keep, mask = random_masking(3, 10, 0.6, generator=generator())
    fill = torch.tensor([1.0, 2.0, 3.0, 4.0])
    whole = scatter_tokens(gather_tokens(tokens, keep), keep, 10, fill)
    assert torch.equal(whole, torch.where(mask[..., None], fill, tokens))


def test_masks_come_from_the_global_generator() -> None:
    """Its state is in the checkpoint, so a continued run draws the masks of the undisturbed one."""
    torch.manual_seed(3)
    state = torch.get_rng_state()
    first = random_masking(2, 16, 0.5)[1]
    assert not torch.equal(first, random_masking(2, 16, 0.5)[1])
    torch.set_rng_state(state)
    assert torch.equal(first, random_masking(2, 16, 0.5)[1])
