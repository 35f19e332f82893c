import re
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import yaml
from fake_study import variant

from tests.conftest import TINY, edges
from tests.experiment.test_seeds import changed
from vitlab.atomic_files import write_text
from vitlab.config import Config, dump_yaml, load_yaml, merge, nest
from vitlab.experiment.experiment import Experiment
from vitlab.studies.compare import begun_study, claim_folder, compare
from vitlab.studies.file.fairness import overruled
from vitlab.studies.file.registration import conflicting
from vitlab.studies.file.runs import Run, differing_keys, plan
from vitlab.studies.file.study import Budget, describe_draws, read_study, slug

Write = Callable[..., Path]
CLAIM = {"order": "FIRST > other", "along": {"rate": {"": {0.5: "FIRST", "1": "other"}}}}
CLAIM |= dict.fromkeys(("sentence", "source", "differs", "doubt"), "A text.")


def test_a_study_is_variants_times_seeds_seed_by_seed(write_study: Write, tmp_path: Path) -> None:
    runs = plan(read_study(write_study(seeds=[5, 7])), tmp_path / "runs")
    assert [(run.variant, run.seed) for run in runs] == [
        ("ViT", 5), ("Swin", 5), ("Swin v2", 5), ("ViT", 7), ("Swin", 7), ("Swin v2", 7),
    ]  # fmt: skip
    run = runs[5]
    assert run.directory == tmp_path / "runs" / "small-study" / "swin-v2" / "seed-7"
    assert run.config["seed_everything"] == 7
    assert run.config["trainer"] == {"max_epochs": 4, "accelerator": "cpu"}  # the budget, and a resolved default
    assert run.config["run"] == {
        "root": str(tmp_path / "runs" / "small-study"),
        "name": "swin-v2",
        "test": True,
        "wandb": {"group": "Small study"},
    }
    assert run.config["model"]["init_args"]["backbone"]["init_args"]["accuracy"] == 0.975
    assert not (tmp_path / "runs").exists()  # planning writes nothing


def test_a_study_may_be_like_another_but_for_what_it_says(write_study: Write, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(variant(0.9)))
    original = write_study(
        variants={"A": "a.yaml", "B": variant(0.8)}, base="base.yaml", budget={"epochs": 2}, seeds={"from": 4, "to": 6}
    )
    path = tmp_path / "longer/study.yaml"
    path.parent.mkdir()
    path.write_text("like: ../study.yaml\nbudget: {epochs: 4}\nseeds: {first: 7}\n")
    study, other = read_study(path), read_study(original)
    assert (study.variants, study.may_differ) == (other.variants, other.may_differ)
    assert (study.base.resolve(), study.files["A"].resolve()) == (other.base.resolve(), tmp_path / "a.yaml")
    assert (study.budget, study.like) == (Budget(epochs=4), path.parent / "../study.yaml")
    assert (study.seeds, study.looks) == ([*range(7, 13)], (4, 5, 6))
    assert len(plan(study, tmp_path)) == 12
    before = study.digest
    original.write_text(original.read_text().replace("from: 4", "from: 5"))
    assert read_study(path).digest != before
    path.write_text("like: ../study.yaml\nvariants: {A: {model: {init_args: {label_smoothing: 0.2}}}}\n")
    assert read_study(path).variants["A"] == merge(variant(0.9), {"model": {"init_args": {"label_smoothing": 0.2}}})
    path.write_text("like: ../none.yaml\n")
    with pytest.raises(FileNotFoundError, match=r"like: there is no study .*none.yaml"):
        read_study(path)
    path.write_text("like: ../again.yaml\n")
    (tmp_path / "again.yaml").write_text("like: study.yaml\n")
    with pytest.raises(ValueError, match=r"again.yaml is no study that says all by itself"):
        read_study(path)


