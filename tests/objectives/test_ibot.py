"""iBOT against the released code's numbers, and what the student does not see."""

import random

import numpy as np
import pytest
import torch

from tests.objectives.small import BACKBONES, closed_form, crops, encode_hiding, wake
from vitlab.objectives import IBOT
from vitlab.objectives.dino import cross_view_entropy, teacher_temperature
from vitlab.objectives.ibot import hidden_entropy, outputs_of
from vitlab.objectives.masking import rectangles
from vitlab.optim import AdamW, WarmupCosine

SMALL = {"out_dim": 24, "hidden_dim": 32, "bottleneck_dim": 16}


def ibot(backbone: str = "vit", **kwargs: object) -> IBOT:
    torch.manual_seed(0)
    arguments: dict = SMALL | {"pred_ratio": (0.5,), "pred_ratio_var": (0.2,)} | kwargs
    return IBOT(BACKBONES[backbone](), AdamW(1e-3), WarmupCosine(), **arguments)


# ---- the released code's numbers


def test_loss_gradients_and_center_equal_the_released_codes() -> None:
    """Run once on the released iBOTLoss: two global views and two small ones of two images, 3 × 3 patches, one view
    without hidden ones; epoch 0, then epoch 5, after the centers have moved.
    """
    image, patches = closed_form(4, 12).requires_grad_(), closed_form(4, 9, 12, a=0.53, b=0.1).requires_grad_()
    small = closed_form(4, 12, a=0.33)
    teacher, t_patches = closed_form(4, 12, a=1.1, b=0.2), closed_form(4, 9, 12, a=0.91, b=0.4)
    mask = closed_form(4, 9, a=2.1) > 0.3
    mask[1] = False
    center, center_patch = torch.zeros(2, 12, dtype=torch.float64)
    for epoch, expected in ((0, (9.981938819146468, 8.010397180361515)), (5, (10.195362748607742, 8.08465160370086))):
        targets = ((teacher - center) / teacher_temperature(epoch, 0.04, 0.07, 3)).softmax(-1).chunk(2)
        t = ((t_patches - center_patch) / teacher_temperature(epoch, 0.04, 0.06, 3)).softmax(-1)
        log_probs = (torch.cat([image, small]) / 0.1).log_softmax(-1).chunk(4)
        losses = cross_view_entropy(targets, log_probs), hidden_entropy(t, (patches / 0.1).log_softmax(-1), mask)
        assert [float(loss.detach()) for loss in losses] == pytest.approx(expected, rel=1e-12)
        center = center.lerp(teacher.mean(0), 0.1)
        center_patch = center_patch.lerp(t_patches.flatten(0, 1).mean(0), 0.1)
    assert center_patch[:2].tolist() == pytest.approx([-0.0009622983952925411, 0.004914010219353797], rel=1e-12)
    sum(losses).backward()  # type: ignore[union-attr]
    sums = [float(x.grad.abs().sum()) for x in (patches, image)]  # type: ignore[union-attr]
    assert sums == pytest.approx([11.216640621855053, 6.400902563113584], rel=1e-12)


@pytest.mark.parametrize(
    ("seed", "share", "rows"),
    [
        (7, 0.3, "01110000111110 01110000111110 00010000011000 00000000011000 0 11111100000000 11111100000000 0"),
        (
            8,
            0.45,
            "00011110000111 00011111111111 00011111111110 00011111111110 "
            "00011001100110 00011001100000 00011000000000 0",
        ),
    ],
)
def test_masks_equal_the_released_loaders(seed: int, share: float, rows: str) -> None:
    """Of 8 × 14 patches, with Python's generator at this seed."""
    mask = rectangles(8, 14, 8 * 14 * share, 4, random.Random(seed))
    assert ["".join(str(int(hidden)) for hidden in row) for row in mask] == [row.zfill(14) for row in rows.split()]


# ---- masks


def test_as_many_patches_are_hidden_as_drawn_or_fewer() -> None:
    counts = [rectangles(8, 8, 64 * 0.4, 4, random.Random(seed)).sum() for seed in range(200)]
    assert max(counts) <= 64 * 0.4
    assert np.mean(counts) > 0.8 * 64 * 0.4
    assert rectangles(8, 8, 0.0, 4, random.Random(0)).sum() == 0


def test_shares_come_from_one_of_the_ranges() -> None:
    """As released: half of the views have no hidden patch, the others 10 to 50 %."""
    objective = ibot(pred_ratio=(0.0, 0.3), pred_ratio_var=(0.0, 0.2))
    torch.manual_seed(0)
    shares = objective.draw_masks(torch.zeros(400, 1, 8, 8)).flatten(1).float().mean(1)
    assert 150 < (shares == 0).sum() < 250
    assert shares.max() <= 0.5


def test_no_patch_is_hidden_in_the_first_epochs(monkeypatch: pytest.MonkeyPatch) -> None:
    objective = ibot(pred_start_epoch=2)
    for epoch, hides in ((1, False), (2, True)):
        monkeypatch.setattr(IBOT, "current_epoch", epoch)
        assert bool(objective.draw_masks(torch.zeros(8, 1, 8, 8)).any()) is hides


