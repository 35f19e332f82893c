"""The model card of exported files: how to use them, how good they are, how they were made."""

import html
import inspect
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import torch
import yaml
from lightning.pytorch import Trainer

from vitlab.config import Config, weights_of
from vitlab.data import ImageDataModule
from vitlab.data.photos import height_and_width
from vitlab.deployment.front_matter import front_matter
from vitlab.evaluation.probe import Accuracy
from vitlab.experiment.class_names import named
from vitlab.models import ImageModel
from vitlab.models.intermediates import FeatureInfo
from vitlab.runs.directory import PREDICTIONS, SUMMARY, RunDirectory

UNKNOWN_TO_TIMM = {"block", "attention", "position_bias", "shift", "norm", "small_stem"}
"""Arguments that make a model that timm does not have."""


@dataclass(frozen=True)
class Exported:
    """An encoder and where it comes from.

    Args:
        run: the run directory.
        config: the run's complete configuration.
        checkpoint: the file of the weights; None for weights as they are built.
        averaged: the weights are the average over the run.
    """

    encoder: ImageModel
    data: ImageDataModule
    run: Path
    config: Config
    checkpoint: Path | None
    averaged: bool

    @property
    def objective(self) -> Any:
        """The class that trained the encoder."""
        return named(self.config["model"]["class_path"])

    @property
    def classifies(self) -> bool:
        """Whether a softmax over the encoder's outputs gives the probabilities of classes."""
        task = self.objective.task
        return bool(self.encoder.num_classes) and task is not None and task.one_class

    @property
    def has_timms_names(self) -> bool:
        """Whether timm has this model, with the same names of its weights."""
        known = type(self.encoder).__module__.startswith("vitlab.models.")
        arguments = self.config["model"]["init_args"]["backbone"].get("init_args", {})
        ours = {name: value for name, value in arguments.items() if name in UNKNOWN_TO_TIMM}
        return known and not beyond_defaults(type(self.encoder), ours)

    @property
    def test_is_validation(self) -> bool:
        """Whether the run was tested on the images that it was validated on, for want of others."""
        return bool(RunDirectory(self.run).data.get("test_is_validation"))

    def metadata(self) -> dict[str, str]:
        """Return what a user of the files, and `vitlab.load`, must know, each value as JSON."""
        model = self.config["model"]
        facts = {
            "class_names": self.data.class_names if self.encoder.num_classes else [],
            "one_class": self.classifies,
            "objective": model["class_path"],
            "backbone": model["init_args"]["backbone"],
            **self.data.preprocessing.metadata(),
        }
        return {name: json.dumps(value, ensure_ascii=False) for name, value in facts.items()}

    def accuracy(self) -> Accuracy | str:
        """Return the accuracy of these weights on the run's test images, or why it is not known."""
        run = RunDirectory(self.run)
        last = run.last_checkpoint
        if not self.encoder.num_classes:
            return "The encoder has no classifier."
        if not self.classifies:
            return (
                f"No accuracy: {self.objective.__name__} learns no classes by softmax. metrics.csv has what it logged."
            )
        if self.checkpoint is None or self.checkpoint.resolve() != last.resolve():
            return f"Not known: the run's result is that of {last.name}, whose weights these are not."
        if not (run.is_finished and (run.path / PREDICTIONS).is_file()):
            return "Not known: the run has not been tested."
        if partial := run.shortfalls:
            return f"Not known, of a trial: {'; '.join(partial)}."
        told = run.predictions
        logits = told.logits_ema if self.averaged else told.logits
        stated = self.metrics().get("top1")
        if logits is not None and stated is not None:
            counted = Accuracy.of(torch.from_numpy(logits.argmax(axis=1)), torch.tensor(told.labels))
            if math.isclose(counted.value, stated, abs_tol=1e-6):
                return counted
        return f"Not known: {PREDICTIONS} was written with other weights than {SUMMARY}. Test the run again."

    def metrics(self) -> dict[str, float]:
        """Return the test metrics in summary.json of the kind of weights exported, without their prefix.

        With five classes or fewer, top-5 is always 1, and left out.
        """
        run = RunDirectory(self.run)
        if not run.is_finished:
            return {}
        prefix = "test_ema/" if self.averaged else "test/"
        found = {name.removeprefix(prefix): value for name, value in run.metrics.items() if name.startswith(prefix)}
        return {name: value for name, value in found.items() if name != "top5" or self.encoder.num_classes > 5}


