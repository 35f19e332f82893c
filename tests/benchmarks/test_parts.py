"""The parts that were tried in the speedrun: each does what its paper says, and none of them does anything when off."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from torch import Tensor, nn

import benchmarks
from benchmarks.parts import MirrorInTurn, MuonWithParts, ReluSquared, SupervisedWithParts, SwiGLU, ViTWithParts
from tests.objectives.small import quick_trainer
from tests.test_experiments import SHORT, make_cifar
from vitlab.commands.dispatch import run
from vitlab.data import BatchAugment, Digits
from vitlab.data.counter_rng import Draws
from vitlab.models import VisionTransformer
from vitlab.optim import AdamW, Muon, WarmupCosine
from vitlab.studies.file.runs import differing_keys, plan
from vitlab.studies.file.study import read_study, slug

SMALL = {"img_size": 8, "patch_size": 2, "in_chans": 1, "num_classes": 10, "embed_dim": 32, "num_heads": 2}


def vit(**parts: object) -> ViTWithParts:
    torch.manual_seed(0)
    return ViTWithParts(**SMALL, depth=3, global_pool="avg", **parts)  # type: ignore[arg-type]


def step(optimizer: Muon, weight: Tensor, name: str = "blocks.0.mlp.fc1.weight", times: int = 1) -> Tensor:
    """Return a matrix after steps with gradients that are always the same."""
    parameter = nn.Parameter(weight.clone())
    group = {"params": [parameter], "names": [name], "lr": 0.1, "weight_decay": 0.5, "hidden_matrices": True}
    built = optimizer.build([group])
    for i in range(times):
        parameter.grad = torch.randn(weight.shape, generator=torch.Generator().manual_seed(i))
        built.step()
    return parameter.detach()


def test_without_a_part_models_and_steps_are_vitlabs() -> None:
    torch.manual_seed(0)
    plain = VisionTransformer(**SMALL, depth=3, global_pool="avg")  # type: ignore[arg-type]
    images = torch.randn(2, 1, 8, 8)
    assert torch.equal(vit()(images), plain(images))
    weight = torch.randn(8, 4)
    torch.testing.assert_close(step(MuonWithParts(0.1), weight, times=3), step(Muon(0.1), weight, times=3))


def test_relu_squared() -> None:
    assert ReluSquared()(torch.tensor([-2.0, 0.0, 3.0])).tolist() == [0, 0, 9]
    assert all(isinstance(block.mlp.act, ReluSquared) for block in vit(relu_squared=True).blocks)


def test_swiglu_is_a_gated_mlp_of_as_many_weights() -> None:
    """Shazeer's equation 6, SiLU(x W) ⊙ (x V) W₂, without and with its biases; 2/3 of the hidden width."""
    plain, gated = vit().blocks[0].mlp, vit(swiglu=True).blocks[0].mlp
    assert isinstance(gated, SwiGLU)
    assert gated.fc1.weight.shape == (2 * 85, 32)
    weights = [sum(p.numel() for p in mlp.parameters() if p.ndim == 2) for mlp in (plain, gated)]
    assert abs(weights[1] - weights[0]) < 0.01 * weights[0]
    x = torch.randn(3, 32)
    W, V = gated.fc1.weight.split(85)
    w, v = gated.fc1.bias.split(85)
    gate = x @ W.T + w
    expected = gate / (1 + torch.exp(-gate)) * (x @ V.T + v) @ gated.fc2.weight.T + gated.fc2.bias
    torch.testing.assert_close(gated(x), expected)


def test_the_hardest_half_of_a_batch_is_trained_on() -> None:
    images, labels = torch.randn(6, 1, 8, 8), torch.tensor([0, 1, 2, 3, 4, 5])
    half, whole = objective(hardest=0.5), objective()
    losses = nn.functional.cross_entropy(whole.backbone(images), labels, reduction="none")
    torch.testing.assert_close(half.loss([images], labels), losses.sort().values[3:].mean())
    torch.testing.assert_close(whole.loss([images], labels), losses.mean())


def test_queries_and_keys_have_the_norm_of_their_width() -> None:
    q, k, v = vit(qk_norm=True).blocks[1].attn.project_qkv(torch.randn(2, 16, 32))
    for normalized in (q, k):
        torch.testing.assert_close(normalized.square().mean(-1), torch.ones(2, 2, 16), rtol=1e-2, atol=1e-2)
    assert not torch.allclose(v.square().mean(-1), torch.ones(2, 2, 16), rtol=0.1)


def test_values_of_later_blocks_are_mixed_with_the_first_blocks() -> None:
    model, values = vit(value_residuals=True), []
    for block in model.blocks:
        block.attn.register_forward_hook(lambda module, inputs, _: values.append(module.project_qkv(*inputs)[2]))
    plain = vit()
    plain.load_state_dict(model.state_dict(), strict=False)
    own: list[Tensor] = []
    for block in plain.blocks:
        block.attn.register_forward_hook(lambda module, inputs, _: own.append(module.project_qkv(*inputs)[2]))
    images = torch.randn(2, 1, 8, 8)
    model(images).sum().backward()
    plain(images)
    torch.testing.assert_close(values[0], own[0])
    hidden = values[1] - 0.5 * values[0]  # half of the second block's own, whose input is the mixed model's
    assert not torch.allclose(hidden, values[1])
    assert all(block.attn.shares.grad.abs().sum() > 0 for block in model.blocks[1:])  # type: ignore[union-attr]


