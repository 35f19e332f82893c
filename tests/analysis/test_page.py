"""`visualize`: every picture of several runs in one page that stands alone, and what it refuses."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from vitlab.analysis.measures import amplitude, block_outputs
from vitlab.commands.dispatch import run
from vitlab.commands.pictures import unique_names
from vitlab.models import Backbone
from vitlab.models.backbone import Features
from vitlab.models.layers import PatchEmbed

Write = Callable[..., Path]
SWIN = {
    "class_path": "vitlab.models.SwinTransformerV2",
    "init_args": {"patch_size": 1, "embed_dim": 8, "depths": [2, 1], "num_heads": [1, 2], "window_size": 4},
}


def train(tiny: Write, name: str, *changes: str, backbone: object = None) -> str:
    """Train for two steps and return the run's configuration."""
    path = tiny({"model": {"init_args": {"backbone": backbone}}} if backbone else {}, name)
    short = ["--trainer.limit_train_batches", "2", "--run.test", "false"]
    assert run("fit", ["--config", str(path), *short, *changes]) == 0
    return f"runs/{name}/seed-0/config.yaml"


def test_a_vit_without_a_class_token_is_drawn_without_its_attention(tiny: Write) -> None:
    arguments = ["class_token", "false"], ["global_pool", "avg"], ["reg_tokens", "2"]
    changes = [word for name, value in arguments for word in (f"--model.backbone.{name}", value)]
    assert run("visualize", [str(Path(train(tiny, "plain", *changes)).parent), "--out", "out"]) == 0
    files = {path.stem for path in Path("out").glob("*.png")}
    assert {"heads-plain-seed-0", "attention-distance", "positions-plain-seed-0"} <= files
    assert "class-token-plain-seed-0" not in files


def test_runs_of_one_name_are_unique_names() -> None:
    runs = [Path(name) for name in ("runs/first/vit/seed-0", "runs/last/vit/seed-0", "runs/last/swin/seed-0")]
    assert unique_names(runs) == ["first-vit-seed-0", "last-vit-seed-0", "last-swin-seed-0"]
    assert unique_names(runs[1:]) == ["vit-seed-0", "swin-seed-0"]


@pytest.mark.slow
def test_runs_are_drawn_side_by_side(tiny: Write) -> None:
    configs = [train(tiny, "vit"), train(tiny, "swin", backbone=SWIN)]
    assert run("visualize", ["--config", *configs, "--out", "out"]) == 0
    shared = {"heat", "attention-distance", "amplitude"}
    own = {f"{kind}-{name}-seed-0" for kind in ("heads", "filters") for name in ("vit", "swin")}
    files = {path.stem for path in Path("out").glob("*.png")}
    assert files == shared | own | {"positions-vit-seed-0", "class-token-vit-seed-0"}
    page = Path("out/index.html").read_text()
    assert len(re.findall(r'<img src="data:image/png;base64,[^"]+"', page)) == len(files)
    assert not re.findall(r'(?:src|href)="(?!data:|#)', page)  # nothing is loaded from elsewhere

    assert "Measured on 64 images" in page


class Convolutions(Backbone):
    """An architecture of a user's own: two convolutions between patches and mean, and no attention."""

    def __init__(self, img_size: int = 8, in_chans: int = 1, num_classes: int = 10) -> None:
        super().__init__()
        self.patch_embed = PatchEmbed(img_size, 2, in_chans, 6)
        self.img_size, self.in_chans, self.num_classes, self.num_features = (img_size,) * 2, in_chans, num_classes, 6
        self.blocks = nn.ModuleList(nn.Conv2d(6, 6, 3, padding=1) for _ in range(2))
        self.head = nn.Linear(6, num_classes)

    def encode(self, tokens: Tensor) -> Features:
        tokens = tokens.movedim(-1, 1)
        for block in self.blocks:
            tokens = tokens + block(tokens)
        patches = tokens.flatten(2).mT
        return Features(patches[:, :0], patches)


@pytest.mark.slow
def test_an_own_architecture_gets_the_pictures_that_it_can_have(tiny: Write) -> None:
    configs = [train(tiny, "convolutions", backbone={"class_path": f"{__name__}.Convolutions"}), train(tiny, "vit")]
    assert run("visualize", ["--config", configs[0], "--out", "alone"]) == 0
    assert {path.stem for path in Path("alone").glob("*.png")} == {"heat", "amplitude", "filters-convolutions-seed-0"}
    assert "convolutions-seed-0 has no attention maps; the page" in Path("alone/index.html").read_text()
    assert run("visualize", ["--config", *configs, "--out", "both"]) == 0
    assert {path.stem for path in Path("both").glob("*.png")} >= {"heat", "heads-vit-seed-0"}


def test_a_block_of_convolutions_passes_on_channels() -> None:
    """The variance of its channels, wherever they lie; by hand, of the second convolution."""
    torch.manual_seed(0)
    model, images = Convolutions(), torch.randn(5, 1, 8, 8)
    _, second = block_outputs(model, images)
    tokens = model.patch_embed(images).movedim(-1, 1)
    first = tokens + model.blocks[0](tokens)
    expected = model.blocks[1](first).detach()  # (B, C, H, W)
    assert second.shape == (5, 16, 6)
    assert amplitude(second) == pytest.approx(expected.var(dim=(0, 2, 3)).mean().item(), rel=1e-5)


def test_runs_that_validate_on_other_images_are_not_compared(tiny: Write, capsys: pytest.CaptureFixture[str]) -> None:
    configs = [train(tiny, "one"), train(tiny, "other", "--data.split_seed", "1")]
    assert run("visualize", ["--config", *configs, "--out", "out"]) == 2
    assert "draw it alone" in capsys.readouterr().err


@pytest.mark.slow  # timm
def test_a_model_of_timms_shows_its_filters(tiny: Write) -> None:
    resnet = {"class_path": "vitlab.models.TimmModel", "init_args": {"name": "test_resnet"}}
    config = train(tiny, "resnet", backbone=resnet)
    assert run("visualize", ["--config", config, "--out", "out"]) == 0
    assert {path.stem for path in Path("out").glob("*.png")} == {"heat", "filters-resnet-seed-0"}
    assert "has no attention maps and no blocks with maps of tokens" in Path("out/index.html").read_text()
