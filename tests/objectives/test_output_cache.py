"""Outputs of a frozen network on disk: what is found again, what is not, and what a student's weights are then."""

import errno
import logging
import os
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.objectives.small import RECIPE, SMALL, quick_trainer
from vitlab.config import conflicts
from vitlab.data import Digits
from vitlab.data.mixup import Mixup
from vitlab.models import VisionTransformer
from vitlab.objectives import Distillation, SoftTarget, Teacher, output_cache
from vitlab.objectives.output_cache import OutputCache, image_keys


def images(n: int = 8, seed: int = 0) -> Tensor:
    return torch.randn(n, 3, 4, 4, generator=torch.Generator().manual_seed(seed))


class Counting:
    """A teacher that counts how often it is asked: the logits are an image's first two values."""

    def __init__(self) -> None:
        self.asked = 0

    def __call__(self, images: Tensor) -> Tensor:
        self.asked += 1
        return images[:, 0, 0, :2].clone()


@pytest.fixture
def warnings_of_vitlab(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    logging.getLogger("vitlab").propagate = True
    caplog.set_level(logging.INFO, "vitlab")
    return caplog


# ---- the key


def test_two_images_that_differ_in_one_bit_have_two_keys() -> None:
    """Each of the 32 bits of each of the 48 values in turn; and in all signs at once."""
    one = images(1).flatten().view(torch.int32)  # (48,)
    bits = (1 << torch.arange(32)).int()
    flipped = one ^ (bits[:, None, None] * torch.eye(48, dtype=torch.int32))  # (32, 48, 48)
    variants = torch.cat([one[None], flipped.flatten(0, 1), one[None] ^ bits[31]])
    variants = variants.view(torch.float32).view(-1, 3, 4, 4)
    keys = image_keys(variants)
    assert len(variants) == 1 + 32 * 48 + 1
    assert len(keys.unique(dim=0)) == len(variants)
    assert all(len(half.unique()) == len(variants) for half in keys.T)  # by either half alone


def test_a_key_is_the_sum_that_its_formula_says() -> None:
    """Σ w x mod 2⁶⁴ in Python's integers, which do not overflow."""
    x = images(2)
    multipliers = output_cache._multipliers(48, x.device).tolist()
    for image, key in zip(x, image_keys(x).tolist(), strict=True):
        values = image.flatten().view(torch.int32).tolist()
        sums = [sum(w * v for w, v in zip(row, values, strict=True)) for row in multipliers]
        assert [s % 2**64 for s in sums] == [k % 2**64 for k in key]


# ---- the folder


def filled(folder: Path, *seeds: int) -> OutputCache:
    """Return a cache that was asked for these batches and flushed after each."""
    cache = OutputCache(folder, 2)
    for seed in seeds:
        cache.outputs(images(seed=seed), Counting())
        cache.flush()
    return cache


def test_what_is_known_comes_back_to_the_bit_without_the_teacher(tmp_path: Path) -> None:
    filled(tmp_path, 0, 1)
    teacher, cache = Counting(), OutputCache(tmp_path, 2)
    for seed in (1, 0):
        some = images(seed=seed)[torch.randperm(8)[:5]]  # in another order, and not all of them
        assert torch.equal(cache.outputs(some, teacher), Counting()(some))
    assert (teacher.asked, cache.answered, cache.batches) == (0, 2, 2)


def test_a_batch_with_an_unknown_image_is_given_to_the_teacher_whole(tmp_path: Path) -> None:
    filled(tmp_path, 0)
    seen: list[int] = []
    cache = OutputCache(tmp_path, 2)
    mixed = torch.cat([images(), images(1, seed=1)])

    def teacher(images: Tensor) -> Tensor:
        seen.append(len(images))
        return images[:, 0, 0, :2]

    assert torch.equal(cache.outputs(mixed, teacher), mixed[:, 0, 0, :2])
    assert (seen, cache.answered) == ([9], 0)


def test_only_what_was_not_written_is_lost_when_a_run_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output_cache, "MOST_PENDING", 2 * 8 * (16 + 2 * 4))  # two batches of eight rows
    killed = OutputCache(tmp_path, 2)
    for seed in range(3):
        killed.outputs(images(seed=seed), Counting())
    assert len(list(tmp_path.iterdir())) == 1
    teacher, cache = Counting(), OutputCache(tmp_path, 2)
    for seed in range(3):
        cache.outputs(images(seed=seed), teacher)
    assert (teacher.asked, cache.answered) == (1, 2)


def test_two_runs_at_a_time_find_what_the_other_wrote(tmp_path: Path) -> None:
    """From the end of the epoch on."""
    teacher, late = Counting(), OutputCache(tmp_path, 2)
    filled(tmp_path, 0, 1)
    late.outputs(images(seed=0), teacher)
    assert teacher.asked == 1
    late.flush()
    late.outputs(images(seed=1), teacher)
    assert (teacher.asked, late.answered) == (1, 1)