def test_what_a_study_is_like_does_not_depend_on_where_it_lies(tmp_path: Path) -> None:
    """Else its registration would not hold in another clone, or through a link."""
    digests = set()
    for folder in ("x", "x/y"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "study.yaml").write_text("like: claims/muon.yaml\nbudget: {images: 2000}\n")
        digests.add(read_study(tmp_path / folder / "study.yaml").digest)
    (tmp_path / "link").symlink_to(tmp_path / "x/y")
    linked = read_study(tmp_path / "link/study.yaml")
    assert (digests, linked.budget) == ({linked.digest}, Budget(images=2000))  # instead of that one's epochs
    for there in ("[]", "{A: a.yaml}"):
        (tmp_path / "x/other.yaml").write_text(f"variants: {there}\nbase: base.yaml\n")
        (tmp_path / "link/study.yaml").write_text("like: ../other.yaml\n")
        with pytest.raises((ValueError, FileNotFoundError), match=r"says all by itself|does not exist"):
            read_study(tmp_path / "link/study.yaml")


def test_every_difference_is_listed_the_declared_ones_first(write_study: Write, tmp_path: Path) -> None:
    smoother = variant(0.96)
    smoother["model"]["init_args"]["label_smoothing"] = 0.2
    study = read_study(write_study(variants={"ViT": variant(0.9, depth=6), "Swin": smoother}))
    differences = differing_keys(study, plan(study, tmp_path))
    assert [(d.key, d.values, d.declared) for d in differences] == [
        ("model.init_args.backbone.init_args.accuracy", {"ViT": 0.9, "Swin": 0.96}, True),
        ("model.init_args.backbone.init_args.depth", {"ViT": 6, "Swin": "(absent)"}, True),
        ("model.init_args.label_smoothing", {"ViT": 0.1, "Swin": 0.2}, False),
    ]


@pytest.mark.parametrize("name", ["off", "null", "001", "1e-4", '"1e-4"'])
def test_a_variant_has_the_name_that_the_file_has(name: str, write_study: Write, tmp_path: Path) -> None:
    path = write_study(variants={"FIRST": variant(0.9), "other": variant(0.8)}, claim=CLAIM, margin=1)
    text = (
        path.read_text()
        .replace("0.5: FIRST", f"0.5: '{name.strip(chr(34))}'")
        .replace("FIRST:", f"{name}:")
        .replace("FIRST", name.strip('"'))
    )
    path.write_text(re.sub("^name: .*", f"name: {name}", text, flags=re.MULTILINE))
    study, name = read_study(path), name.strip('"')
    runs = plan(study, tmp_path / "runs")
    first = runs[0]
    assert (study.name, next(iter(study.variants)), first.variant) == ("study" if name == "null" else name, name, name)
    assert first.config["run"]["name"] == slug(name)
    write_text(tmp_path / "run.yaml", dump_yaml(first.config))
    assert load_yaml(tmp_path / "run.yaml") == first.config
    assert study.claim is not None
    assert study.claim.curves == {"": {0.5: name, 1.0: "other"}}  # places are numbers where they can be


def test_a_number_without_a_point_is_one_as_in_an_experiment(write_study: Write) -> None:
    """PyYAML reads 5e-1 as a text, as YAML 1.1 says; jsonargparse, which reads experiments, does not."""
    path = write_study(
        margin="MARGIN", budget={"images": "IMAGES"}, tune={"space": {"model.init_args.lr": ["LOW", 1]}}
    )  # fmt: skip
    path.write_text(path.read_text().replace("MARGIN", "5e-1").replace("IMAGES", "1e5").replace("LOW", "1e-3"))
    study = read_study(path)
    assert (study.margin, study.budget) == (0.5, Budget(images=100_000))
    assert study.tuning is not None
    assert study.tuning.space == {"model.init_args.lr": [0.001, 1]}


