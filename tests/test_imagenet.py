"""The published recipes: each file, put together by the command line, gives the published sizes and learning rates."""

import math
import re
import shlex
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pytest
import timm
import torch

from tests import official_values
from tests.conftest import EXPERIMENTS
from tests.noise import make_noise
from vitlab.commands.dispatch import run
from vitlab.config import flatten, load_yaml
from vitlab.data import ImageFolder
from vitlab.experiment.experiment import Experiment
from vitlab.experiment.protocols import Protocol
from vitlab.objectives import Teacher
from vitlab.optim import parameter_groups

FILES = sorted((EXPERIMENTS / "imagenet").glob("*.yaml"))
FILE = pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
# Of the recipes with the same keys one is trained.
TRAINED = [
    *("deit_tiny", "deit_base_hard", "deit_base_soft", "vit_small", "swin_tiny", "simmim_swin_base"),
    *("finetune_simmim_swin_base", "simmim_swinv2_base", "finetune_simmim_swinv2_base", "simmim_vit_base"),
    *("finetune_simmim_vit_base", "mae_vit_base", "finetune_mae_vit_base", "swin_base_384", "deit_base_384"),
    *("dino_vits16", "msn_vits16", "finetune_swin_base_22k_384", "simmim_swin_base_800ep"),
]
# One of each objective and architecture is built in the quick tests.
QUICK = [
    "deit_base_hard",
    "vit_small",
    "swin_tiny",
    "simmim_swinv2_base",
    "finetune_mae_vit_base",
    "mae_vit_base",
    *TRAINED[-4:-2],
]


class Published(NamedTuple):
    """What comes out when the released code runs its own configuration, in its own units or not."""

    batch: int  # images for each optimizer step, over all devices
    peak: float  # the learning rates, scaled with that batch: after the warm-up,
    first: float  # at step 0
    last: float  # and at the end
    epochs: int
    bottom: float = 1.0  # of the lowest layer's rate to the peak


DEIT = Published(1024, 1e-3, 1e-6, 1e-5, 300)  # main.py of facebookresearch/deit
SWIN = Published(1024, 1e-3, 1e-6, 1e-5, 300)  # config.py, main.py:326-338 of microsoft/Swin-Transformer
MAE = Published(4096, 2.4e-3, 0.0, 0.0, 800)  # PRETRAIN.md of facebookresearch/mae
SIMMIM_800 = Published(2048, 4e-4, 2e-6, 4e-5, 800)  # microsoft/SimMIM: 1e-4 · 4, a tenth of it from epoch 700 on
# configs/pretrain/msn_vits16.yaml of facebookresearch/msn: after 800 of the 1000 epochs of its cosine, 15 of warm-up
MSN = Published(1024, 1e-3, 2e-4, 1e-6 + (1e-3 - 1e-6) * (1 + math.cos(math.pi * 785 / 985)) / 2, 800)
SIMMIM_FT = Published(2048, 5e-3, 1e-6, 1e-6, 100)

PUBLISHED = {
    **dict.fromkeys(["deit_tiny", "deit_small", "deit_base", "deit_base_hard", "deit_base_soft"], DEIT),
    "deit_base_384": Published(512, 5e-6, 1e-6, 5e-6, 30),  # README_deit.md: --lr 5e-6 --min-lr 5e-6
    "vit_small": Published(1024, 1e-3, 0.0, 0.0, 90),  # configs/vit_s16_i1k.py of google-research/big_vision
    **dict.fromkeys(["swin_tiny", "swin_small", "swin_base"], SWIN),
    **{f"swinv2_{size}_window{window}": SWIN for size in ("tiny", "small", "base") for window in (8, 16)},
    **dict.fromkeys(
        ["swin_base_384", "finetune_swin_base_22k", "finetune_swin_base_22k_384"], Published(1024, 4e-5, 4e-8, 4e-7, 30)
    ),
    "simmim_swin_base": Published(2048, 8e-4, 4e-6, 4e-5, 100),
    **dict.fromkeys(["simmim_swin_base_800ep", "simmim_swinv2_base", "simmim_vit_base"], SIMMIM_800),
    # LAYER_DECAY to the power of the blocks and the embedding below the head, in optimizer.py and util/lr_decay.py
    "finetune_simmim_swin_base": SIMMIM_FT._replace(bottom=0.9**25),
    "finetune_simmim_swin_base_800ep": SIMMIM_FT._replace(bottom=0.8**25),
    "finetune_simmim_swinv2_base": SIMMIM_FT._replace(bottom=0.75**25),
    "finetune_simmim_vit_base": SIMMIM_FT._replace(bottom=0.65**13),
    **dict.fromkeys(["mae_vit_base", "mae_vit_large", "mae_vit_huge"], MAE),
    "dino_vits16": Published(1024, 2e-3, 0.0, 1e-5, 800),  # args.txt of the released model, main_dino.py:238-243
    "dino_vits16_100ep": Published(512, 1e-3, 0.0, 1e-6, 100),  # README.md, the defaults of main_dino.py
    **dict.fromkeys(["msn_vits16", "msn_vits16_paper"], MSN),
    "finetune_mae_vit_base": Published(1024, 2e-3, 0.0, 1e-6, 100, 0.65**13),  # FINETUNE.md
    "finetune_mae_vit_large": Published(1024, 4e-3, 0.0, 1e-6, 50, 0.75**25),
    "finetune_mae_vit_huge": Published(1024, 4e-3, 0.0, 1e-6, 50, 0.75**33),
}

