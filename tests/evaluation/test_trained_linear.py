"""Linear probes by steps against the released scripts' loops, written out."""

import math
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from vitlab.evaluation import trained_linear
from vitlab.evaluation.trained_linear import LinearProbe, read_tokens, train_linear
from vitlab.experiment.protocols import Protocol
from vitlab.models import SwinTransformer, VisionTransformer

DINO, MAE = (Protocol.read(name, {}).linear for name in ("dino", "mae"))
assert DINO is not None
assert MAE is not None


def clusters(n: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(3, (n,), generator=generator)
    return 2 * torch.eye(3, 6)[labels] + torch.randn(n, 6, generator=generator), labels


TRAIN, TEST = clusters(90, 1), clusters(50, 2)


def trained(
    probe: LinearProbe, file: Path | None = None, stop: int | None = None, key: str = "these weights"
) -> tuple[nn.ModuleList, list[list[float]], object]:
    """Return the heads, the rates of each step, and the result, of training on the same features every epoch."""
    kept: list[nn.ModuleList] = []
    rates: list[list[float]] = []

    class Spied(LinearProbe):
        def optimizer_of(self, linears: nn.ModuleList, peaks: Iterable[float]) -> torch.optim.Optimizer:
            optimizer = super().optimizer_of(linears, peaks)
            kept.append(linears)
            optimizer.register_step_pre_hook(
                lambda *_: rates.append([group["lr"] for group in optimizer.param_groups[::2]])
            )
            return optimizer

    x, labels = TRAIN
    sizes = probe.step_sizes(len(labels))
    epoch = [
        (part, of_part)
        for step, of_step in zip(x[: sum(sizes)].split(sizes), labels[: sum(sizes)].split(sizes), strict=True)
        for part, of_part in zip(step.split(7), of_step.split(7), strict=True)
    ]

    def batches(epochs: range) -> Iterator[tuple[Tensor, Tensor]]:
        for number in epochs:
            if number == stop:
                raise KeyboardInterrupt
            yield from epoch

    with tempfile.TemporaryDirectory() as folder:
        result = train_linear(
            Spied(**vars(probe)),
            batches,
            train_images=len(labels),
            val=TEST,
            test=TEST,
            num_classes=3,
            seed=0,
            device=torch.device("cpu"),
            file=file or Path(folder) / "probe.pt",
            key=key,
        )
    return kept[0], rates, result


def start() -> nn.Linear:
    """The seed's start: weights of deviation 0.01, biases 0."""
    linear = nn.Linear(6, 3)
    linear.weight.data = 0.01 * torch.randn(3, 6, generator=torch.Generator().manual_seed(0))
    linear.bias.data.zero_()
    return linear


def test_dino_is_sgd_with_a_cosine_by_epoch_for_each_rate() -> None:
    """eval_linear.py: SGD(lr · batch / 256, momentum 0.9, weight_decay 0), CosineAnnealingLR stepped once an epoch."""
    protocol = replace(DINO, epochs=5, batch_size=40, rates=(0.5, 5.0))
    heads, rates, result = trained(protocol)
    assert protocol.step_sizes(90) == [40, 40, 10]
    for head, rate in zip(heads, protocol.rates, strict=True):
        oracle = start()
        optimizer = torch.optim.SGD(oracle.parameters(), rate * 40 / 256, momentum=0.9, weight_decay=0)
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 5, eta_min=0)
        for _ in range(5):
            for first in (0, 40, 80):
                optimizer.zero_grad()
                part = slice(first, first + 40)
                nn.CrossEntropyLoss()(oracle(TRAIN[0][part]), TRAIN[1][part]).backward()
                optimizer.step()
            scheduler.step()
        torch.testing.assert_close(head.weight, oracle.weight)
        torch.testing.assert_close(head.bias, oracle.bias)
        right = (oracle(TEST[0]).argmax(dim=1) == TEST[1]).float().mean()
        assert result.rates[f"{rate:g}"] == pytest.approx(float(right))  # type: ignore[attr-defined]
    assert len(rates) == 15