BAD = {
    "unknown key": ({"seed": [1]}, "unknown key `seed`. Did you mean `seeds`?"),
    "no base": ({"base": "absent"}, "has no `base`"),
    "base names no file": ({"base": "nowhere.yaml"}, "nowhere.yaml does not exist"),
    "seeds twice": ({"seeds": [1, 2, 1]}, "contains 1 twice"),
    "seeds from too few": ({"seeds": {"from": 2, "to": 9}}, "Expected {from: 4, to: 12} with 3 <= from <= to"),
    "seeds that count down": ({"seeds": {"from": 5, "to": 4}}, "seeds: from 5 is above to 4."),
    "a metric that is a list": ({"metric": {"name": [5], "mode": "max"}}, "metric: name: [5]. It should be a"),
    "folders of variants": ({"variants": {"A,B": {}, "AB": {}}}, "'A,B' and 'AB' would share the folder ab/"),
    "no margin": ({"margin": 0}, "margin: 0. It should be greater than 0"),
    "unknown test": ({"test": "sign"}, "test: 'sign'. It should be 'pooled', 'exact' or 'paired'"),
    "an exact test of a growing list": ({"test": "exact", "seeds": {"from": 4, "to": 9}}, "a fixed list of seeds"),
    "an exact test of too few seeds": ({"test": "exact"}, "test: exact needs 5 seeds for 3 variants, not 3"),
    "no seeds": ({"seeds": []}, "has no `seeds`"),
    "a seed is no number": ({"seeds": [1, True]}, "like [1, 2, 3]"),
    "one variant": ({"variants": {"ViT": variant(0.9)}}, "only 'ViT'; a comparison needs two"),
    "same folder": ({"variants": {"ViT": variant(0.9), "vit": variant(0.8)}}, "'ViT' and 'vit' would share"),
    "variant is a number": ({"variants": {"ViT": variant(0.9), "Swin": 3}}, "variants: Swin: 3. Expected a mapping"),
    "variant names no file": ({"variants": {"ViT": variant(0.9), "Swin": "x.yaml"}}, "No configuration"),
    "equal variants": ({"variants": {"A": variant(0.9), "B": variant(0.9)}}, "'A' and 'B'"),
    "refused by the experiment": ({"variants": {"A": variant(0.9), "B": {"x": 1}}}, "Variant 'B' of"),
    "may_differ misspelt": ({"may_differ": ["model.init_args.backbon"]}, "Did you mean `model.init_args.backbone`?"),
    "budget of nothing": ({"budget": {"epochs": 0}}, "budget: epochs: 0. It should be greater than 0"),
    "two budgets": ({"budget": {"epochs": 3, "images": 9}}, "Expected one of epochs, images, flops"),
    "tune misspelt": ({"tune": {"space": {"model.init_args.rl": [1, 2]}}}, "has a key `model.init_args.rl`. Did you"),
    "tune as it was written": ({"tune": {"key": "lr", "values": [1, 2]}}, "tune: unknown key `key`. Known: space"),
    "paired looks at three": ({"seeds": {"from": 4, "to": 8}, "test": "paired"}, "paired compares the same seeds"),
    "no draws": ({"vary": []}, "vary: []. List should have at least 1 item"),
    "an unknown draw": ({"vary": ["weights"]}, "'weights'. It should be 'init', 'order', 'augmentation' or 'images'"),
    "no length": (
        {"variants": {"A": {**variant(0.9), "trainer": {"max_epochs": None}}, "B": variant(0.8)}, "budget": None},
        "'A' has no training length"),
    "a batch is tuned at a budget of images": (
        {"tune": {"space": {"data.init_args.batch_size": [8, 16]}, "within": "study"}, "budget": {"images": 900}},
        "Give a budget in epochs"),
    "seeds are tuned": (
        {"tune": {"space": {"seed_everything": [1, 2]}}}, "seed_everything is what `seeds` and `vary` set"),
    "tuning of seeds that may never be trained": (
        {"tune": {"space": {"model.init_args.lr": [1, 2]}}, "seeds": {"from": 4, "to": 9}},
        "Give `seeds` as a list, or write `within: study`"),
    "branches of tuned runs": (
        {"tune": {"space": {"model.init_args.lr": [0.1, 0.2]}, "within": "study"}, "branch": True, "budget": None,
         "along": {"epochs": [2, 4]}}, "could give them other settings"),
    "a claim along an axis": (
        {"claim": {"sentence": "A"}, "along": {"train_images": [60, 120]}}, "along: such a study is many studies"),
    "an experiment": ({"variants": "absent", "model": {}}, "this is an experiment, not a study: it has no variants."),
}  # fmt: skip


