"""JSON Schemas: what vitlab ships is valid, mistakes are found at their place, and the shipped schemas are these."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from referencing import Registry, Resource

from tests.conftest import EXPERIMENTS
from vitlab.__main__ import main
from vitlab.commands.schema import experiment_schema, study_schema
from vitlab.config import load_yaml

SHIPPED = [file for file in sorted(EXPERIMENTS.rglob("*.yaml")) if file.parent.name != "probes"]


@cache
def validators() -> tuple[Any, ...]:
    """Return those of experiments and of studies."""
    schemas = experiment_schema(), study_schema()
    named = [("experiment.schema.json", Resource.from_contents(schemas[0]))]
    return tuple(jsonschema.Draft7Validator(each, registry=Registry().with_resources(named)) for each in schemas)


def errors(content: Any) -> list[tuple[str, str]]:
    """Return the place and the message of the gravest mistake, if any."""
    is_study = not {"variants", "factors", "like", "seeds"}.isdisjoint(content)
    best = jsonschema.exceptions.best_match(validators()[is_study].iter_errors(content))
    return [] if best is None else [(".".join(map(str, best.absolute_path)), best.message)]


def test_all_that_is_shipped_is_valid() -> None:
    assert {str(file): found for file in SHIPPED if (found := errors(load_yaml(file)))} == {}
    assert len(SHIPPED) > 200


def test_the_shipped_schemas_are_those_that_the_command_writes(tmp_path: Path) -> None:
    assert main(["schema", str(tmp_path)]) == 0
    for file in tmp_path.iterdir():
        jsonschema.Draft7Validator.check_schema(json.loads(file.read_text()))
        assert file.read_text() == (EXPERIMENTS / file.name).read_text(), "python -m vitlab schema experiments"
    assert len(list(tmp_path.iterdir())) == 2


def test_an_editor_is_told_which_schema_is_whose() -> None:
    told = json.loads((EXPERIMENTS.parent / ".vscode/settings.json").read_text())["yaml.schemas"]
    root = EXPERIMENTS.parent
    found = {name: {file for glob in globs for file in root.glob(glob)} for name, globs in told.items()}
    studies = {file for file in SHIPPED if not {"variants", "factors", "like"}.isdisjoint(load_yaml(file))}
    assert found["experiments/study.schema.json"] == studies
    assert found["experiments/experiment.schema.json"] == {*SHIPPED} - studies


@pytest.mark.parametrize(
    ("text", "place", "message"),
    [
        ("trainer: {max_epoch: 3}", "trainer", "'max_epoch' was unexpected"),
        ("model: {class_path: Supervisd}", "model.class_path", "Supervisd"),
        ("model: {class_path: vitlab.objectives.Supervisd}", "model.class_path", "Supervisd"),
        ("data: {class_path: CIFAR10, init_args: {batch_size: many}}", "data.init_args.batch_size", "'many'"),
        (
            "model: {class_path: MAE, init_args: {backbone: {class_path: vit_tiny_patch4_32, init_args: {depht: 2}}}}",
            "model.init_args.backbone.init_args",
            "'depht' was unexpected",
        ),
        ("seed_everything: -1", "seed_everything", "-1"),
        ("modle: {class_path: MAE}", "", "'modle' was unexpected"),
        ("{base: b.yaml, variants: {a: , b: }, seeds: {from: 2, to: 8}}", "seeds", ""),
        ("{base: b.yaml, variants: {a: , b: }, seeds: [1, 2, 3], budgt: {epochs: 3}}", "", "'budgt' was unexpected"),
        ("{base: b.yaml, variants: {a: {trainer: {devics: 1}}}, seeds: [1, 2, 3]}", "variants.a", ""),
        ("{variants: {a: , b: }, seeds: [1, 2, 3]}", "", "not valid under any"),
    ],
)
def test_a_mistake_is_found_where_it_is(text: str, place: str, message: str) -> None:
    ((found, said),) = errors(yaml.safe_load(text))
    assert found.startswith(place)
    assert message in said
