"""The model card of exported files: how to use them, how good they are, how they were made.

Its head is what the Hugging Face Hub reads: https://huggingface.co/docs/hub/model-cards#model-card-metadata
"""

import html
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from vitlab.config import Config, weights_of
from vitlab.data import ImageDataModule
from vitlab.data.photos import height_and_width
from vitlab.evaluation.probe import Accuracy
from vitlab.experiment.class_names import named
from vitlab.models import ImageModel
from vitlab.runs.directory import PREDICTIONS, SUMMARY, RunDirectory

RECIPE = ("seed_everything", "init_seed", "model", "data", "trainer")  # what of a configuration decides the weights


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
        stated = run.metrics.get("test_ema/top1" if self.averaged else "test/top1")
        if logits is not None and stated is not None:
            counted = Accuracy.of(torch.from_numpy(logits.argmax(axis=1)), torch.tensor(told.labels))
            if math.isclose(counted.value, stated, abs_tol=1e-6):
                return counted
        return f"Not known: {PREDICTIONS} was written with other weights than {SUMMARY}. Test the run again."


USES = {
    "model.safetensors": (
        "the weights, for vitlab.",
        'import vitlab\nmodel = vitlab.load(".").model.cpu()\nlogits = model(images)',
    ),
    "config.json": (
        "timm opens this folder by it, and transformers' TimmWrapper reads the same keys.",
        """import timm
model = timm.create_model("local-dir:.", pretrained=True).eval()
logits = model(images)
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))  # from a picture to an image""",
    ),
    "model.onnx": (
        "for onnxruntime and other runtimes of ONNX.",
        """import onnxruntime
session = onnxruntime.InferenceSession("model.onnx")
(logits,) = session.run(["logits"], {"images": images.numpy()})""",
    ),
    "model.pt2": (
        "a program for PyTorch, without vitlab.",
        'import torch\nlogits = torch.export.load("model.pt2").module()(images)',
    ),
}
"""What each file is for, and the lines of Python that use it."""


def write_card(exported: Exported, files: Sequence[Path], folder: Path, study: Mapping[str, Any] | None = None) -> Path:
    """Write `README.md` about the files that lie in `folder`.

    Args:
        study: the standing of the run's variant in its study, see `vitlab.studies.report.verdict_file.standing`.
    """
    config, data, encoder = exported.config, exported.data, exported.encoder
    accuracy = exported.accuracy()
    study = study if isinstance(accuracy, Accuracy) else None  # it is about the weights that were tested
    recipe_text = yaml.safe_dump(recipe(config), sort_keys=False, allow_unicode=True).strip()
    card = ModelCard.from_template(
        _front_matter(exported, accuracy, study),
        template_path=str(Path(__file__).with_name("card.md.jinja")),
        exported=exported,
        data=data,
        encoder=encoder,
        classes=data.class_names if encoder.num_classes else [],
        framing=data.framing,
        sides=height_and_width(data.image_size),
        resize=resize_of(data),
        study=study,
        mean=_mean_of(study) if study else "",
        accuracy=accuracy,
        root=config["data"]["init_args"].get("root"),
        parameters=sum(parameter.numel() for parameter in encoder.parameters()),
        uses={file.name: USES[file.name] for file in files},
        starts=starts(config),
        recipe=recipe_text,
        fence="`" * max(3, 1 + max(map(len, re.findall("`+", recipe_text)), default=0)),
        environment=RunDirectory(exported.run).environment,
        text=_as_text,
        literal=_as_literal,
    )
    path = folder / "README.md"
    card.save(path)
    return path


def _front_matter(exported: Exported, accuracy: Accuracy | str, study: Mapping[str, Any] | None) -> ModelCardData:
    """Return what the Hub reads: task, tags, base model and, where it is known, the accuracy, a fraction.

    What the Hub has no field for is in `metric_args`: the 95 % interval, and the standing in the study.
    """
    model, data = exported.config["model"], exported.config["data"]
    architecture, data_set = (each["class_path"].rpartition(".")[2] for each in (model["init_args"]["backbone"], data))
    start, results = model["init_args"].get("init_from"), None
    if isinstance(accuracy, Accuracy):
        split = "validation" if exported.test_is_validation else "test"
        value, *interval = (round(each, 6) for each in (accuracy.value, accuracy.low, accuracy.high))
        results = [
            EvalResult(
                task_type="image-classification",
                dataset_type=data_set.lower(),
                dataset_name=data_set,
                dataset_split=split,
                metric_type="accuracy",
                metric_value=value,
                metric_name=f"Accuracy of seed {exported.config['seed_everything']}",
                metric_args={"interval": interval, "over": f"{split} images"}
                | ({"study": dict(study)} if study else {}),
            )
        ]
    return ModelCardData(
        library_name="vitlab",
        pipeline_tag="image-classification" if exported.classifies else "image-feature-extraction",
        tags=["vitlab", architecture, exported.objective.__name__, data_set],
        base_model=start if str(start).startswith("timm/") else None,
        model_name=f"{architecture} on {data_set}",
        eval_results=results,
    )


def _mean_of(study: Mapping[str, Any]) -> str:
    """Return the mean over seeds with its interval, where two or more seeds give one."""
    form = ".1f" if study["metric"] == "top1" else ".4g"
    mean, low, high = (None if study[key] is None else format(study[key], form) for key in ("mean", "low", "high"))
    return f"{mean} [{low}, {high}]" if low is not None else f"{mean}"


def starts(config: Config) -> list[str]:
    """Return where the weights come from that training started with, as the configuration says; not a teacher's."""
    return [source for key, source in weights_of(config).items() if ".teacher." not in key]


def _as_text(value: Any) -> str:
    """Return a value as Markdown shows it, whatever HTML, table or code it would begin."""
    escaped = html.escape(str(value), quote=False).replace("|", "&#124;").replace("`", "&#96;")
    return re.sub(r"[\r\n]+", " ", escaped)


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


def recipe(config: Config) -> Config:
    """Return what of a configuration decides the weights; `fit` with it is the same run. Nulls are not all defaults."""
    return {key: config[key] for key in RECIPE if key in config}