@pytest.mark.parametrize(("changes", "message"), BAD.values(), ids=BAD.keys())
def test_a_mistake_is_one_message_with_place_and_remedy(
    changes: dict[str, object], message: str, write_study: Write, tmp_path: Path
) -> None:
    path = write_study(**changes)
    with pytest.raises((ValueError, FileNotFoundError)) as raised:
        plan(read_study(path), tmp_path / "runs")
    text = str(raised.value)
    assert message in text
    assert len(text.splitlines()) <= 5
    assert str(tmp_path) in text


@pytest.mark.parametrize(
    ("key", "value", "shown"),
    [
        ("limit_test_batches", 3, "3"),
        ("limit_test_batches", 1, "1"),  # one batch; 1.0 is all of them
        ("fast_dev_run", True, "true"),
        ("max_epochs", 0, "0"),
        ("max_time", {"minutes": 5}, "{minutes: 5}"),
    ],
)
def test_a_study_whose_runs_could_give_no_result_is_refused_before_it_starts(
    key: str, value: object, shown: str, write_study: Write, tmp_path: Path
) -> None:
    short = {**variant(0.9), "trainer": {key: value}}
    study = read_study(write_study(variants={"A": short, "B": variant(0.8)}, budget=None))
    with pytest.raises(
        ValueError, match=rf"trainer\.{key} is {shown} for 'A'. Remove it: it cuts runs short"
    ) as raised:
        plan(study, tmp_path)
    assert len(str(raised.value).splitlines()) == 1


def test_a_study_may_train_on_fewer_batches_and_leave_limits_at_all(write_study: Write, tmp_path: Path) -> None:
    # Lightning's: 1.0 is all batches. So many training batches an epoch are the same budget for all.
    limits = {"limit_train_batches": 10, "limit_test_batches": 1.0, "max_time": None, "fast_dev_run": False}
    fair = {name: {**variant(accuracy), "trainer": limits} for name, accuracy in (("A", 0.9), ("B", 0.8))}
    assert len(plan(read_study(write_study(variants=fair)), tmp_path)) == 6


VIT = "model.init_args.backbone.init_args"


@pytest.mark.parametrize(
    ("key", "refused"),
    [
        (f"{VIT}.patch_drop_rate", True),  # half of the patches take half of the time
        ("model.init_args.backbone", True),
        ("data.init_args.grow.start", True),
        ("model.init_args.decoder_depth", True),
        (f"{VIT}.drop_path_rate", False),
        (f"{VIT}.init_values", False),
        ("model.init_args.optimizer.init_args.lr", False),
    ],
)
def test_at_a_budget_of_flops_no_setting_is_tuned_that_changes_them(
    key: str, refused: bool, write_study: Write
) -> None:
    path = write_study(tune={"space": {key: [0.1, 0.2]}, "within": "study"}, budget={"flops": 1e9})
    with (
        pytest.raises(ValueError, match=r"changes what an image costs\. Give a budget in e")
        if refused
        else nullcontext()
    ):
        read_study(path)


OVERRULED = {
    "length": ({"trainer": {"max_epochs": 9}}, "trainer.max_epochs: 9. Remove it: `budget` sets it; without one,"),
    "seed": ({"seed_everything": 4}, "seed_everything: 4. Remove it: `seeds` are"),
    "list": ({"run": {"test": [10]}}, "run.test: [10]. Remove it: every run"),
    "name": ({"run": {"name": "mine"}}, "run.name: mine. Remove it: --root and the study"),
    "root": ({"run": {"root": "here"}}, "run.root: here"),
    "group": ({"run": {"wandb": {"group": "mine"}}}, "run.wandb.group: mine"),
    "no test": ({"run": {"test": False}}, "run.test: false"),
    "overwrite": ({"run": {"overwrite": True}}, "run.overwrite: true"),
}


