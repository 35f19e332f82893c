"""EsViT against the released code's numbers, and what its regions are compared with."""

import pytest
import torch
from torch import nn

from tests.objectives.small import BACKBONES, closed_form, crops, wake
from vitlab.models import VisionTransformer
from vitlab.objectives import DINO, EsViT
from vitlab.objectives.dino import cross_view_entropy, koleo, teacher_temperature
from vitlab.objectives.esvit import encode, matched_entropy
from vitlab.optim import AdamW, WarmupCosine

SMALL = {"out_dim": 24, "hidden_dim": 32, "bottleneck_dim": 16}


def esvit(backbone: str = "swin", **kwargs: object) -> EsViT:
    torch.manual_seed(0)
    arguments: dict = SMALL | kwargs
    return EsViT(BACKBONES[backbone](), AdamW(1e-3), WarmupCosine(), **arguments)


def test_loss_gradient_and_center_equal_the_released_codes() -> None:
    """Run once on the released DDINOLoss: two global views of 4 regions of 2 images, two small ones of 2 regions; epoch
    0, then epoch 5, after the centers have moved.
    """
    B, V, K, C, sizes = 2, 4, 12, 5, (4, 4, 2, 2)
    images = (closed_form(V * B, K) / 0.1).log_softmax(-1).chunk(V)
    teacher, t_regions = closed_form(2 * B, K, a=1.1, b=0.2), closed_form(2 * B * 4, K, a=0.91, b=0.4)
    regions = closed_form(24, K, a=0.53, b=0.1).requires_grad_()
    features = closed_form(24, C, a=1.7, b=0.3).split([B * n for n in sizes])
    t_features = closed_form(2 * B * 4, C, a=1.3, b=0.9).unflatten(0, (2, B, 4))
    center, center_grid = torch.zeros(2, K, dtype=torch.float64)
    for epoch, expected in ((0, 10.487787031784016), (5, 10.366278789690542)):
        temperature = teacher_temperature(epoch, 0.04, 0.07, 3)
        targets = ((teacher - center) / temperature).softmax(-1).chunk(2)
        t = ((t_regions - center_grid) / temperature).softmax(-1).unflatten(0, (2, B, 4))
        log_probs = (regions / 0.1).log_softmax(-1).split([B * n for n in sizes])
        terms = [
            matched_entropy(t[i], log_probs[v].view(B, sizes[v], K), t_features[i], features[v].view(B, sizes[v], C))
            for i in range(2)
            for v in range(V)
            if i != v
        ]
        loss = (cross_view_entropy(targets, images) + torch.stack(terms).mean()) / 2
        assert float(loss.detach()) == pytest.approx(expected, rel=1e-12)
        center, center_grid = center.lerp(teacher.mean(0), 0.1), center_grid.lerp(t_regions.mean(0), 0.1)
    assert center_grid[:2].tolist() == pytest.approx([0.005337804353856716, 0.009196694003326376], rel=1e-12)
    loss.backward()
    assert regions.grad is not None
    assert float(regions.grad.abs().sum()) == pytest.approx(7.62947909251883, rel=1e-12)