# Of the released models, with 1000 classes.
PARAMETERS = {
    "deit_tiny": 5_717_416,
    "deit_small": 22_050_664,
    "deit_base": 86_567_656,
    "deit_base_hard": 87_338_192,
    "swin_tiny": 28_288_354,
    "swin_small": 49_606_258,
    "swin_base": 87_768_224,
    "swinv2_tiny_window8": 28_347_154,
    "swinv2_base_window8": 87_918_816,
    "finetune_swin_base_22k": 87_768_224,
    "dino_vits16": 21_665_664,  # without a classifier
    "dino_vits16_100ep": 21_665_664,
}


def assemble(path: Path, folder: Path, more: Sequence[str] = ()) -> Experiment:
    """Return what the command line builds for a file; nothing is downloaded."""
    for name in ("train/a/0.jpg", "train/b/0.jpg", "val/a/0.jpg", "val/b/0.jpg"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    offline = (
        ["--model.teacher.model.pretrained", "false"] if "teacher" in load_yaml(path)["model"]["init_args"] else []
    )
    arguments = ["--config", str(path), "--data.root", str(folder), "--trainer.accelerator", "cpu", *offline, *more]
    return Experiment.from_arguments(arguments)


@pytest.mark.parametrize(
    "path",
    [pytest.param(path, marks=[] if path.stem in QUICK else pytest.mark.slow(edge=True)) for path in FILES],
    ids=lambda path: path.stem,
)
def test_every_recipe_has_the_size_groups_schedule_augmentation_and_drop_path_of_the_official_one(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the meta device, where a ViT-H takes no memory; with a thousand classes in name."""
    monkeypatch.setattr(ImageFolder, "class_names", property(lambda self: [str(k) for k in range(1000)]))
    with torch.device("meta"):
        experiment = assemble(path, tmp_path)
        model = experiment.objective
    published = PUBLISHED[path.stem]
    size = sum(parameter.numel() for parameter in model.backbone.parameters())
    assert size == PARAMETERS.get(path.stem, size)
    assert experiment.trainer.max_epochs == published.epochs

    devices = int(re.search(r"--trainer\.devices (\d+)", path.read_text())[1])  # type: ignore[index]
    batch = experiment.data.batch_size * devices * experiment.trainer.accumulate_grad_batches
    assert batch == published.batch
    groups = parameter_groups(model.named_parameters(), model.optimizer, batch, model.backbone.parameters_by_depth())
    rates = sorted(group["lr"] for group in groups)
    assert rates[-1] == pytest.approx(published.peak)
    assert rates[0] == pytest.approx(published.peak * published.bottom)

    schedule = model.schedule.at(model.optimizer.scale(batch))
    steps = 10 * published.epochs
    ends = [schedule.lr(published.peak, step, steps, published.epochs) for step in (0, steps)]
    assert ends == pytest.approx([published.first, published.last])
    warm = round(10 * schedule.warmup_epochs)  # where a cosine over the whole run has come down by now: DeiT, Swin
    assert schedule.lr(published.peak, warm, steps, published.epochs) == pytest.approx(published.peak, rel=0.1)
    official_values.compare(experiment, path.stem, published.batch, published.epochs)


@FILE
def test_every_recipe_says_its_result_and_its_departures(path: Path) -> None:
    text = path.read_text()
    assert "Departure" in text or "where the departures stand" in " ".join(text.replace("#", "").split())
    assert max(map(len, text.splitlines())) <= 120
    assert re.search(r"^# Expected: [^\n]* %", text, re.M)


def test_no_recipe_shares_its_run_directory_with_another_experiment() -> None:
    others = {path.stem for path in EXPERIMENTS.glob("*.yaml")}
    assert not others & {path.stem for path in FILES}


@FILE
def test_a_recipe_starts_from_another_recipe_or_from_nothing(path: Path) -> None:
    origin = load_yaml(path)["model"]["init_args"].get("init_from")
    if origin is not None and origin.startswith("timm/"):  # a name of timm's: an architecture and its weights
        architecture, tag = origin.removeprefix("timm/").split(".")
        assert tag in {name.partition(".")[2] for name in timm.list_pretrained(f"{architecture}.*")}
        return
    assert origin is None or origin in {f"runs/{other.stem}/seed-0" for other in FILES}


ROW = re.compile(r"^\| (`\w+`(?:, `\w+`)?) \| ([^|]+) \| ([^|]+) \| `(python -m vitlab (test|probe) [^`]+)` \|$", re.M)
ROWS = ROW.findall((EXPERIMENTS.parent / "docs/recipes.md").read_text())


@FILE
def test_every_recipe_has_a_row_with_its_published_figure_and_the_command_that_measures_it(path: Path) -> None:
    rows = [row for row in ROWS if f"`{path.stem}`" in row[0].split(", ")]
    head = path.read_text().partition("seed_everything")[0]
    assert rows
    for _, _, figures, command, _ in rows:
        assert f"#   {command}\n" in head
        assert all(figure in head for figure in re.findall(r"[\d.]+", figures))
    commands = re.findall(r"^#   (python -m vitlab (?:test|probe) .*)$", head, re.M)
    assert commands == [row[3] for row in rows]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[3].partition("runs/")[2])
def test_the_command_of_every_row_parses_for_its_recipe(row: Sequence[str], tmp_path: Path) -> None:
    names, protocol, _, command, kind = row
    words = shlex.split(command)[4:]
    if kind == "probe":
        at = words.index("--protocol")
        name, *epochs = [word for word in words[at + 1 :] if word != "--epochs"]
        Protocol.read(name, int(epochs[0]) if epochs else None)
        assert f"{name.upper()}'s" in protocol
        words = words[:at]
    assert words[0] == "--config"
    run_directory, *rest = words[1:]
    name = Path(run_directory).parent.name
    assert f"`{name}`" in names.split(", ")
    file = EXPERIMENTS / "imagenet" / f"{name}.yaml"
    class_name = load_yaml(file)["model"]["class_path"].rpartition(".")[2]
    assert (class_name in {"Supervised", "Distillation"}) == (kind == "test")
    assert (kind == "probe") or not rest
    if kind == "probe" or name == "deit_tiny":  # the others are assembled above, without more arguments
        assert str(assemble(file, tmp_path, rest).directory) == run_directory


VIT = {"embed_dim": 24, "depth": 1, "num_heads": 2}
SWIN_SIZE = {"embed_dim": 8, "depths": [2, 1, 1, 1], "num_heads": [1, 1, 2, 2]}
SHORT = {
    "--trainer.max_epochs": "1",
    "--trainer.limit_train_batches": "2",
    "--trainer.limit_val_batches": "1",
    "--trainer.accelerator": "cpu",
    "--trainer.accumulate_grad_batches": "1",
    "--data.batch_size": "2",
    "--data.num_workers": "0",
    "--run.test": "false",
}


def shrunk(path: Path) -> list[str]:
    """Return the arguments that train a file for two steps at its resolution, with its windows, but narrow."""
    arguments = load_yaml(path)["model"]["init_args"]
    changes = dict(SHORT)
    for key, value in (SWIN_SIZE if "swin" in path.stem else VIT).items():
        changes[f"--model.backbone.{key}"] = str(value)
    if "decoder_depth" in arguments:
        changes |= {"--model.decoder_embed_dim": "16", "--model.decoder_depth": "1", "--model.decoder_num_heads": "2"}
    if "out_dim" in arguments:
        changes["--model.out_dim"] = "32"
    if "head_rows" in arguments:
        changes |= {"--model.init_from": "null", "--model.head_rows": "null"}  # a download
    if "teacher" in arguments:
        changes |= {"--model.teacher.model.name": "test_convnext", "--model.teacher.model.pretrained": "false"}
    return ["--config", str(path), *(word for pair in changes.items() for word in pair)]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with photographs under `imagenet`, where runs of this module find those before them."""
    folder = tmp_path_factory.mktemp("imagenet")
    make_noise(folder / "imagenet", {"train": 6, "val": 2}, ("cat", "dog"), (60, 80), "jpg")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", TRAINED)
def test_every_kind_of_recipe_trains_two_steps(name: str, runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(runs)
    monkeypatch.setattr(Teacher, "examine", lambda *args: None)  # two steps make no teacher
    path = EXPERIMENTS / "imagenet" / f"{name}.yaml"
    origin = load_yaml(path)["model"]["init_args"].get("init_from")
    if origin is not None and not origin.startswith("timm/") and not (runs / origin).is_dir():
        first = EXPERIMENTS / "imagenet" / f"{Path(origin).parent.name}.yaml"
        assert run("fit", shrunk(first)) == 0
    assert run("fit", shrunk(path)) == 0
    assert (runs / "runs" / name / "seed-0" / "summary.json").is_file()


def test_make_runs_a_recipe() -> None:
    command = ["make", "--dry-run", "imagenet/deit_tiny"]
    told = subprocess.run(command, cwd=EXPERIMENTS.parent, capture_output=True, check=True)
    assert told.stdout.decode().endswith("-m vitlab fit --config experiments/imagenet/deit_tiny.yaml \n")


@FILE
def test_every_recipe_has_the_keys_of_one_that_is_trained(path: Path) -> None:
    def keys(path: Path) -> set[str]:
        return flatten(load_yaml(path)).keys() - {"trainer.accumulate_grad_batches"}

    assert any(keys(path) == keys(path.with_stem(name)) for name in TRAINED)