@pytest.mark.parametrize(("own", "message"), OVERRULED.values(), ids=OVERRULED)
def test_a_setting_of_a_variant_that_the_study_overrides_is_refused(
    own: dict[str, object], message: str, write_study: Write, tmp_path: Path
) -> None:
    path = write_study(variants={"A": variant(0.9), "B": {**variant(0.8), **own}})
    with pytest.raises(ValueError, match="variant 'B' has ") as refused:
        plan(read_study(path), tmp_path / "runs")
    assert message in str(refused.value)


def test_a_setting_that_agrees_with_the_study_or_is_of_an_experiment_of_its_own_is_taken(
    write_study: Write, tmp_path: Path
) -> None:
    alone = {**variant(0.8), "trainer": {"max_epochs": 9}, "seed_everything": 4, "run": {"name": "alone"}}
    (tmp_path / "alone.yaml").write_text(yaml.safe_dump(alone))
    agreeing = {**variant(0.9), "trainer": {"max_epochs": 4}, "run": {"test": True}}
    study = read_study(write_study(variants={"A": agreeing, "B": "alone.yaml"}))
    assert {run.epochs for run in plan(study, tmp_path / "runs")} == {4}
    assert overruled(study) == ["B has trainer.max_epochs: 9, which the study's budget or tuning replaces."]

    longer = {**variant(0.9), "trainer": {"max_epochs": 9}}
    each = read_study(write_study(variants={"A": longer, "B": variant(0.8)}, budget=None))
    assert [run.epochs for run in plan(each, tmp_path / "runs")[:2]] == [9, 3]
    assert overruled(each) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data": {"init_args": {"batch_size": 5000}}}, "batch_size 5000 is larger than the training set: "),
        *edges(({"trainer": {"accumulate_grad_batches": 500}}, ", 500 times a step, is larger than the training set")),
    ],
)
def test_what_fit_refuses_of_the_data_is_refused_before_any_run(
    change: dict, message: str, tiny: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = {"model": {"init_args": {"label_smoothing": 0.2}}}
    content = {"base": str(tiny()), "seeds": [1], "variants": {"A": other, "B": change}, "budget": {"epochs": 1}}
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(content))
    monkeypatch.setattr("vitlab.studies.compare.run_all", lambda *_, **__: pytest.fail("trained"))
    with pytest.raises(ValueError, match=f"Variant 'B' of .*{re.escape(message)}"):
        compare(tmp_path / "own.yaml", tmp_path / "runs")


@pytest.mark.slow
def test_a_run_of_a_study_started_by_its_own_file_is_the_same_run(tiny: Callable[..., Path], tmp_path: Path) -> None:
    """Of every key that the command line fills in: `fit --config <run>/config.yaml` makes of it what it says."""
    tiny(name="base")
    swin = {
        "class_path": "vitlab.models.SwinTransformer",
        "init_args": {"patch_size": 1, "embed_dim": 8, "depths": [2]},
    }
    swin["init_args"] |= {"num_heads": [2], "window_size": 4}
    variants = {
        "ViT": {"data": {"init_args": {"batch_size": 16}}},
        "Swin": {"model": {"init_args": {"backbone": swin}}},
    }
    (tmp_path / "study.yaml").write_text(
        yaml.safe_dump({"name": "S", "base": "base.yaml", "variants": variants, "seeds": [3], "budget": {"epochs": 2}})
    )
    runs = plan(read_study(tmp_path / "study.yaml"), Path("runs"))
    for run in runs:
        write_text(run.config_path, dump_yaml(run.config))
        experiment = Experiment(run.config_path)
        assert experiment.directory == run.directory
        assert experiment.config == run.config
        # As a run writes it into its directory, and as it is read from there.
        (run.directory).mkdir()
        (run.directory / "config.yaml").write_text(yaml.safe_dump(experiment.config, sort_keys=False))
        again = Experiment(run.directory / "config.yaml")
        assert again.config == run.config
        assert again.directory == run.directory
    assert conflicting(runs) == []