@pytest.mark.parametrize(("first", "warmup"), [(0, 3), (2, 3), (5, 4), (3, 1)])
def test_the_temperature_of_patches_warms_up_from_the_epoch_in_which_they_are_first_hidden(
    first: int, warmup: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the schedules that the released iBOTLoss lists; the images' begins with the run."""
    objective = ibot(pred_start_epoch=first, warmup_teacher_temp_epochs=warmup, teacher_temp=0.07)
    rising = np.linspace(0.04, 0.07, warmup)
    released = [np.full(first, 0.04), rising, np.full(20 - first - warmup, 0.07)], [rising, np.full(20 - warmup, 0.07)]
    outputs = torch.randn(2, 24)
    for epoch, (patches, images) in enumerate(zip(*map(np.concatenate, released), strict=True)):
        monkeypatch.setattr(IBOT, "current_epoch", epoch)
        for temps, expected in ((objective.patch_temps, patches), (None, images)):
            target = objective.targets(outputs, objective.center, temps)
            torch.testing.assert_close(target, (outputs / expected).softmax(-1))


# ---- the objective


@pytest.mark.parametrize("name", BACKBONES)
def test_the_objective_computes_what_its_functions_do(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twice, so that the second loss is of centers that have moved."""
    objective, (views, labels) = ibot(name, lambda1=0.5, lambda2=2.0).double(), crops(num_local=1)
    wake(objective)
    objective.teacher.restart(objective.student)
    views = [view.double() for view in views]
    mask = objective.draw_masks(torch.cat(views[:2]))
    monkeypatch.setattr(IBOT, "draw_masks", lambda *_: mask)
    for _ in range(2):
        teacher = objective.teacher.module
        seen = [teacher.backbone.forward_features(view) for view in views[:2]]  # type: ignore[operator, union-attr]
        outputs = [teacher.head(teacher.backbone.pool(each)) for each in seen]  # type: ignore[operator, union-attr]
        targets = [((each - objective.center) / 0.04).softmax(-1) for each in outputs]
        t_patches = torch.cat([outputs_of(teacher.head, each.patches) for each in seen])  # type: ignore[arg-type]
        t = ((t_patches - objective.center_patch) / 0.07).softmax(-1)
        hidden = [encode_hiding(objective, view, part) for view, part in zip(views[:2], mask.chunk(2), strict=True)]
        embeddings = [*map(objective.backbone.pool, hidden), objective.backbone.embed(views[2])]
        log_probs = [(objective.head(z) / 0.1).log_softmax(-1) for z in embeddings]
        patches = torch.cat([(outputs_of(objective.head, each.patches) / 0.1).log_softmax(-1) for each in hidden])
        expected = 0.5 * cross_view_entropy(targets, log_probs) + 2 * hidden_entropy(t, patches, mask.flatten(1))
        moved = 0.9 * objective.center_patch + 0.1 * t_patches.flatten(0, 1).mean(0)
        assert float(objective.loss(views, labels).detach()) == pytest.approx(float(expected.detach()), rel=1e-9)
        torch.testing.assert_close(objective.center_patch, moved)


def test_patches_with_a_head_of_their_own_do_not_use_the_images_one() -> None:
    """Each head moves the loss by its own part alone, and the teacher has both."""
    objective, (views, labels) = ibot(separate_head=True, lambda1=0.0, norm_last_layer=False), crops()
    assert {"head", "head_patch"} <= {name for name, _ in objective.teacher.module.named_children()}
    objective.loss(views, labels).backward()
    sums = [
        sum(float(p.grad.abs().sum()) for p in head.parameters()) for head in (objective.head, objective.head_patch)
    ]
    assert sums[0] == 0
    assert sums[1] > 0


def test_patches_are_balanced_as_images_are() -> None:
    """With Sinkhorn's targets neither center moves, and all outputs are about equally used."""
    objective, (views, labels) = ibot(sinkhorn=True), crops()
    objective.loss(views, labels)
    assert not objective.center.any()
    assert not objective.center_patch.any()
    patches = torch.randn(4, 9, 24).softmax(-1)
    targets = objective.targets(patches, objective.center_patch, objective.patch_temps)
    torch.testing.assert_close(targets.sum(-1), torch.ones(4, 9))
    assert float(targets.mean((0, 1)).max() * 24) < 1.2


@pytest.mark.parametrize(
    ("ratio", "width"), [((0.3,), (0.4,)), ((0.8,), (0.2,)), ((0.0, 0.3), (0.0,))], ids=["below 0", "1", "of two"]
)
def test_shares_that_cannot_be_drawn_are_refused(ratio: tuple[float, ...], width: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="whose differences and sums are from 0 to below 1"):
        ibot(pred_ratio=ratio, pred_ratio_var=width)


def test_the_token_of_hidden_patches_learns_as_the_embedding_does() -> None:
    """As in DINOv2's get_vit_lr_decay_rate, where it is of layer 0, as the class token."""
    objective = ibot()
    first, *others = objective.parameters_by_depth()
    assert {id(objective.mask_token), id(objective.backbone.cls_token)} <= {id(p) for p in first}
    assert [len(layer) for layer in others] == [len(layer) for layer in objective.backbone.parameters_by_depth()[1:]]
