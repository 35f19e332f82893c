"""Files of weights: whose names are understood, what is resized, what is refused."""

import argparse
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.layers import resample_abs_pos_embed
from torch import Tensor, nn

from tests.models.small_models import SMALL, TIMM, VIT, images, relative_error, shake
from vitlab.models import Backbone, SwinTransformer, TimmModel, VisionTransformer
from vitlab.models.weights import load_weights, read_weights, save_weights

State = dict[str, Tensor]


def fresh(family: str, **changes: Any) -> Backbone:
    return shake(SMALL[family](**changes)).eval()  # type: ignore[return-value]


def official_swin(state: State, swin: Backbone) -> State:
    """Return weights as Microsoft's code names them: merging at the end of a stage, `head.weight`, buffers beside."""
    out: State = {}
    for name, tensor in state.items():
        for stage in (1, 2):
            name = name.replace(f"layers.{stage}.downsample", f"layers.{stage - 1}.downsample")
        out[name.replace("head.fc.", "head.")] = tensor
    for name, module in swin.named_modules():
        if name.endswith(".attn"):
            out[f"{name}.relative_position_index"] = torch.zeros(3, 3)  # of any size: never read
            out[f"{name}.relative_coords_table"] = torch.zeros(1, 7, 7, 2)
            out[f"{name.removesuffix('.attn')}.attn_mask"] = torch.zeros(3)
        assert isinstance(module, nn.Module)
    return out


def test_our_weights_are_timms_and_back(family: str, tmp_path: Path) -> None:
    ours, theirs = fresh(family), shake(TIMM[family]()).eval()
    x = images(ours)
    save_weights(theirs, tmp_path / "theirs.safetensors")
    report = load_weights(ours, tmp_path / "theirs.safetensors")
    assert sorted(report.matched) == sorted(theirs.state_dict())
    assert [*report.resized, *report.missing, *report.unexpected] == []
    assert relative_error(ours(x), theirs(x)) < 1e-5

    shake(ours)
    save_weights(ours, tmp_path / "ours.safetensors")
    timm.models.load_checkpoint(theirs, str(tmp_path / "ours.safetensors"), strict=True)
    assert relative_error(theirs(x), ours(x)) < 1e-5


@pytest.mark.parametrize("family", ["swin", "swinv2"])
def test_microsofts_names_are_understood(family: str, tmp_path: Path) -> None:
    source, model = fresh(family), fresh(family)
    torch.save({"model": official_swin(source.state_dict(), source)}, tmp_path / "swin.pth")
    report = load_weights(model, tmp_path / "swin.pth")
    assert len(report.matched) == len(model.state_dict())
    x = images(model)
    assert torch.equal(model(x), source(x))


@pytest.mark.slow
def test_simmims_swin_v2_is_understood(tmp_path: Path) -> None:
    # Prefix `encoder.`, `rpe_mlp` for `cpb_mlp`, a mask token, a decoder and no head (official utils_simmim.py:199).
    source, model = fresh("swinv2"), fresh("swinv2")
    official = official_swin(source.state_dict(), source)
    state = {f"encoder.{n.replace('cpb_mlp', 'rpe_mlp')}": t for n, t in official.items() if not n.startswith("head")}
    state |= {"encoder.mask_token": torch.zeros(1, 1, 8), "decoder.0.weight": torch.zeros(3, 3, 1, 1)}
    torch.save({"model": state, "epoch": 799}, tmp_path / "simmim.pth")
    report = load_weights(model, tmp_path / "simmim.pth")
    assert report.prefix == "encoder."
    assert report.missing == ["head.fc.weight", "head.fc.bias"]
    assert report.unexpected == ["mask_token"]
    x = images(model)
    assert torch.equal(model.embed(x), source.embed(x))


