"""Steps that take turns: their order, their clock, and the ratios of neighbors."""

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer

import benchmarks
from benchmarks import against_timm, framework, loaders
from benchmarks.measuring import WARM_UP, alternate, one_thread, quartiles, ratios
from benchmarks.step_profile import OTHER, PYTHON, Profile, StepProfiler, main, parts
from tests.conftest import EXPERIMENTS
from vitlab.config import Config, load_yaml
from vitlab.models import vit_tiny_patch16_224

CPU = torch.device("cpu")


def test_the_two_take_turns_and_swap_who_is_first() -> None:
    order: list[str] = []
    times = alternate({"vitlab": lambda: order.append("v"), "timm": lambda: order.append("t")}, 4, CPU)
    assert order in (list("tvvttvvttvvt"), list("vttvvttvvttv"))
    assert {whose: len(values) for whose, values in times.items()} == {"vitlab": 4, "timm": 4}


def test_ratios_are_of_neighbors() -> None:
    # Twice as fast throughout, while the machine slows down tenfold: a ratio of two medians would not know.
    assert ratios([1.0, 1.0, 10.0, 10.0], [2.0, 2.0, 20.0, 20.0]) == (0.5, 0.5, 0.5)
    assert quartiles([1.0, 2.0, 3.0, 4.0, 5.0]) == (2.0, 3.0, 4.0)
    with pytest.raises(ValueError, match="shorter"):
        ratios([1.0, 2.0], [1.0])


def test_one_thread_ends_with_as_many_as_before() -> None:
    before = torch.get_num_threads()
    with one_thread():
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before


def test_the_readme_has_every_script() -> None:
    folder = Path(benchmarks.__file__).parent
    readme = (folder / "README.md").read_text()
    scripts = [path.stem for path in folder.glob("*.py") if '__name__ == "__main__"' in path.read_text()]
    assert len(scripts) > 10
    assert [name for name in scripts if f"python -m benchmarks.{name}" not in readme] == []


# A run and a plain loop: the same arithmetic, so that they differ only in what surrounds it


RECIPE: Config = {
    "data": {
        "init_args": {"batch_size": 32, "mixup": {"mixup_alpha": 0.8}, "augment": {"shift": 1, "erase_prob": 0.3}}
    },
    "model": {"init_args": {"label_smoothing": 0.1, "optimizer": {"init_args": {"layer_decay": 0.75}}}},
}