@pytest.mark.parametrize(
    ("name", "expected"), [("Swin v2", "swin-v2"), ("DeiT-S/16 (soft)", "deit-s-16-soft"), ("é", "")]
)
def test_slugs_are_folder_names(name: str, expected: str) -> None:
    assert slug(name) == expected


def test_settings_of_the_data_may_come_from_the_command_line(write_study: Write, tmp_path: Path) -> None:
    path = write_study()
    given = {"data": {"init_args": {"batch_size": 16, "harder": 0.1}}}
    for name, data in (("same", "fake.Digits"), ("other", "fake.Others")):
        content = {"data": {"class_path": data, "init_args": {"harder": None, "batch_size": 8}}}
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(content))
    start = [{"model": {"init_args": {"init_from": f"{tmp_path}/{name}.yaml"}}} for name in ("same", "other")]
    path = write_study(variants={"A": merge(variant(0.9), start[0]), "B": merge(variant(0.9), start[1])})
    study = begun_study(path, tmp_path / "runs", given["data"]["init_args"])
    assert study.given == given
    assert study.digest != read_study(path).digest
    a, b = plan(study, tmp_path / "runs")[:2]
    assert a.config["data"]["init_args"]["batch_size"] == 16
    # An experiment on the same images follows, in what it has like the base and in what chooses images.
    assert a.config["model"]["init_args"]["init_from"] == f"{tmp_path}/same.yaml"
    assert b.config["model"]["init_args"]["init_from"] == f"{tmp_path}/other.yaml"
    claim_folder(study, tmp_path / "runs")
    assert begun_study(path, tmp_path / "runs").given == given
    assert begun_study(path, tmp_path / "elsewhere").given == {}


# `vary`: what seeds draw, and what they leave as the first seed drew it


def planned(path: Path, **where: Any) -> dict[int, Config]:
    """Return the configurations of one variant by seed."""
    runs = plan(read_study(path), path.parent)
    return {run.seed: run.config for run in runs if run.variant == runs[0].variant}


def test_seeds_change_everything_but_the_split_unless_the_study_says_otherwise(write_study: Write) -> None:
    configs = planned(write_study())
    assert [config["seed_everything"] for config in configs.values()] == [1, 2, 3]
    strip = [{**config, "seed_everything": 0} for config in configs.values()]
    assert strip[0] == strip[1] == strip[2]
    assert "init_seed" not in configs[2]


def test_what_is_not_named_keeps_the_first_seeds_draw(write_study: Write) -> None:
    config = planned(write_study(vary=["order"], seeds=[4, 5]))[5]
    data = config["data"]["init_args"]
    assert (config["seed_everything"], config["init_seed"], data["augment_seed"]) == (5, 4, 4)
    assert "order_seed" not in data
    assert "split_seed" not in data


@pytest.mark.parametrize("kind", ["init", *edges("order", "augmentation")])
def test_each_kind_varies_alone_in_real_runs(tmp_path: Path, kind: str) -> None:
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(TINY))
    wide = {"model": {"init_args": {"backbone": {"init_args": {"mlp_ratio": 2.0}}}}}
    deep = {"model": {"init_args": {"backbone": {"init_args": {"depth": 3}}}}}
    study = {"base": "base.yaml", "variants": {"Wide": wide, "Deep": deep}, "seeds": [1, 2], "vary": [kind]}
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(study))
    first, second = (Experiment(config) for config in planned(tmp_path / "study.yaml").values())
    assert changed(first, second) == {kind}