def write_card(
    exported: Exported,
    files: Sequence[Path],
    folder: Path,
    stages: Sequence[FeatureInfo] = (),
    study: Mapping[str, Any] | None = None,
) -> Path:
    """Write `README.md` about the files that lie in `folder`; those called `features` hold the maps of `stages`.

    Args:
        study: the standing of the run's variant in its study.
    """
    templates = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters |= {"text": _as_text, "code": _as_code, "literal": _as_literal}
    backbone = exported.config["model"]["init_args"]["backbone"]
    accuracy = exported.accuracy()
    architecture, data_set = _name(backbone), _name(exported.config["data"])
    study = study if isinstance(accuracy, Accuracy) else None  # it is about the weights that were tested
    recipe_text = yaml.safe_dump(recipe(exported.config), sort_keys=False, allow_unicode=True).strip()
    text = templates.get_template("card.md.jinja").render(
        exported=exported,
        data=exported.data,
        encoder=exported.encoder,
        framing=exported.data.framing,
        sides=height_and_width(exported.data.image_size),
        resize=resize_of(exported.data),
        front_matter=front_matter(exported, architecture, data_set, accuracy, study),
        study=study,
        architecture=architecture,
        data_set=data_set,
        root=exported.config["data"]["init_args"].get("root"),
        parameters=sum(parameter.numel() for parameter in exported.encoder.parameters()),
        accuracy=accuracy,
        metrics=exported.metrics() if isinstance(accuracy, Accuracy) else {},
        files={file.suffix: file for file in files if file.stem != "features"},
        maps={file.suffix: file for file in files if file.stem == "features"},
        stages=stages,
        construction=construction(backbone, exported.encoder.num_classes),
        recipe=recipe_text,
        fence="`" * max(3, 1 + max(map(len, re.findall("`+", recipe_text)), default=0)),
        starts=starts(exported.config),
        environment=RunDirectory(exported.run).environment,
    )
    path = folder / "README.md"
    path.write_text(text, encoding="utf-8")
    return path


def starts(config: Config) -> list[str]:
    """Return where the weights come from that training started with, as the configuration says; not a teacher's."""
    return [source for key, source in weights_of(config).items() if ".teacher." not in key]


def _as_text(value: Any) -> str:
    """Return a value as Markdown shows it, whatever HTML, table or code it would begin."""
    escaped = html.escape(str(value), quote=False).replace("|", "&#124;").replace("`", "&#96;")
    return re.sub(r"[\r\n]+", " ", escaped)


def _as_code(value: Any) -> str:
    """Return a value as Markdown's code, whatever is in it."""
    text = str(value)
    return f"<code>{_as_text(text)}</code>" if re.search(r"[`<\r\n]", text) else f"`{text}`"


def _as_literal(value: Any) -> str:
    """Return Python's literal of a value, without what begins HTML or ends code."""
    return repr(value).replace("<", r"\x3c").replace("`", r"\x60")


def resize_of(data: ImageDataModule) -> int | tuple[int, int] | None:
    """Return what torchvision's `Resize` is given before the center is cut out; None: it covers a rectangle."""
    size, crop_pct, _ = data.framing
    rows, columns = height_and_width(size)
    if crop_pct is None:
        return rows, columns
    return math.floor(rows / crop_pct) if rows == columns else None


def construction(backbone: Config, num_classes: int) -> str:
    """Return the lines of Python that build `model` as a configuration does."""
    module, _, name = backbone["class_path"].rpartition(".")
    build = named(backbone["class_path"])
    arguments = beyond_defaults(build, backbone.get("init_args", {}) | {"num_classes": num_classes})
    imports, values = [f"from {module} import {name}"], []
    for key, value in arguments.items():
        if isinstance(value, str) and "Callable" in str(inspect.signature(build).parameters[key].annotation):
            place, _, function = value.rpartition(".")
            imports.append(f"from {place} import {function}")
            values.append(f"{key}={function}")
        else:
            values.append(f"{key}={tuple(value) if isinstance(value, list) else value!r}")
    return "\n".join([*imports, f"model = {name}({', '.join(values)}).eval()"])


def recipe(config: Config) -> Config:
    """Return what of a configuration decides the weights; `fit` with it is the same run.

    Nulls stay: many defaults are not null, like RandAugment's. Only what is at the Trainer's own defaults is dropped.
    """
    parts = {key: config[key] for key in ("seed_everything", "init_seed", "model", "data") if key in config}
    return parts | {"trainer": beyond_defaults(Trainer, config["trainer"])}


def beyond_defaults(build: Callable[..., Any], arguments: Config) -> Config:
    """Return those arguments, as a YAML file has them, that are not the defaults of what they are given to."""
    parameters = inspect.signature(build).parameters
    return {key: value for key, value in arguments.items() if value != _plain(parameters[key].default)}


def _plain(default: Any) -> Any:
    if _is_function(default):
        return f"{default.__module__}.{default.__qualname__}"
    return list(default) if isinstance(default, tuple) else default


def _is_function(default: Any) -> bool:
    return callable(default) and default is not inspect.Parameter.empty


def _name(config: Config) -> str:
    name: str = config["class_path"].rpartition(".")[2]
    return name