def test_the_plain_loop_reaches_the_runs_weights(
    tiny: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """To the bit, beyond the end of an epoch."""
    equal: list[bool] = []

    def compare(self: framework.InterleavePlainLoop, trainer: Trainer, pl_module: LightningModule) -> None:
        ours, plain = pl_module.backbone.state_dict(), self.plain.model.state_dict()
        equal.extend(torch.equal(ours[name], plain[name]) for name in ours)
        self.file.write_text(json.dumps(self.seconds))

    monkeypatch.setattr(framework.InterleavePlainLoop, "on_train_end", compare)
    framework.main(["--config", str(tiny(RECIPE)), "--steps", "40"])
    assert equal
    assert all(equal)
    assert "times as long within the framework" in capsys.readouterr().out
    assert not Path("runs").exists()


def test_the_median_of_neighbors_counts_after_the_warm_up() -> None:
    plain = [1.0] * WARM_UP + [2.0, 4.0, 8.0]
    seconds = {"plain": plain, "run": [9.0] * WARM_UP + [2.2, 4.0, 8.4]}
    assert framework.overhead(seconds) == pytest.approx((1.025, 1.05, 1.075))


# Which phase a time belongs to, and that none is lost


def test_a_training_step_is_split_into_phases_and_kinds(
    tiny: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--config", str(tiny()), "--steps", "3", "--out", str(tmp_path / "out")]
    main(arguments)
    table = (tmp_path / "out" / "step.md").read_text()
    assert capsys.readouterr().out.endswith(table)
    for row in ("forward pass and loss", "backward pass", "optimizer", "waiting for data", "matrix products", "norms"):
        assert f"| {row}" in table
    assert not (tmp_path / "runs").exists()


def test_time_belongs_to_the_innermost_phase(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(1_000_000))  # a second passes between any two looks at it
    monkeypatch.setattr(time, "perf_counter", lambda: float(next(clock)))
    profiler = StepProfiler(str(tmp_path / "profile.json"), steps=2)
    for _ in range(WARM_UP + 2 * 2 + 2):
        with profiler.profile("[_TrainingEpochLoop].train_dataloader_next"):
            pass
        with profiler.profile("[Strategy]SingleDeviceStrategy.optimizer_step"):
            with profiler.profile("[Strategy]SingleDeviceStrategy.training_step"):
                pass
            with profiler.profile("[Strategy]SingleDeviceStrategy.backward"):
                pass
        with profiler.profile("[Callback]RunProgress.on_train_batch_end"):
            pass
    result = Profile(**json.loads((tmp_path / "profile.json").read_text()))
    inner = {"waiting for data", "forward pass and loss", "backward pass"}
    assert {result.phases[phase] for phase in inner} == {1000.0}
    assert result.phases["optimizer"] == 3000.0  # before, between and after the passes that it calls
    assert sum(result.phases.values()) == pytest.approx(result.step)


def test_parts_of_a_bar_add_up_to_the_step() -> None:
    assert parts(Profile(8.0, {}, {"norms": 4.0, OTHER: 2.0}), 2) == {"norms": 2000.0, OTHER: 1000.0, PYTHON: 1000.0}
    watched_slowly = parts(Profile(8.0, {}, {"norms": 12.0, OTHER: 4.0}), 2)
    assert watched_slowly == {"norms": 3000.0, OTHER: 1000.0, PYTHON: 0.0}


# Photographs


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loaders, "PHOTOS", 6)
        root = loaders.make_photos(tmp_path_factory.mktemp("photos") / "made")
        return {row["method"]: row for row in loaders.photographs(root, seconds=0)}


def test_every_method_is_measured(rows: dict[str, dict[str, str]]) -> None:
    assert list(rows) == ["timm", "timm, uint8", "vitlab, normalized here", "vitlab"]
    assert rows["timm"]["ratio [quartiles]"] == "**1.00** [1.00, 1.00]"


def test_pixels_are_pillows_to_the_stated_decibels(rows: dict[str, dict[str, str]]) -> None:
    psnr = {method: row["PSNR, dB (worst 5 %)"].split()[0] for method, row in rows.items()}
    assert psnr["timm"] == "Pillow's"  # the reference
    assert float(psnr["vitlab"]) > 54


def test_without_a_folder_photographs_are_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(loaders, "PHOTOS", 2)
    threads = torch.get_num_threads()
    loaders.main(["--seconds", "0", "--out", str(tmp_path)])
    assert torch.get_num_threads() == threads
    assert (tmp_path / "photographs.md").read_text() == capsys.readouterr().out


# Against timm's models


def test_training_costs_three_forward_passes() -> None:
    # Backward computes two products for each of the forward pass; the first layer needs no gradient of the images.
    model = vit_tiny_patch16_224(num_classes=1000)
    image, label = torch.randn(1, 3, 224, 224), torch.tensor([0])
    forward = against_timm.count_flops(model, image, label, "inference")
    assert forward == pytest.approx(2 * 1.26e9, rel=0.02)  # 1.26 GMACs in timm's results table
    assert against_timm.count_flops(model, image, label, "training") == pytest.approx(3 * forward, rel=0.05)


@pytest.mark.release
def test_training_and_inference_are_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(against_timm, "GEMM_SIDE", 128)
    monkeypatch.setattr(against_timm, "peak_memory", lambda *args: 2**20)  # tested below
    options = ["--batch", "1", "--repetitions", "2", "--precision", "float32", "--out", str(tmp_path)]
    against_timm.main(["vit_tiny_patch16_224", *options])
    table = (tmp_path / "models.md").read_text()
    assert table == capsys.readouterr().out
    assert "| vit_tiny_patch16_224 | training | float32 | 1 |" in table
    assert "| vit_tiny_patch16_224 | inference | float32 | 1 |" in table


def test_parity_is_written_as_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    against_timm.main(["vit_tiny_patch16_224", "--parity", "--out", str(tmp_path)])
    table = (tmp_path / "parity.md").read_text()
    assert table == capsys.readouterr().out
    row = next(line for line in table.splitlines() if "vit_tiny" in line).split("|")
    assert max(map(float, row[3:5])) < 1e-5
    assert row[5].strip() == row[6].strip() == "5,717,416"  # DeiT-Ti's published count


@pytest.mark.parametrize("name", against_timm.SPEEDRUN)
def test_the_speedruns_sizes_are_the_same_network_in_both(name: str) -> None:
    device = torch.device("cpu")
    ours, theirs = (against_timm.build(name, whose, False, device).eval() for whose in ("vitlab", "timm"))
    ours.load_state_dict(theirs.state_dict())
    images, _ = against_timm.random_batch(name, 2, device)
    assert images.shape == (2, 3, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(ours(images), theirs(images))
    sizes = load_yaml(EXPERIMENTS / f"speedrun/{name.removeprefix('speedrun_').replace('swinv2', 'swin_v2')}.yaml")
    arguments = sizes["model"]["init_args"]["backbone"]["init_args"]
    _, built = against_timm.SPEEDRUN[name]
    for key in ("patch_size", "embed_dim", "depth", "depths", "window_size"):
        if key in arguments and key in built:
            assert arguments[key] == (list(built[key]) if isinstance(built[key], tuple) else built[key]), key