def test_a_mimetic_start_has_the_products_of_its_paper() -> None:
    """The diagonals in the mean over 32 numbers of standard deviation 0.7 / √32, and the rank of a head."""
    for block in vit(mimetic="all").blocks:
        q, k, v = block.attn.qkv.weight.unflatten(0, (3, 2, 16))
        product = v.flatten(0, 1).T @ block.attn.proj.weight.T
        assert abs(product.diagonal().mean() + 0.4) < 0.1
        attention = q[0].T @ k[0]
        assert torch.linalg.matrix_rank(attention.detach()) == 16
        assert 0.3 < attention.diagonal().mean() < 1.2
    trained = vit(mimetic="values")
    assert torch.equal(trained.blocks[0].attn.qkv.weight[:64], vit().blocks[0].attn.qkv.weight[:64])


def test_rows_of_a_first_step_are_of_equal_norm_and_the_whole_keeps_its_own() -> None:
    weight = torch.zeros(8, 4)
    even, plain = step(MuonWithParts(0.1, equal_rows=True), weight), step(Muon(0.1), weight)
    torch.testing.assert_close(even.norm(), plain.norm())
    torch.testing.assert_close(even.norm(dim=1), torch.full((8,), float(even.norm()) / 8**0.5))
    assert plain.norm(dim=1).std() > 0.01 * plain.norm()


def test_cautious_decay_leaves_weights_that_the_update_enlarges() -> None:
    weight = torch.randn(8, 4)
    change = step(Muon(0.1), torch.zeros(8, 4))  # of the update alone
    expected = weight + change - 0.1 * 0.5 * weight * (change * weight < 0)
    torch.testing.assert_close(step(MuonWithParts(0.1, cautious=True), weight), expected)


def test_every_second_epoch_mirrors_the_others() -> None:
    images = 2 * torch.arange(64).byte().view(64, 1, 1, 1).repeat(1, 1, 1, 2)
    images[..., 1] += 1
    augment, indices = MirrorInTurn(shift=0), torch.arange(64)
    epochs = [augment.distort(images, Draws(0, epoch, indices)) for epoch in range(4)]
    mirrored = [seen[..., 0].ne(images[..., 0]).flatten() for seen in epochs]
    assert torch.equal(mirrored[0], ~mirrored[1])
    assert torch.equal(mirrored[2], ~mirrored[3])
    assert 16 < mirrored[0].sum() < 48
    assert not torch.equal(mirrored[0], mirrored[2])
    assert isinstance(augment, BatchAugment)


@pytest.mark.slow
@pytest.mark.parametrize("name", [path.stem for path in Path(benchmarks.__file__).parent.glob("parts_*.yaml")])
def test_every_variant_of_the_studies_trains(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = read_study(Path(benchmarks.__file__).parent / f"{name}.yaml")
    planned = plan(replace(study, seeds=study.seeds[:1]), tmp_path)
    assert [difference.key for difference in differing_keys(study, planned) if not difference.declared] == []
    monkeypatch.chdir(tmp_path)
    make_cifar(tmp_path / "data")
    for each in planned:
        Path("variant.yaml").write_text(yaml.safe_dump(each.config))
        options = {"--config": "variant.yaml", "--run.name": slug(each.variant), **SHORT}
        assert run("fit", [word for pair in options.items() for word in pair]) == 0, each.variant


def objective(**parts: object) -> SupervisedWithParts:
    return SupervisedWithParts(vit(), AdamW(1e-9), WarmupCosine(), **parts)  # type: ignore[arg-type]


@pytest.mark.filterwarnings("ignore")  # Lightning's, of small epochs
def test_a_fitted_head_classifies_without_training() -> None:
    """Digits, of which chance is a tenth."""
    right = []
    for fit_head in (True, False):
        trained = objective(fit_head=fit_head)
        trainer = quick_trainer(limit_train_batches=1)
        trainer.fit(trained, datamodule=Digits())
        right.append(float(trainer.callback_metrics["val/top1"]))
    assert right[0] > 0.4 > 0.3 > right[1]


@pytest.mark.filterwarnings("ignore")  # Lightning's, of small epochs
def test_patches_are_dropped_in_the_first_half_alone() -> None:
    seen: list[int] = []
    trained = objective(drop_early=0.5)
    hook = trained.backbone.blocks[0].register_forward_hook
    hook(lambda module, inputs, _: seen.append(inputs[0].shape[1]) if module.training else None)
    quick_trainer(limit_train_batches=4).fit(trained, datamodule=Digits())
    assert seen == [1 + 8, 1 + 8, 1 + 16, 1 + 16]  # with the class token
