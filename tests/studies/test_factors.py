"""Factors: a grid that is written once is the study whose variants are written out."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from fake_study import variant

from vitlab.config import merge, nest
from vitlab.studies.file.study import read_study

Write = Callable[..., Path]
LR, FROM = "model.init_args.lr", "model.init_args.init_from"
FACTORS: dict[str, Any] = {
    "network": {"ViT": {"let": {"weights": "vit.pth"}, **variant(0.9)}, "Swin v2": "swin.yaml"},
    "trained with": {"labels": nest(LR, 0.1), "SimMIM": merge(nest(LR, 0.2), nest(FROM, "$weights"))},
}
CLAIM = dict.fromkeys(("sentence", "source", "differs", "doubt"), "A text.")


@pytest.fixture
def gridded(write_study: Write, tmp_path: Path) -> Write:
    (tmp_path / "swin.yaml").write_text(yaml.safe_dump({"let": {"weights": "swin.pth"}, **variant(0.8)}))
    return lambda **changes: write_study(**{"variants": "absent", "factors": FACTORS, "margin": 1.0, **changes})


def test_a_grid_is_the_study_that_is_written_out(gridded: Write, write_study: Write) -> None:
    grid = read_study(gridded(claim=CLAIM | {"order": "Swin v2 > ViT"}))
    digest = grid.digest
    written = {
        "ViT with labels": merge(variant(0.9), nest(LR, 0.1)),
        "ViT with SimMIM": merge(merge(variant(0.9), nest(LR, 0.2)), nest(FROM, "vit.pth")),
        "Swin v2 with labels": merge(variant(0.8), nest(LR, 0.1)),
        "Swin v2 with SimMIM": merge(merge(variant(0.8), nest(LR, 0.2)), nest(FROM, "swin.pth")),
    }
    order = [f"Swin v2 with {way} > ViT with {way}" for way in ("labels", "SimMIM")]
    along = {"trained with": {name: {way: f"{name} with {way}" for way in FACTORS["trained with"]} for name in
                              FACTORS["network"]}}  # fmt: skip
    claim = CLAIM | {"order": order, "along": along}
    out = read_study(write_study(variants=written, margin=1.0, claim=claim))
    assert (grid.variants, grid.claim, digest) == (written, out.claim, out.digest)
    assert grid.factors["network"] == {name: name.partition(" with")[0] for name in written}
    assert {*grid.files} == {"network: Swin v2", "Swin v2 with labels", "Swin v2 with SimMIM"}


def test_cells_are_left_out_and_changed_one_by_one(gridded: Write) -> None:
    left_out = [{"network": "Swin v2", "trained with": "labels"}]
    study = read_study(gridded(**{"except": left_out, "variants": {"ViT with labels": nest(LR, 0.3)}}))
    assert list(study.variants) == ["ViT with labels", "ViT with SimMIM", "Swin v2 with SimMIM"]
    assert study.variants["ViT with labels"]["model"]["init_args"]["lr"] == 0.3


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "one key in two factors": (
        {"factors": FACTORS | {"rate": {"high": nest(LR, 0.3), "low": nest(LR, 0.1)}}},
        "factors: trained with: labels has model.init_args.lr: 0.1, and rate: high has model.init_args.lr: 0.3. Give"),
    "a level that is none": ({"except": [{"network": "Swin v3"}]}, "unknown level of network in `except` `Swin v3`"),
    "a factor that is none": ({"except": [{"net": "ViT"}]}, "unknown factor of `except` `net`. Did you mean `network`"),
    "a cell that is none": ({"variants": {"Vit with labels": {}}}, "in `variants` `Vit with labels`. Did you mean"),
    "nothing let": (
        {"factors": FACTORS | {"network": {**FACTORS["network"], "CNN": variant(0.7)}}},
        "network: CNN and trained with: SimMIM: no level has $weights under `let`"),
    "no levels": ({"factors": {"network": ["ViT"]}}, "factors: {'network': ['ViT']}. Expected"),
}  # fmt: skip


@pytest.mark.parametrize(("changes", "message"), WRONG.values(), ids=WRONG)
def test_a_mistake_in_a_grid_is_one_message(gridded: Write, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        read_study(gridded(**changes))
