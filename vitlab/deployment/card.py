"""The model card of exported files: how to use them, how good they are, how they were made.

Its head is what the Hugging Face Hub reads: https://huggingface.co/docs/hub/model-cards#model-card-metadata
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from vitlab.atomic_files import read_json
from vitlab.config import Config, dump_yaml, named
from vitlab.data import ImageDataModule
from vitlab.data.photos import height_and_width
from vitlab.evaluation.probe import Accuracy
from vitlab.experiment.chain import BEFORE
from vitlab.experiment.same_images import judged_by_features
from vitlab.models import ImageModel
from vitlab.runs.directory import PREDICTIONS, RunDirectory

VERDICT = "verdict.json"
RECIPE = ("seed_everything", "init_seed", "model", "data", "trainer")  # what decides the weights


@dataclass(frozen=True)
class Exported:
    """An encoder and where it comes from."""

    encoder: ImageModel
    data: ImageDataModule
    run: Path
    config: Config
    checkpoint: Path | None  # None: weights as they are built
    averaged: bool  # over the run
    calibration: str = ""  # what `calibrate` did

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
            "averaged": self.averaged,
            **({"calibration": self.calibration} if self.calibration else {}),
            "objective": model["class_path"],
            "backbone": model["init_args"]["backbone"],
            **self.data.preprocessing.metadata(),
        }
        return {name: json.dumps(value, ensure_ascii=False) for name, value in facts.items()}

    @property
    def study(self) -> Config | None:
        """The verdict.json of the study that the run is of; None of a run by itself, or that others start from."""
        above = self.run.resolve().parents[:3]  # the variant's folder, or that of a fold, lies between
        verdicts = [folder / VERDICT for folder in above[1:] if (folder / VERDICT).is_file()]
        return read_json(verdicts[0]) if verdicts and BEFORE not in (folder.name for folder in above) else None

    def accuracy(self) -> Accuracy | None:
        """Return the accuracy of these weights on the run's test images; None where it is not known."""
        run = RunDirectory(self.run)
        known = self.checkpoint is not None and self.checkpoint.resolve() == run.last_checkpoint.resolve()
        known = known and not run.shortfalls and not judged_by_features(self.config) and self.classifies
        if not known or not (run.path / PREDICTIONS).is_file():  # the run's result is that of its last state
            return None
        tested = run.predictions
        logits = tested.logits_ema if self.averaged else tested.logits
        stated = run.metrics.get("test_ema/top1" if self.averaged else "test/top1")
        if logits is None or stated is None:
            return None
        counted = Accuracy.of(torch.from_numpy(logits.argmax(axis=1)), torch.tensor(tested.labels))
        return counted if math.isclose(counted.value, stated, abs_tol=1e-6) else None  # else of another test


USES = {
    "model.safetensors": (
        "the weights, for vitlab.",
        'import vitlab\nmodel = vitlab.load(".").model.cpu()\nlogits = model(images)',
    ),
    "config.json": (
        "timm opens this folder by it.",
        """import timm
model = timm.create_model("local-dir:.", pretrained=True).eval()
logits = model(images)
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))  # from a picture to an image""",
    ),
    "model.onnx": (
        "for onnxruntime and other runtimes of ONNX, without vitlab. Pillow's resize differs from evaluation's by one "
        "level of 255 in about one value of 50.",
        """import json, numpy as np, onnxruntime
from PIL import Image, ImageOps
session = onnxruntime.InferenceSession("model.onnx")
facts = {name: json.loads(text) for name, text in session.get_modelmeta().custom_metadata_map.items()}
picture = ImageOps.exif_transpose(Image.open("picture.jpg")).convert(facts["picture_mode"])
size, crop_pct = facts["crop_size"], facts["crop_pct"]  # without crop_pct the picture is squashed
sides = [int(int(size / crop_pct) * side / min(picture.size)) if crop_pct else size for side in picture.size]
left, top = (round((side - size) / 2) for side in sides)
picture = picture.resize(sides, Image.Resampling[facts["interpolation"].upper()])
pixels = np.array(picture.crop((left, top, left + size, top + size))).reshape(size, size, -1)
images = ((pixels / 255 - facts["mean"]) / facts["std"]).astype(np.float32).transpose(2, 0, 1)[None]
(logits,) = session.run(["logits"], {"images": images})""",
    ),
}
"""What each file is for, and the lines of Python that use it."""

AFTER_TRANSFORM = """import onnxruntime
session = onnxruntime.InferenceSession("model.onnx")
(logits,) = session.run(["logits"], {"images": images.numpy()})"""


def write_card(exported: Exported, files: Sequence[Path], folder: Path) -> Path:
    """Write `README.md` about the files that lie in `folder`.

    Its head has what the Hub reads: task, tags, base model and, where it is known, the accuracy with its interval.
    """
    data, accuracy, results = exported.data, exported.accuracy(), None
    made = exported.config["model"]["init_args"]
    described = made["backbone"], exported.config["data"]
    architecture, data_set = (each["class_path"].rpartition(".")[2] for each in described)
    start = made.get("init_from")
    if accuracy is not None:
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
                metric_args={"interval": interval, "over": f"{split} images"},
            )
        ]
    front = ModelCardData(
        library_name="vitlab",
        pipeline_tag="image-classification" if exported.classifies else "image-feature-extraction",
        tags=["vitlab", architecture, exported.objective.__name__, data_set],
        base_model=start if str(start).startswith("timm/") else None,
        model_name=f"{architecture} on {data_set}",
        eval_results=results,
    )
    size, _, interpolation = data.preprocessing.framing
    by_pillow = size == data.image_size == height_and_width(size)[0] and interpolation != "area"
    by_pillow &= data.window is None and data.preprocessing.picture_mode != "array"  # which Pillow has no name for
    uses = dict(USES)
    if not by_pillow:
        uses["model.onnx"] = "for onnxruntime and other runtimes of ONNX.", AFTER_TRANSFORM
    card = ModelCard.from_template(
        front,
        template_path=str(Path(__file__).with_name("card.md.jinja")),
        title=front.model_name,  # the template's `card_data` is text
        exported=exported,
        data=data,
        classes=data.class_names if exported.encoder.num_classes else [],
        sides=height_and_width(data.image_size),
        accuracy=accuracy,
        parameters=sum(parameter.numel() for parameter in exported.encoder.parameters()),
        study=exported.study,
        uses={file.name: uses[file.name] for file in files},
        recipe=dump_yaml(recipe(exported.config)).strip(),
    )
    card.save(folder / "README.md")
    return folder / "README.md"


def recipe(config: Config) -> Config:
    """Return what of a configuration decides the weights; `fit` with it is the same run. Nulls are not all defaults."""
    probe = config["run"].get("probe")  # which is the classifier of a frozen network
    return {key: config[key] for key in RECIPE if key in config} | ({"run": {"probe": probe}} if probe else {})