@pytest.mark.parametrize("damage", ["cut", "other names"])
def test_a_damaged_shard_is_reported_and_passed_over(
    damage: str, tmp_path: Path, warnings_of_vitlab: pytest.LogCaptureFixture
) -> None:
    filled(tmp_path, 0)
    (victim,) = tmp_path.iterdir()
    filled(tmp_path, 1)
    content = victim.read_bytes()
    victim.write_bytes({"cut": content[:-1], "other names": output_cache.save({"weight": torch.zeros(8, 3)})}[damage])
    teacher, cache = Counting(), OutputCache(tmp_path, 2)
    for seed in (0, 1, 0):
        assert torch.equal(cache.outputs(images(seed=seed), teacher), Counting()(images(seed=seed)))
    cache.flush()  # reported once all the same
    assert (teacher.asked, cache.answered) == (2, 1)
    messages = [record.getMessage() for record in warnings_of_vitlab.records]
    assert len([m for m in messages if m.startswith(f"{victim}: skipped")]) == 1
    OutputCache(tmp_path, 2).outputs(images(), teacher)  # what was damaged has been written anew
    assert teacher.asked == 2


def test_a_full_disk_is_reported_and_training_continues(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, warnings_of_vitlab: pytest.LogCaptureFixture
) -> None:
    filled(tmp_path, 0)

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    teacher, cache = Counting(), OutputCache(tmp_path, 2)
    for seed in (1, 2, 0):
        assert torch.equal(cache.outputs(images(seed=seed), teacher), Counting()(images(seed=seed)))
        cache.flush()
    warning, _ = [record.getMessage() for record in warnings_of_vitlab.records]
    assert warning.startswith("Cannot store outputs of a frozen network: [Errno 28] No space left on device: ")
    assert warning.endswith(".safetensors'. They are computed again.")
    assert (teacher.asked, cache.answered) == (2, 1)  # what is there is still read
    assert [path.suffix for path in tmp_path.iterdir()] == [".safetensors"]  # and nothing half written is left


# ---- a teacher's folder


def small_vit(num_heads: int = 2, seed: int = 1) -> VisionTransformer:
    torch.manual_seed(seed)
    return VisionTransformer(patch_size=4, embed_dim=16, depth=1, num_heads=num_heads, **SMALL)


def folder(model: VisionTransformer | None = None, precision: str = "32-true", mean: float | None = None) -> Path:
    own = None if mean is None else (mean,)
    teacher = Teacher(model or small_vit(), mean=own, std=own and (0.5,), cache="logits")
    teacher.prepare(torch.device("cpu"), mean=(0.3,), std=(0.5,))
    cache = teacher.open_cache(precision)
    assert cache is not None
    return cache.folder


def test_a_teachers_folder_is_its_own() -> None:
    """Whatever changes its logits for an image changes the folder: that it was trained again, too."""
    larger = VisionTransformer(patch_size=4, embed_dim=16, depth=1, num_heads=2, **(SMALL | {"img_size": 16}))
    folders = [
        folder(),
        folder(small_vit(seed=2)),
        folder(small_vit(num_heads=4)),  # of the same shapes
        folder(larger),
        folder(mean=0.4),
        folder(precision="bf16-mixed"),
    ]
    assert len(set(folders)) == len(folders)
    assert {path.parent for path in folders} == {Path("logits")}
    assert folder() == folder(mean=0.3) == folders[0]  # its own normalization, if it is the data's, changes nothing


# ---- a student


@pytest.mark.parametrize(("image_size", "precision"), [(8, "32-true"), (16, "bf16-mixed")])
def test_a_students_weights_are_the_same_to_the_bit_with_the_cache(
    image_size: int,
    precision: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    warnings_of_vitlab: pytest.LogCaptureFixture,
) -> None:
    """Mixed images, in the teacher's size and in another; the teacher is asked at six steps or at none."""
    monkeypatch.setattr(Teacher, "examine", lambda *args: None)  # what a teacher that guesses says is as good to keep
    sizes = {"patch_size": 4, "embed_dim": 16, "depth": 1, "num_heads": 2} | SMALL | {"img_size": image_size}
    weights, asked = [], []
    for cache in (None, tmp_path, tmp_path):
        times: list[int] = []
        teacher = Teacher(small_vit(), cache=cache and str(cache))
        teacher.model.register_forward_hook(lambda *_, times=times: times.append(1))
        torch.manual_seed(0)
        student = VisionTransformer(**sizes, distilled=True)  # type: ignore[arg-type]
        objective = Distillation(student, teacher, SoftTarget(), *RECIPE)
        data = Digits(batch_size=64, image_size=image_size, mixup=Mixup())
        limits = {"limit_train_batches": 3, "limit_val_batches": 1}
        quick_trainer(2, **limits, precision=precision).fit(objective, datamodule=data)
        weights.append(objective.state_dict())
        asked.append(len(times))
    assert asked == [6, 6, 0]
    for name, value in weights[0].items():
        assert torch.equal(value, weights[1][name])
        assert torch.equal(value, weights[2][name])
    (folder,) = tmp_path.iterdir()
    messages = [record.getMessage() for record in warnings_of_vitlab.records]
    assert [each for each in messages if "frozen network" in each] == [
        f"Outputs of the frozen network: {known} of 6 batches from {folder}." for known in (0, 6)
    ]
    assert len(list(folder.iterdir())) == 2  # one an epoch


def test_the_cache_is_no_part_of_what_a_run_is() -> None:
    """A finished run is not another one because its logits lie elsewhere."""
    one, other = ({"model": {"init_args": {"teacher": {"cache": cache}}}} for cache in (None, "logits"))
    assert conflicts(one, other) == []
