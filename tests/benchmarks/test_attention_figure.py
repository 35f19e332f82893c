"""The attention that is drawn is that of each image's best head."""

import torch

from benchmarks.attention_figure import best_heads, draw, encoder
from vitlab.analysis.attention import class_token_masks, jaccard, query_map


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
    assert len(draw(images, masks, {"untrained": maps}).axes) == 9