def test_mae_s_encoder_is_understood_and_its_norm_is_not_taken_for_another(tmp_path: Path) -> None:
    # Fine-tuning with average pooling starts `fc_norm` afresh (official main_finetune.py:251).
    source, model = fresh("vit"), SMALL["vit"](global_pool="avg").eval()
    state = {name: tensor for name, tensor in source.state_dict().items() if not name.startswith("head")}
    state |= {
        "mask_token": torch.zeros(1),
        "decoder_embed.weight": torch.zeros(1),
        "decoder_blocks.0.x": torch.zeros(1),
    }
    torch.save({"model": state}, tmp_path / "mae.pth")
    report = load_weights(model, tmp_path / "mae.pth")
    assert {"fc_norm.weight", "fc_norm.bias", "head.weight", "head.bias"} == set(report.missing)
    assert {"norm.weight", "norm.bias"} <= set(report.unexpected)
    assert (model.fc_norm.weight == 1).all()  # type: ignore[union-attr]
    assert torch.equal(model.blocks[2].mlp.fc1.weight, source.blocks[2].mlp.fc1.weight)  # type: ignore[union-attr, index]


def dino(student: State, teacher: State) -> dict[str, Any]:
    head = {"head.last_layer.weight_g": torch.zeros(9, 1)}
    return {
        "student": {f"module.backbone.{name}": tensor for name, tensor in student.items()} | head,
        "teacher": {f"backbone.{name}": tensor for name, tensor in teacher.items()} | head,
        "args": argparse.Namespace(arch="vit_small"),
    }


def msn(student: State, teacher: State) -> dict[str, Any]:
    state = {f"module.{name}": tensor for name, tensor in teacher.items()} | {"module.fc.fc1.weight": torch.zeros(3, 3)}
    return {"target_encoder": state, "prototypes": torch.zeros(3, 3)}


def deit_iii(student: State, teacher: State) -> dict[str, Any]:
    return {"model": {re.sub(r"ls([12])\.gamma", r"gamma_\1", name): tensor for name, tensor in teacher.items()}}


@pytest.mark.parametrize(("stored", "left"), [(dino, "head."), (msn, "fc.fc1.weight"), (deit_iii, None)])
def test_the_encoder_of_a_released_checkpoint_is_loaded(stored: Callable, left: str | None, tmp_path: Path) -> None:
    """Of DINO the teacher and not its student; of MSN the target; layer scales as DeiT III calls them."""
    changes = {"no_embed_class": True, "init_values": 0.1} if stored is deit_iii else {"num_classes": 0}
    student, teacher, model = (fresh("vit", **changes) for _ in range(3))
    torch.save(stored(student.state_dict(), teacher.state_dict()), tmp_path / "a.pth")
    report = load_weights(model, tmp_path / "a.pth")
    assert all(left is not None and name.startswith(left) for name in report.unexpected)
    x = images(model)
    assert torch.equal(model(x), teacher(x))


@pytest.mark.parametrize(
    "changes",
    [
        {"reg_tokens": 3},
        {"reg_tokens": 3, "no_embed_class": True},
        {"class_token": False, "global_pool": "avg"},
        {"class_token": False, "global_pool": "avg", "reg_tokens": 1, "no_embed_class": True},
    ],
    ids=str,
)
def test_timms_registers_and_missing_class_tokens_load_strictly_and_are_resized(
    changes: dict[str, Any], tmp_path: Path
) -> None:
    theirs, larger = shake(TIMM["vit"](**changes)).eval(), fresh("vit", img_size=24, **changes)
    save_weights(theirs, tmp_path / "vit.safetensors")
    report = load_weights(larger, tmp_path / "vit.safetensors")
    assert sorted([*report.matched, *report.resized]) == sorted(theirs.state_dict())
    assert list(report.resized) == ["pos_embed"]
    assert not report.missing
    assert not report.unexpected
    theirs.set_input_size((24, 24))  # type: ignore[operator]
    x = images(larger)
    assert relative_error(larger(x), theirs(x)) < 1e-5

    shake(larger)
    save_weights(larger, tmp_path / "ours.safetensors")
    timm.models.load_checkpoint(theirs, str(tmp_path / "ours.safetensors"), strict=True)
    assert relative_error(theirs(x), larger(x)) < 1e-5
    for other in ({}, {"reg_tokens": 2}, {"class_token": False, "global_pool": "avg", "reg_tokens": 4}):
        with pytest.raises(ValueError, match="does not fit VisionTransformer"):
            load_weights(SMALL["vit"](**other), tmp_path / "vit.safetensors")