@pytest.mark.parametrize("name", BACKBONES)
def test_the_objective_computes_what_its_functions_do(name: str) -> None:
    """Twice, so that the second loss is of centers that have moved."""
    objective, (views, labels) = esvit(name).double(), crops(num_local=1)
    wake(objective)
    objective.teacher.restart(objective.student)
    views = [view.double() for view in views]
    for _ in range(2):
        teacher = objective.teacher.module
        encoded = [encode(objective.backbone, view, 1) for view in views]
        t_encoded = [encode(teacher.backbone, view, 1) for view in views[:2]]  # type: ignore[arg-type]
        t_images = [((teacher.head(z) - objective.center) / 0.04).softmax(-1) for z, _ in t_encoded]  # type: ignore[operator]
        outputs = [teacher.head_dense(x[0].flatten(0, 1)).unflatten(0, x.shape[1:3]) for _, x in t_encoded]  # type: ignore[operator]
        t_regions = [((each - objective.center_grid) / 0.04).softmax(-1) for each in outputs]
        images = [(objective.head(z) / 0.1).log_softmax(-1) for z, _ in encoded]
        regions = [(objective.head_dense(x[0].flatten(0, 1)) / 0.1).log_softmax(-1) for _, x in encoded]
        pairs = [
            matched_entropy(
                t_regions[i], regions[v].unflatten(0, encoded[v][1].shape[1:3]), t_encoded[i][1][0], encoded[v][1][0]
            )
            for i in range(2)
            for v in range(3)
            if i != v
        ]
        expected = float((cross_view_entropy(t_images, images) + torch.stack(pairs).mean()).detach() / 2)
        grid = 0.9 * objective.center_grid + 0.1 * torch.cat(outputs).flatten(0, 1).mean(0)
        assert float(objective.loss(views, labels).detach()) == pytest.approx(expected, rel=1e-9)
        torch.testing.assert_close(objective.center_grid, grid)


def test_a_region_is_compared_with_the_most_similar_one() -> None:
    """Two regions that are the teacher's in the other order agree with them, wherever they are."""
    features = torch.eye(2).view(1, 2, 2)
    targets = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    sure = (100 * targets).log_softmax(-1)
    assert float(matched_entropy(targets, sure.flip(1), features, 3 * features.flip(1))) == pytest.approx(0)
    assert float(matched_entropy(targets, sure.flip(1), features, features)) == pytest.approx(100)


def test_the_teacher_has_both_heads() -> None:
    objective = esvit()
    before = objective.teacher.module.head_dense.mlp[0].weight.clone()  # type: ignore[union-attr, index]
    nn.init.zeros_(objective.head_dense.mlp[0].weight)  # type: ignore[arg-type, index]
    objective.teacher.update(objective.student, 0.5)
    torch.testing.assert_close(objective.teacher.module.head_dense.mlp[0].weight, before / 2)  # type: ignore[union-attr, index]


def test_both_last_layers_are_frozen_at_first() -> None:
    objective = esvit(norm_last_layer=False)
    objective.loss(*crops()).backward()
    objective.optimizer.weight_decay_at = lambda progress: 0.0  # type: ignore[method-assign]
    type(objective).progress = property(lambda self: 0.0)  # type: ignore[assignment]
    try:
        objective.on_before_optimizer_step(torch.optim.SGD(objective.parameters(), lr=0.1))
    finally:
        del type(objective).progress
    frozen = [name for name, p in objective.named_parameters() if p.requires_grad and p.grad is None]
    assert frozen == [f"{head}.last_layer.weight_{part}" for head in ("head", "head_dense") for part in "gv"]


def test_it_is_dino_without_regions() -> None:
    """The same weights from the same seed, and a loss that is half of DINO's and half of the regions'."""
    torch.manual_seed(0)
    plain = DINO(BACKBONES["swin"](), AdamW(1e-3), WarmupCosine(), **SMALL)  # type: ignore[arg-type]
    own = esvit().state_dict()
    assert all(torch.equal(own[name], value) for name, value in plain.state_dict().items())


def test_koleo_of_the_global_views_is_added() -> None:
    plain, spread = (esvit(koleo_weight=weight).loss(*crops()) for weight in (0.0, 0.5))
    objective = esvit()
    embedded = [objective.backbone.embed(view) for view in crops()[0][:2]]
    torch.testing.assert_close(spread - plain, 0.5 * sum(koleo(view) for view in embedded))


def test_a_vit_without_a_norm_of_its_regions_is_refused() -> None:
    backbone = VisionTransformer(img_size=8, patch_size=2, embed_dim=32, depth=2, num_heads=2, global_pool="avg")
    with pytest.raises(ValueError, match="no norm on its tokens"):
        EsViT(backbone, AdamW(1e-3), WarmupCosine())