def test_a_step_of_lars_is_the_released_one() -> None:
    """util/lars.py: the rate of tensors of two or more dimensions is 0.001 |p| / |g| times as large."""
    heads, weights, momenta = nn.ModuleList([start()]), list(start().parameters()), [torch.zeros(3, 6), torch.zeros(3)]
    optimizer = MAE.optimizer_of(heads, (2.0,))
    for step in range(4):
        gradients = [torch.randn(shape, generator=torch.Generator().manual_seed(step)) for shape in ((3, 6), (3,))]
        for parameter, gradient in zip(heads.parameters(), gradients, strict=True):
            parameter.grad = gradient.clone()
        optimizer.step()
        with torch.no_grad():
            for weight, momentum, gradient in zip(weights, momenta, gradients, strict=True):
                ratio = 0.001 * weight.norm() / gradient.norm() if weight.ndim > 1 else 1.0
                momentum.mul_(0.9).add_(gradient * ratio)
                weight.sub_(2.0 * momentum)
        for parameter, weight in zip(heads.parameters(), weights, strict=True):
            torch.testing.assert_close(parameter, weight)


def test_mae_normalizes_in_batches_of_a_device_and_warms_up_by_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """main_linprobe.py: BatchNorm1d without affine before the classifier; util/lr_sched.py; drop_last."""
    monkeypatch.setattr("vitlab.evaluation.trained_linear.NORM_BATCH", 20)
    protocol = replace(MAE, epochs=12, batch_size=40, optimizer="sgd")
    heads, rates, _ = trained(protocol)
    assert protocol.step_sizes(90) == [40, 40]

    def rate(epoch: float) -> float:
        peak = 0.1 * 40 / 256
        return peak * epoch / 10 if epoch < 10 else peak * 0.5 * (1 + math.cos(math.pi * (epoch - 10) / 2))

    assert [each for (each,) in rates] == pytest.approx([rate(step / 2) for step in range(24)])
    oracle = start()
    optimizer = torch.optim.SGD(oracle.parameters(), 1.0, momentum=0.9)
    for step in range(24):
        part = slice(40 * (step % 2), 40 * (step % 2) + 40)
        normed = torch.cat(
            [(x - x.mean(0)) / (x.var(0, unbiased=False) + 1e-6).sqrt() for x in TRAIN[0][part].split(20)]
        )
        optimizer.param_groups[0]["lr"] = rate(step / 2)
        optimizer.zero_grad()
        nn.CrossEntropyLoss()(oracle(normed), TRAIN[1][part]).backward()
        optimizer.step()
    torch.testing.assert_close(heads[0].weight, oracle.weight)


def test_of_several_rates_the_best_on_the_validation_images_is_chosen() -> None:
    *_, result = trained(replace(DINO, epochs=3, batch_size=40, rates=(1e-7, 1.0, 1e-6)))
    assert result.rate == 1.0  # type: ignore[attr-defined]
    assert result.last.value == result.rates["1"] > 0.7  # type: ignore[attr-defined]
    assert result.best >= result.last.value  # type: ignore[attr-defined]


@pytest.mark.parametrize("published", [DINO, MAE], ids=["dino", "mae"])
def test_an_interrupted_training_continues_to_the_bit(published: LinearProbe, tmp_path: Path) -> None:
    protocol = replace(published, epochs=4, batch_size=40)
    whole, _, expected = trained(protocol)
    file = tmp_path / "probe.pt"
    with pytest.raises(KeyboardInterrupt):
        trained(protocol, file, stop=2)
    assert torch.load(file)["by_epoch"].shape == (2, len(protocol.rates))
    interrupted = file.read_bytes()
    for content, key in ((interrupted, "other weights"), (b"torn", "these weights")):
        file.write_bytes(content)
        assert len(trained(protocol, file, key=key)[1]) == 4 * len(protocol.step_sizes(90))
    file.write_bytes(interrupted)
    continued, rates, result = trained(protocol, file)
    assert len(rates) == 2 * len(protocol.step_sizes(90))
    assert result == expected
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), continued.parameters(), strict=True))
    assert not file.exists()


def test_the_released_numbers() -> None:
    """eval_linear.py:105, 256-280 on 8 devices; FINETUNE.md, "Linear Probing"."""
    assert (DINO.epochs, DINO.batch_size, DINO.warmup_epochs, DINO.batch_norm) == (100, 8 * 128, 0, False)
    assert 0.001 in DINO.rates
    assert (MAE.epochs, MAE.batch_size, MAE.rates, MAE.warmup_epochs) == (90, 32 * 512, (0.1,), 10)


# What the papers' protocols read of a ViT, against timm's intermediate layers with the same weights


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