def test_meta_s_dinov2_with_registers_is_understood(tmp_path: Path) -> None:
    """Its class token has a position, its registers have none (dinov2/models/vision_transformer.py:209-225)."""
    arguments = {"reg_tokens": 2, "no_embed_class": True, "init_values": 0.1, "num_classes": 0}
    model, theirs = fresh("vit", **arguments), shake(TIMM["vit"](**arguments)).eval()
    state = dict(fresh("vit", **arguments).state_dict())
    state["register_tokens"] = state.pop("reg_token")
    state |= {"pos_embed": torch.randn(1, 17, 24), "mask_token": torch.zeros(1, 24)}
    torch.save(state, tmp_path / "meta.pth")
    assert load_weights(model, tmp_path / "meta.pth").unexpected == ["mask_token"]
    from timm.models.vision_transformer import checkpoint_filter_fn

    filtered: State = checkpoint_filter_fn(state, theirs)  # type: ignore[arg-type, assignment]
    theirs.load_state_dict(filtered)
    x = images(model)
    assert relative_error(model(x), theirs(x)) < 1e-5


def test_the_evaluated_of_two_encoders_in_a_lightning_checkpoint_is_loaded(tmp_path: Path) -> None:
    backbone, encoder, model = (fresh("vit") for _ in range(3))
    state = {f"backbone._orig_mod.{n}": t for n, t in backbone.state_dict().items()}
    state |= {f"encoder.{n}": t for n, t in encoder.state_dict().items()}
    torch.save({"state_dict": state, "epoch": 3, "hyper_parameters": {"lr": 0.1}}, tmp_path / "last.ckpt")
    x = images(model)
    assert load_weights(model, tmp_path / "last.ckpt").prefix == "encoder."
    assert torch.equal(model(x), encoder(x))
    load_weights(model, tmp_path / "last.ckpt", prefix="backbone.")
    assert torch.equal(model(x), backbone(x))


def test_bias_tables_are_resized_and_reported(tmp_path: Path) -> None:
    source, rebuilt = fresh("swin"), fresh("swin", img_size=64, window_size=8)
    save_weights(source, tmp_path / "swin.safetensors")
    report = load_weights(rebuilt, tmp_path / "swin.safetensors")
    assert len(report.resized) == 6
    assert report.resized["layers.0.blocks.0.attn.relative_position_bias_table"] == ((49, 1), (225, 1))
    assert isinstance(source, SwinTransformer)
    source.set_input_size(64)  # the same model, rebuilt in place
    x = images(rebuilt)
    torch.testing.assert_close(rebuilt(x), source(x))


def test_bias_tables_of_simmim_are_resized_geometrically(tmp_path: Path) -> None:
    """The places of a window of 6 in one of 7, by remap_pretrained_keys_swin (utils.py:145-173 of microsoft/SimMIM).

    A cubic function of the offset is what the spline returns at whole offsets; bicubic stretches it.
    """
    places = torch.tensor([1.0, 2.0912813, 3.2821762, 4.5817775, 6.0000081])
    places = torch.cat([-places.flip(0), torch.zeros(1), places]).double()

    def table(rows: Tensor) -> Tensor:
        heads = [0.1 * rows[:, None] ** 3 - rows, rows[:, None] * rows**2]
        return torch.stack(heads, dim=-1).flatten(0, 1).float()

    source = SwinTransformer(img_size=48, patch_size=4, embed_dim=8, depths=(2,), num_heads=(2,), window_size=6)
    name = "layers.0.blocks.0.attn.relative_position_bias_table"
    state = source.state_dict() | {name: table(places)}
    save_file({key: value.contiguous() for key, value in state.items()}, tmp_path / "swin.safetensors")
    sizes: dict[str, Any] = {"img_size": 56, "patch_size": 4, "embed_dim": 8, "depths": (2,), "num_heads": (2,)}
    for resize, equal in (("geometric", True), ("bicubic", False)):
        model = SwinTransformer(**sizes, window_size=7, table_resize=resize)  # type: ignore[arg-type]
        assert name in load_weights(model, tmp_path / "swin.safetensors").resized
        expected = table(torch.arange(-6, 7).double())
        assert torch.allclose(model.get_parameter(name), expected, atol=1e-3) == equal


