"""The attention that is drawn is that of each image's best head, and k-NN begins untrained."""

from pathlib import Path

import pytest
import torch

from benchmarks.figures import best_heads, curve, draw_attention, encoder, seen
from vitlab.analysis.attention import class_token_masks, jaccard, query_map
from vitlab.models import SwinTransformer


def test_the_head_that_overlaps_most_is_drawn() -> None:
    model, images = encoder(0), torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    masks = torch.zeros(3, 32, 32, dtype=torch.bool)
    masks[:, 4:20, 8:24] = True
    maps = best_heads(model, images, masks)
    overlaps = jaccard(class_token_masks(model, images), masks)
    for image in range(3):
        head = max(range(overlaps.shape[1]), key=lambda h, i=image: float(overlaps[i, h]))
        heads = query_map(model.attention_maps(images)[-1], 0)
        torch.testing.assert_close(maps[image, ::4, ::4], heads[image, head], check_dtype=False)
    assert len(draw_attention(images, masks, {"untrained": maps}).axes) == 9


def test_a_cell_of_the_matrix_shows_all_attention_of_its_last_block() -> None:
    swin = SwinTransformer(img_size=32, patch_size=4, embed_dim=16, depths=(2, 2), num_heads=(2, 4), window_size=4)
    features, attention = seen(swin.eval(), torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0)), 1)
    assert features.shape == (4, 4, 3)
    assert 0.0 <= float(features.min()) < float(features.max()) <= 1.0
    assert float(attention.sum()) == pytest.approx(1.0)


def test_a_curve_begins_with_the_untrained_network(tmp_path: Path) -> None:
    """Epochs of 10 steps of 6 images at 2 images/s take half a minute; at 0.5 TFLOP/s that is 15 TFLOP."""
    (tmp_path / "config.yaml").write_text("data: {init_args: {batch_size: 6}}")
    (tmp_path / "metrics.csv").write_text(
        "step,epoch,images_per_second,tflops,val/knn,val/knn_untrained\n9,0,2,0.5,,\n19,1,2,0.5,0.4,0.3\n"
    )
    table = curve(tmp_path)
    assert table["minutes"].tolist() == [0.0, 1.0]
    assert table["tflop"].tolist() == [0.0, 30.0]
    assert table["knn"].tolist() == pytest.approx([30.0, 40.0])