def test_a_base_that_fixes_what_seeds_are_to_draw_is_refused(write_study: Write) -> None:
    path = write_study()
    base = yaml.safe_load((path.parent / "base.yaml").read_text())
    base["data"]["init_args"]["order_seed"] = 5
    (path.parent / "base.yaml").write_text(yaml.safe_dump(base))
    with pytest.raises(ValueError, match=r"order_seed is 5, so no seed changes the data order\. Remove"):
        plan(read_study(path), path.parent)
    content = {**yaml.safe_load(path.read_text()), "vary": ["init"]}
    path.write_text(yaml.safe_dump(content))
    assert planned(path)[2]["data"]["init_args"]["order_seed"] == 1


def test_seeds_choose_the_training_images_of_all_variants(write_study: Write) -> None:
    path = write_study(vary=["init", "order", "augmentation", "images"])
    with pytest.raises(ValueError, match=r"study\.yaml: vary: images: every variant trains on all images"):
        plan(read_study(path), path.parent)
    base = yaml.safe_load((path.parent / "base.yaml").read_text())
    base["data"]["init_args"]["train_images"] = 40
    (path.parent / "base.yaml").write_text(yaml.safe_dump(base))
    runs = plan(read_study(path), path.parent)
    assert all(run.config["data"]["init_args"]["train_images_seed"] == run.seed for run in runs)
    fixed = write_study()
    runs = plan(read_study(fixed), fixed.parent)
    assert not any("train_images_seed" in run.config["data"]["init_args"] for run in runs)


def test_a_training_before_draws_what_the_seeds_of_the_study_draw(write_study: Write) -> None:
    """An experiment in `init_from` is trained with each seed, which draws its initialization too, unless it is set."""
    content = yaml.safe_load(write_study().read_text())
    _, second, *_ = content["variants"]

    def planned(vary: list[str] | None, settings: str = "") -> list[Run]:
        start = {"model": {"init_args": {"init_from": f"experiments/mae_vit.yaml{settings}"}}}
        variants = {**content["variants"], second: merge(content["variants"][second], start)}
        path = write_study(vary=vary, variants=variants)
        return plan(read_study(path), path.parent)

    message = r"vary: add the initialization and the augmentation, which experiments/mae_vit\.yaml draws"
    with pytest.raises(ValueError, match=message):
        planned(["order"])
    with pytest.raises(ValueError, match="vary: add the augmentation, which"):
        planned(["order"], " init_seed=1")
    assert planned(["order"], " init_seed=1 data.augment_seed=1")
    assert planned(None)
    with pytest.raises(
        ValueError, match=r"mae_vit\.yaml sets init_seed, so no seed changes the initialization of that"
    ):
        planned(None, " init_seed=1")


def test_the_sentence_names_what_differs_and_what_does_not() -> None:
    told = describe_draws(("init", "order", "augmentation"))
    assert "the data order and the augmentation; training set and split are held fixed." in told
    assert "; the data order, the augmentation, training set and split are held fixed." in describe_draws(("init",))
    told = describe_draws(("init", "order", "augmentation", "images"))
    assert "and the choice of training images; the split is held fixed." in told


# Factors: a grid that is written once is the study whose variants are written out


LR, FROM = "model.init_args.lr", "model.init_args.init_from"
FACTORS: dict[str, Any] = {
    "network": {"ViT": {"let": {"weights": "vit.pth"}, **variant(0.9)}, "Swin v2": "swin.yaml"},
    "trained with": {"labels": nest(LR, 0.1), "SimMIM": merge(nest(LR, 0.2), nest(FROM, "$weights"))},
}
TEXTS = dict.fromkeys(("sentence", "source", "differs", "doubt"), "A text.")


@pytest.fixture
def gridded(write_study: Write, tmp_path: Path) -> Write:
    (tmp_path / "swin.yaml").write_text(yaml.safe_dump({"let": {"weights": "swin.pth"}, **variant(0.8)}))
    return lambda **changes: write_study(**{"variants": "absent", "factors": FACTORS, "margin": 1.0, **changes})


def test_a_grid_is_the_study_that_is_written_out(gridded: Write, write_study: Write) -> None:
    grid = read_study(gridded(claim=TEXTS | {"order": "Swin v2 > ViT"}))
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
    claim = TEXTS | {"order": order, "along": along}
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