def test_a_classifier_of_other_classes_is_left_out_and_reported(family: str, tmp_path: Path) -> None:
    source, model = fresh(family), fresh(family, num_classes=9)
    before = [p.clone() for p in model.head_parameters()]
    save_weights(source, tmp_path / "a.safetensors")
    report = load_weights(model, tmp_path / "a.safetensors")
    assert report.missing
    assert set(report.missing) == set(report.unexpected)
    assert all(name.startswith("head") for name in report.missing)
    assert all(torch.equal(a, b) for a, b in zip(before, model.head_parameters(), strict=True))
    x = images(model)
    assert torch.equal(model.embed(x), source.embed(x))
    assert "head" in str(report)


@pytest.mark.parametrize(
    "stranger",
    [
        {"depth": 4},
        {"embed_dim": 32},
        {"in_chans": 1},
        {"reg_tokens": 1},
        {"class_token": False, "global_pool": "avg", "fc_norm": False},
        {"init_values": 0.1},
    ],
    ids=str,
)
def test_weights_of_another_architecture_are_refused_whole(stranger: dict[str, Any], tmp_path: Path) -> None:
    save_weights(VisionTransformer(**VIT | stranger), tmp_path / "vit.safetensors")
    model = VisionTransformer(**VIT)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(ValueError, match="does not fit VisionTransformer") as error:
        load_weights(model, tmp_path / "vit.safetensors")
    assert str(error.value).count("\n") < 5
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_a_prefix_that_fits_nothing_is_refused(tmp_path: Path) -> None:
    save_weights(fresh("vit"), tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match="0 names and shapes match"):
        load_weights(fresh("vit"), tmp_path / "a.safetensors", prefix="teacher.")


class Arbitrary:
    """Something a pickle may hold and unpickling would run."""


def test_a_pickle_with_objects_is_refused_in_words(tmp_path: Path) -> None:
    torch.save({"model": {"x": torch.zeros(1)}, "config": Arbitrary()}, tmp_path / "a.pth")
    with pytest.raises(ValueError, match=r"Arbitrary.*code.*safetensors") as error:
        read_weights(tmp_path / "a.pth")
    assert str(error.value).count("\n") < 5


@pytest.mark.parametrize("name", ["a.pth", "a.ckpt", "a.safetensors"])
@pytest.mark.parametrize("content", [b"", b"\x80\x04garbage"])
def test_a_file_that_holds_no_weights_is_refused(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=name):
        read_weights(tmp_path / name)


@pytest.mark.parametrize("name", ["README.md", "a.pth", "a.safetensors"])
def test_a_text_instead_of_weights_is_recognized_by_its_beginning(name: str, tmp_path: Path) -> None:
    """As a download that failed leaves it; that it might run code would be wrong advice."""
    (tmp_path / name).write_text("<!DOCTYPE html>\n<title>404 Not Found</title>\n" * 20)
    with pytest.raises(ValueError, match=r"is not a file of weights but a text, .* '<!DOCTYPE html>'") as error:
        read_weights(tmp_path / name)
    assert "torch.load" not in str(error.value)


