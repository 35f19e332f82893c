"""Experiments as dictionaries: expectations follow from the docstrings of `vitlab.config`."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonargparse import get_loader

from vitlab.config import ABSENT, changes, conflicts, dump_yaml, flatten, gather, load_yaml, merge, split
from vitlab.data.tables import groups_by_name
from vitlab.optim import AdamW

ADAMW = {"class_path": "vitlab.optim.AdamW", "init_args": {"lr": 0.1, "weight_decay": 0.3}}


def test_merge_lets_mappings_merge_and_lists_replace() -> None:
    assert merge({"a": {"x": 1, "y": [1, 2]}}, {"a": {"y": [3]}}) == {"a": {"x": 1, "y": [3]}}


def test_merge_keeps_the_arguments_of_the_same_class_by_its_short_name() -> None:
    merged = merge({"optimizer": ADAMW}, {"optimizer": {"class_path": "AdamW", "init_args": {"lr": 0.5}}})
    assert merged["optimizer"]["init_args"] == {"lr": 0.5, "weight_decay": 0.3}


def test_merge_changes_neither_of_its_arguments() -> None:
    base, override = {"a": {"x": 1}}, {"a": {"y": 2}}
    merge(base, override)
    assert (base, override) == ({"a": {"x": 1}}, {"a": {"y": 2}})


OBJECTIVE = {
    "class_path": "vitlab.objectives.Supervised",
    "init_args": {"backbone": {"class_path": "B"}, "optimizer": ADAMW, "label_smoothing": 0.1},
}


def test_another_objective_keeps_what_it_takes_and_tells_of_the_rest() -> None:
    """The arguments of `MAE` and `Supervised` are their signatures."""
    told: list[str] = []
    mae = {"class_path": "MAE", "init_args": {"mask_ratio": 0.5}}
    merged = merge({"model": OBJECTIVE}, {"model": mae}, told.append)
    kept = {"backbone": {"class_path": "B"}, "optimizer": ADAMW, "mask_ratio": 0.5}
    assert merged == {"model": {"class_path": "MAE", "init_args": kept}}
    assert told == ["model: MAE replaces Supervised; kept backbone, optimizer; dropped label_smoothing=0.1."]


def test_settings_of_a_data_set_are_kept_field_by_field() -> None:
    """`ImageFolder` has an `augment` of another class, without `shift`."""
    cifar = {"class_path": "CIFAR10", "init_args": {"batch_size": 8, "augment": {"shift": 4, "erase_prob": 0.5}}}
    told: list[str] = []
    merged = merge({"data": cifar}, {"data": {"class_path": "ImageFolder"}}, told.append)
    assert merged["data"]["init_args"] == {"batch_size": 8, "augment": {"erase_prob": 0.5}}
    assert told == ["data: ImageFolder replaces CIFAR10; kept batch_size, augment; dropped augment.shift=4."]


def test_another_optimizer_drops_and_tells() -> None:
    told: list[str] = []
    sgd = {"model": {"optimizer": {"class_path": "SGD"}}}
    assert merge({"model": {"optimizer": ADAMW}}, sgd, told.append) == sgd
    assert told == ["model.optimizer: SGD replaces AdamW; dropped lr=0.1, weight_decay=0.3."]


def test_what_is_left_empty_changes_nothing() -> None:
    empty = {"data": {"class_path": "Digits", "init_args": None}, "run": None, "init_seed": None}
    sources = [{"trainer": {"max_epochs": 3}}, empty, {"trainer": None}]
    expected = {"trainer": {"max_epochs": 3}, "init_seed": None, "data": {"class_path": "Digits"}}
    assert gather(sources, ["--data.batch_size", "32"]) == expected
    other = {"class_path": "PlacedDigits", "init_args": {}}
    for argument in ("PlacedDigits", "{class_path: PlacedDigits, init_args: }"):
        assert gather(sources, ["--data", argument]) == {**expected, "data": other}


def test_a_data_set_that_a_file_names_alone_keeps_the_arguments() -> None:
    digits = {"data": {"class_path": "Digits", "init_args": {"batch_size": 99}}}
    placed = {"class_path": "PlacedDigits", "init_args": {"batch_size": 99}}
    assert merge(digits, {"data": "PlacedDigits"})["data"] == placed
    assert gather([{"data": "Digits"}], ["--data", "CIFAR10"])["data"]["class_path"] == "CIFAR10"


def test_changes_name_every_key_that_differs_and_no_other() -> None:
    a = {"same": 1, "changed": {"x": 1}, "gone": 2, "empty": {}}
    b = {"same": 1, "changed": {"x": 2}, "new": 3, "empty": {}}
    assert changes(a, b) == [("changed.x", 1, 2), ("gone", 2, "(absent)"), ("new", "(absent)", 3)]


def test_flatten_keeps_empty_mappings() -> None:
    assert flatten({"a": {"b": {}, "c": 1}}) == {"a.b": {}, "a.c": 1}


@pytest.mark.parametrize(
    ("arguments", "files"),
    [
        (["my.yaml"], ["my.yaml"]),
        (["--x=1", "my.yaml", "-c", "other.yaml"], ["my.yaml", "other.yaml"]),
        (["--x", "my.yaml"], []),  # the value of an option
        (["--print_config", "vit_cifar10"], ["vit_cifar10"]),  # an option without one
        (["--images", "one.jpg", "."], []),  # so is a folder that does not come first
        (["."], ["."]),
    ],
)
def test_a_file_alone_is_a_configuration(arguments: list[str], files: list[str]) -> None:
    assert split(arguments)[0] == files


def test_a_missing_file_is_answered_with_those_that_are_there(tmp_path: Path) -> None:
    (tmp_path / "vit.yaml").touch()
    with pytest.raises(FileNotFoundError, match=r"vti\.yaml.*vit\.yaml"):
        load_yaml(tmp_path / "vti.yaml")


BOMB = "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}' if i else 'x'] * 9)}]\n" for i in range(9))  # 9⁹ values


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1\nb: 2", ", line 2, column 2: not valid YAML, "),
        ("- 1\n- 2", " contains a list; expected a mapping"),
        ("a:\n\tb: 2", ", line 2, column 1: not valid YAML, found character"),
        ("a: @b", ", line 1, column 4: not valid YAML, found character"),
        ("a: \x07", " is not valid YAML: unacceptable character #x0007"),
        ("trainer: {max_epochs: 9}\nb: 1\ntrainer: {}", ", line 1, column 1: not valid YAML, `trainer` is given twice"),
        ("b:\n- {b: {c: 1}, c: 2, b: 3}", ", line 2, column 3: not valid YAML, `b` is given twice."),
        ("a: \xe9t\xe9".encode("latin1"), " is not a text in UTF-8"),
        (b"PK\x03\x04\0\0\xff", " is not a text in UTF-8; --ckpt_path takes a checkpoint"),
        (BOMB, ", line 6: more than 100 levels, or 100,000 values with aliases"),
        ("a: &a [*a]", ", line 1: more than 100 levels"),
        ("a: " + "[" * 200_000, ", line 1: more than 100 levels"),  # libyaml crashes
    ],
)
def test_what_is_no_configuration_is_refused_in_one_line(text: str | bytes, message: str, tmp_path: Path) -> None:
    """YAML 1.2, section 3.2.1.3: the keys of a mapping are unique; PyYAML takes the last one."""
    bad = tmp_path / "bad.yaml"
    bad.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=message) as raised:
        load_yaml(bad)
    assert str(raised.value).startswith(str(bad))
    assert "\n" not in str(raised.value)


def test_anchors_and_merge_keys_are_no_duplicates(tmp_path: Path) -> None:
    """YAML's merge key: a mapping's keys take precedence over those that it merges."""
    text = "a: &a {x: 1, y: 1}\nb: &b {z: 2}\nc: {<<: *a, <<: *b, y: 3}\nd: [{x: 1}, {x: 1}]"
    (tmp_path / "good.yaml").write_text(text)
    assert load_yaml(tmp_path / "good.yaml")["c"] == {"x": 1, "y": 3, "z": 2}


@pytest.mark.parametrize("key", ["off", "y", "null", "~", "001", "1_000", "12:30", "1e-4", ".5", "2026-01-02", "0x1f"])
def test_keys_and_names_are_texts_as_the_file_has_them(key: str, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(f"{key}: {{{key}: 1}}\nrun: {{name: {key}, root: {key}}}")
    config = load_yaml(tmp_path / "a.yaml")
    none = key in ("null", "~")
    assert config == {key: {key: 1}, "run": dict.fromkeys(("name", "root"), None if none else key)}
    (tmp_path / "b.yaml").write_text(dump_yaml({**config, "other": [key]}))
    assert load_yaml(tmp_path / "b.yaml") == {**config, "other": [key]}
    assert get_loader("yaml")(dump_yaml({**config, "other": [key]})) == {**config, "other": [key]}


@pytest.mark.parametrize("written", ["1e-3", "1.0e5", "1e5", "-1_0.5e+2", "7"])
def test_a_number_is_one_with_and_without_a_point(written: str, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(f"a: {written}")
    number = load_yaml(tmp_path / "a.yaml")["a"]
    assert number == float(written)
    assert (type(number) is int) == ("." not in written and number % 1 == 0)  # 1e5 images are a whole number


def test_a_mapping_in_an_argument_is_read_as_one_in_a_file() -> None:
    optimizer = {"optimizer": {"class_path": "AdamW", "init_args": {}}}
    with pytest.raises(ValueError, match=r"--optimizer, line 1, column 1: not valid YAML, `class_path` is"):
        gather([optimizer], ["--optimizer", "{class_path: SGD, class_path: Muon}"])


def test_what_cannot_change_a_result_is_no_conflict() -> None:
    stored = {"trainer": {"max_epochs": 3, "profiler": None}, "data": {"init_args": {"num_workers": 0}}}
    wanted = {"trainer": {"max_epochs": 4, "profiler": "simple"}, "data": {"init_args": {"num_workers": 8}}}
    assert conflicts(stored, wanted) == [("trainer.max_epochs", 3, 4)]


def test_an_argument_newer_than_a_run_is_a_conflict_only_off_its_default() -> None:
    def run(**arguments: object) -> dict[str, Any]:
        return {"optimizer": {"class_path": "vitlab.optim.AdamW", "init_args": {"lr": 1e-3, **arguments}}}

    assert AdamW(1e-3).betas == (0.9, 0.999)
    assert conflicts(run(), run(betas=[0.9, 0.999], reference_batch=None)) == []
    key = "optimizer.init_args.betas"
    assert conflicts(run(), run(betas=[0.9, 0.95])) == [(key, ABSENT, [0.9, 0.95])]
    assert conflicts(run(betas=[0.9, 0.999]), run()) == [(key, [0.9, 0.999], ABSENT)]


def test_a_setting_newer_than_a_run_may_be_of_the_run_the_trainer_or_a_dataclass() -> None:
    """`Digits` shifts one image in four, `BatchAugment` alone every one; `Mixup` may be null."""

    def run(augment: object, mixup: object, more: Any, **trainer: object) -> dict[str, Any]:
        data = {"class_path": "vitlab.data.Digits", "init_args": {"augment": augment, "mixup": mixup}}
        return {"run": {"test": True, **more}, "trainer": {"max_epochs": 3, **trainer}, "data": data}

    mixed = {"mixup_alpha": 0.5, "prob": 1.0}
    stored = run({"shift": 1}, {"mixup_alpha": 0.5}, {})
    assert conflicts(stored, run({"shift": 1, "shift_prob": 0.25}, mixed, {"probe": None}, barebones=False)) == []
    changed = run({"shift": 1, "shift_prob": 1.0}, mixed, {"probe": "knn"}, barebones=True)
    keys = {"run.probe", "trainer.barebones", "data.init_args.augment.shift_prob"}
    assert {key for key, *_ in conflicts(stored, changed)} == keys
    assert len(conflicts(run({"shift": 1}, None, {}), run({"shift": 1}, mixed, {}))) == 3


def test_an_argument_that_names_another_class_drops_the_files_arguments(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(yaml.safe_dump({"model": {"class_path": "M", "init_args": {"optimizer": ADAMW}}}))
    files, rest = split(["--config", str(tmp_path / "a.yaml"), "--model.optimizer=SGD", "--x", "1"])
    assert rest == ["--model.optimizer=SGD", "--x", "1"]
    optimizer = {"class_path": "SGD"}
    assert gather(files, rest) == {"model": {"class_path": "M", "init_args": {"optimizer": optimizer}}}
    same = gather(files, ["--model.optimizer", "AdamW"])
    assert same["model"]["init_args"]["optimizer"] == ADAMW


@pytest.mark.parametrize(
    ("stored", "today"),
    [
        ({"split_seed": 0, "sampling": None, "mask_folder": None, "bits": 8}, {"split_seed": 0}),
        ({"split_seed": 0, "bits": 16}, {"split_seed": 0, "bits": 16}),  # in use: the parser refuses it
        ({"table": "a.csv", "labels": None}, {"table": "a.csv", "columns": None}),  # a LabelTable before 0.3.0
        ({"table": "a.csv", "labels": ["b", "c"]}, {"table": "a.csv", "columns": {"label": ["b", "c"]}}),
    ],
)
def test_the_configuration_of_an_older_run_is_read_as_one_of_today(stored: Any, today: Any, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump({"data": {"class_path": "mine.Flowers", "init_args": stored}}))
    assert load_yaml(path)["data"]["init_args"] == today


def test_an_image_without_a_group_is_named(tmp_path: Path) -> None:
    names = ["patient1/a.jpg", "patient2/b.jpg", "c.jpg"]
    table = tmp_path / "photos.csv"
    table.write_text("image,patient\npatient1/a.jpg,1\npatient2/b.jpg,\nc.jpg,3\n")
    with pytest.raises(ValueError, match=r"no row for the image patient2/b\.jpg, or no patient there"):
        groups_by_name(f"{table}:patient", names)


@pytest.mark.parametrize("turned", [False, True])
def test_an_objective_and_a_backbone_given_together_are_both_new(turned: bool) -> None:
    """MAE takes no Swin: the reader must not meet the new objective with the old backbone, nor the other way round."""
    given = ["--model.backbone=VisionTransformer", "--model=MAE"]
    swin = {"class_path": "vitlab.models.SwinTransformerV2", "init_args": {"window_size": 4}}
    old = {"model": {"class_path": "vitlab.objectives.SimMIM", "init_args": {"backbone": swin}}}
    model = gather([old], given[::-1] if turned else given)["model"]
    assert model["class_path"] == "MAE"
    assert model["init_args"]["backbone"] == {"class_path": "VisionTransformer"}
