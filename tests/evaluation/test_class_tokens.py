"""What the papers' protocols read of a ViT, against timm's intermediate layers with the same weights."""

from typing import Any

import pytest
import timm
import torch

from vitlab.evaluation import trained_linear
from vitlab.evaluation.trained_linear import read_tokens
from vitlab.models import SwinTransformer, VisionTransformer

SIZES = {"img_size": 16, "patch_size": 4, "embed_dim": 24, "depth": 6, "num_heads": 2, "num_classes": 0}


@pytest.fixture(scope="module")
def models() -> tuple[VisionTransformer, Any]:
    torch.manual_seed(0)
    theirs = timm.models.vision_transformer.VisionTransformer(**SIZES)
    torch.nn.init.normal_(theirs.norm.weight)  # or nobody would notice that the norm is missing
    ours = VisionTransformer(**SIZES)  # type: ignore[arg-type]
    ours.load_state_dict(theirs.state_dict())
    return ours.eval(), theirs.eval()


IMAGES = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def test_dino_reads_the_class_tokens_of_the_last_four_blocks(models: tuple[VisionTransformer, Any]) -> None:
    ours, theirs = models
    blocks = theirs.get_intermediate_layers(IMAGES, n=4, return_prefix_tokens=True, norm=True)
    expected = torch.cat([prefix[:, 0] for _, prefix in blocks], dim=1)
    torch.testing.assert_close(read_tokens(ours, IMAGES, "last_blocks"), expected)


def test_of_a_base_it_reads_the_last_block_and_the_mean_of_its_patches(
    models: tuple[VisionTransformer, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trained_linear, "BASE_WIDTH", 24)
    ours, theirs = models
    ((patches, prefix),) = theirs.get_intermediate_layers(IMAGES, n=1, return_prefix_tokens=True, norm=True)
    expected = torch.cat([prefix[:, 0], patches.mean(dim=1)], dim=1)
    torch.testing.assert_close(read_tokens(ours, IMAGES, "last_blocks"), expected)


def test_mae_reads_the_class_token_after_the_norm_and_msn_before(models: tuple[VisionTransformer, Any]) -> None:
    ours, theirs = models
    for norm in (True, False):
        ((_, prefix),) = theirs.get_intermediate_layers(IMAGES, n=1, return_prefix_tokens=True, norm=norm)
        torch.testing.assert_close(
            read_tokens(ours, IMAGES, "class_token" if norm else "raw_class_token"), prefix[:, 0]
        )


def test_without_a_class_token_the_embedding_is_read() -> None:
    swin = SwinTransformer(
        img_size=16, patch_size=2, embed_dim=8, depths=(1, 1), num_heads=(1, 2), window_size=4
    ).eval()
    mean = VisionTransformer(**SIZES, class_token=False, global_pool="avg").eval()  # type: ignore[arg-type]
    for encoder in (swin, mean):
        assert not trained_linear.has_class_token(encoder)
        torch.testing.assert_close(read_tokens(encoder, IMAGES, "last_blocks"), encoder.embed(IMAGES))
        torch.testing.assert_close(read_tokens(encoder, IMAGES, "class_token"), encoder.embed(IMAGES))