def test_a_checkpoint_without_tensors_says_what_it_holds(tmp_path: Path) -> None:
    torch.save({"epoch": 3, "loss": 0.1}, tmp_path / "a.pth")
    with pytest.raises(ValueError, match=r"contains no weights.*epoch, loss"):
        read_weights(tmp_path / "a.pth")


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_a_folder_is_read_as_the_hub_has_it(name: str, tmp_path: Path) -> None:
    state = {"x": torch.zeros(2)}
    save_file(state, tmp_path / name) if name.endswith("safetensors") else torch.save(state, tmp_path / name)
    assert read_weights(tmp_path)[0].keys() == {"x"}


def test_a_classifier_is_not_loaded_behind_another_norm(tmp_path: Path) -> None:
    """That of averaged patches has learned behind `fc_norm`; the class token's norm would be left as it was built."""
    small = {"img_size": 8, "patch_size": 4, "embed_dim": 16, "depth": 1, "num_heads": 2, "num_classes": 3}
    save_weights(VisionTransformer(**small, global_pool="avg"), tmp_path / "averaged.safetensors")
    with pytest.raises(ValueError, match="missing from the file: norm"):
        load_weights(VisionTransformer(**small), tmp_path / "averaged.safetensors")
    load_weights(VisionTransformer(**small | {"num_classes": 5}), tmp_path / "averaged.safetensors")


KNOWN = ["ant", "bee", "caf\u00e9", "dog", "eel"]


def known_by(model: nn.Module, folder: Path, how: str) -> Path:
    """Write a file that names five classes: an export, a folder of timm's, or a run's checkpoint."""
    facts = {"class_names": KNOWN, "backbone": {"class_path": "vitlab.models.VisionTransformer", "init_args": {}}}
    path = folder / ("last.ckpt" if how == "run" else "model.safetensors")
    if how == "run":
        config = {"model": {"class_path": "vitlab.objectives.Supervised", "init_args": {"backbone": facts["backbone"]}}}
        torch.save({"state_dict": model.state_dict(), "vitlab_config": config, "vitlab_inference": facts}, path)
    else:
        save_weights(model, path, {key: json.dumps(x) for key, x in facts.items()} if how == "export" else None)
    if how == "timm":
        (folder / "config.json").write_text(json.dumps({"label_names": KNOWN, "pretrained_cfg": {}}))
    return path


@pytest.mark.parametrize("how", ["export", "timm", "run"])
@pytest.mark.parametrize(
    ("names", "rows", "said"),
    [
        (KNOWN, [0, 1, 2, 3, 4], ""),
        (["ant", "bee", "cafe\u0301", "dog", "eel"], [0, 1, 2, 3, 4], ""),  # the same in another form of Unicode
        (KNOWN[::-1], [4, 3, 2, 1, 0], "rows of eel, dog, caf\u00e9, bee and 1 more by name"),
        (
            ["bee", "caf\u00e9", "dog", "eel", "zant"],
            [1, 2, 3, 4, None],
            "by name, new for zant; the file knows ant, bee",
        ),
        (["bee", "zant"], [1, None], "rows of bee by name, new for zant"),
        (["v", "w", "x", "y", "z"], [None] * 5, "classifier: new for v, w, x, y and 1 more; the file knows ant"),
    ],
)
def test_rows_of_a_classifier_follow_the_names(
    names: list[str], rows: list[int | None], said: str, how: str, tmp_path: Path
) -> None:
    for family in ("deit", "swin") if how == "export" else ("vit",):
        source, model = fresh(family), fresh(family, num_classes=len(names))
        path, before = known_by(source, tmp_path, how), model.state_dict()
        before = {name: tensor.clone() for name, tensor in before.items() if name.startswith("head")}
        report = load_weights(model, path, class_names=names)
        assert said in report.classes
        assert bool(said) == bool(report.classes)
        assert report.classes in str(report)
        for name, initial in before.items():
            given = source.state_dict()[name]
            expected = torch.stack([initial[i] if row is None else given[row] for i, row in enumerate(rows)])
            assert torch.equal(model.state_dict()[name], expected)


def test_rows_of_a_timm_model_follow_the_names_and_unnamed_ones_are_said(tmp_path: Path) -> None:
    source, model = TimmModel("resnet18", num_classes=5), TimmModel("resnet18", num_classes=5)
    load_weights(model, known_by(source, tmp_path, "export"), class_names=KNOWN[::-1])
    assert torch.equal(model.net.fc.weight, source.net.fc.weight.flip(0))
    save_weights(source, tmp_path / "unnamed.safetensors")
    report = load_weights(model, tmp_path / "unnamed.safetensors", class_names=KNOWN)
    assert "the file does not name its classes, and gives its rows to ant, bee" in str(report)
    assert not load_weights(
        TimmModel("resnet18", num_classes=4), tmp_path / "unnamed.safetensors", None, "abcd"
    ).classes


def plain(prefix: str = "") -> State:
    return {f"{prefix}{name}": torch.full_like(tensor, 0.1) for name, tensor in SMALL["vit"]().state_dict().items()}


def mean(prefix: str = "", leave: int = 0) -> State:
    return {name: 9 * tensor for name, tensor in [*plain(prefix).items()][leave:]}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (
            lambda: {"state_dict": plain(), "state_dict_ema": mean()},
            "state_dict_ema taken, the average; state_dict not",
        ),
        (lambda: {"model": plain(), "model_ema": mean("module."), "optimizer": {"state": {}}}, "model_ema taken, the"),
        (
            lambda: {"ema_state_dict": mean(), "state_dict": plain("module.")},
            "ema_state_dict taken, the average; state",
        ),
        (lambda: {"model": plain(), "ema": {"state_dict": mean(), "decay": 0.99}}, "ema taken, the average; model not"),
        (lambda: {"state_dict": plain(), "model_ema": mean(leave=3)}, "state_dict taken; model_ema not used"),
        (lambda: {"state_dict": plain(), "ema": {"decay": 0.99}}, ""),
        (lambda: {"state_dict": plain("model.") | mean("ema_model.")}, "beside ema_model.*, not used: model"),
        (lambda: {"state_dict": plain("net.") | mean("ema.module.")}, "beside ema.module.*, not used: net"),
    ],
)
def test_the_average_in_a_file_is_taken_and_said(content: Callable[[], dict], said: str, tmp_path: Path) -> None:
    torch.save(content(), tmp_path / "a.pth")
    model = fresh("vit")
    report = str(load_weights(model, tmp_path / "a.pth"))
    expected = 0.9 if "taken, the" in said or "beside" in said else 0.1
    assert float(model.head.bias[0].detach()) == pytest.approx(expected)  # type: ignore[union-attr]
    assert said in report
    assert said or "\n" not in report


@pytest.mark.parametrize("how", ["export", "timm"])
@pytest.mark.parametrize("size", [(24, 32), (32, 24), (32, 32)])
def test_positions_of_a_rectangle_keep_their_places(how: str, size: tuple[int, int], tmp_path: Path) -> None:
    """The oracle is timm's function, which is given the old grid; 24 × 32 and 32 × 24 have equally many patches."""
    source = fresh("vit", img_size=(24, 32))
    facts = {"backbone": {"class_path": "x.y", "init_args": {"img_size": [24, 32]}}, "class_names": []}
    metadata = {key: json.dumps(value) for key, value in facts.items()} if how == "export" else None
    save_weights(source, tmp_path / "model.safetensors", metadata)
    if how == "timm":
        (tmp_path / "config.json").write_text(json.dumps({"pretrained_cfg": {"input_size": [3, 24, 32]}}))
    grid = [side // 4 for side in size]
    expected = resample_abs_pos_embed(source.pos_embed, grid, [6, 8], num_prefix_tokens=1)  # type: ignore[arg-type]
    timms = TimmModel("vit_tiny_patch16_224", 5, img_size=size, model_kwargs=VIT_IN_TIMM)
    for model in (fresh("vit", img_size=size), timms):
        load_weights(model, tmp_path)
        torch.testing.assert_close(model.stored_module.pos_embed, expected)


VIT_IN_TIMM = {"patch_size": 4, "embed_dim": 24, "depth": 3, "num_heads": 2}
