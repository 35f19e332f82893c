"""A trained model without its data set: `vitlab.load("runs/x/seed-0")`.

Lightning is not imported, and timm only for a `TimmModel`.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor

from vitlab.config import named
from vitlab.data.photos import Preprocessing
from vitlab.models.backbone import ImageModel
from vitlab.models.stored import build, stored_facts, stored_settings
from vitlab.models.weights import from_hub, load_weights, not_weights
from vitlab.runs.directory import CONFIG, RunDirectory

if TYPE_CHECKING:
    import pandas as pd

    from vitlab.deployment.predict import Answers, Given
    from vitlab.experiment.experiment import Experiment

WEIGHTS = "model.safetensors"
NEVER = "by 0 epochs, a run.probe other than linear, or trainer.enable_checkpointing: false"  # writes a checkpoint
NO_CHECKPOINT = f"it was removed, or never written: {NEVER}. Train it again with --run.overwrite true."
HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True)
class LoadedModel:
    """A model and what its use takes.

    Its `model` is in evaluation mode: images (B, C, H, W) in, logits (B, K) out, or embeddings without a classifier.
    """

    model: ImageModel
    transform: Preprocessing  # from a Pillow picture to an image (C, H, W)
    class_names: list[str]  # K, in the order of the logits; empty without a classifier
    one_class: bool  # each image has one class, the one with the largest logit
    activate: Callable[[Tensor], Tensor]  # from logits to probabilities, or to quantities in their own unit
    source: str  # where the weights come from

    def predict(self, *images: "Given") -> "pd.DataFrame":
        """Return a row for each picture (`predict.Given`): file, class, its probability, and that of each class."""
        return self.classify(images).table()

    def classify(self, images: Sequence["Given"]) -> "Answers":
        """Classify pictures, each framed and normalized as in evaluation."""
        from vitlab.deployment.predict import SHOWN, Answers, Pictures
        from vitlab.evaluation.predictions import data_uri

        self.activate(torch.zeros(1, len(self.class_names)))  # refuses before anything is decoded
        pictures, logits, thumbnails = Pictures(images), list[Tensor](), list[str]()
        for arrays in pictures.read(self.transform):
            logits.append(self.run(arrays))
            thumbnails += [data_uri(array[..., :3].astype(np.uint8)) for array in arrays[: SHOWN - len(thumbnails)]]
        alone = images[0] if len(images) == 1 else None
        place = Path(alone) if isinstance(alone, str | Path) else pictures.root
        read = pictures.names, self.activate(torch.cat(logits)).numpy(), thumbnails, pictures.broken
        return Answers(place, self.class_names, *read, self.one_class)

    def embed(self, *images: "Given") -> "pd.DataFrame":
        """Return a row for each picture: file, and its embedding, an array (C,); what the command `embed` writes."""
        import pandas as pd

        from vitlab.deployment.predict import Pictures

        pictures = Pictures(images)
        rows = [self.run(arrays, self.model.embed) for arrays in pictures.read(self.transform)]
        return pd.DataFrame({"file": pictures.names, "embedding": list(torch.cat(rows).numpy())})

    @torch.inference_mode()
    def run(self, pictures: list[Any], function: Any = None) -> Tensor:
        """Return the logits of pictures (Pillow's, or arrays), or what another function of the model returns."""
        images = torch.stack([self.transform(picture) for picture in pictures])  # (B, C, H, W)
        return (function or self.model)(images.to(next(self.model.parameters()).device)).float().cpu()


def load(source: str | Path, raw: bool = False, device: str | torch.device | None = None) -> LoadedModel:
    """Load a trained model, its transform and its class names; the training data are not needed.

    Args:
        source: a run directory or one of its checkpoints, an exported folder, or the name of one on the Hub.
        raw: the weights as trained, where a run also keeps their average; an exported folder has one of the two.
        device: None: the GPU if there is one.
    """
    path = Path(source)
    in_folder = path.parent.name == "runs" or path.parent.is_dir()
    if path.suffix == ".ckpt" and path.is_file():
        loaded = _read(path, raw)
    elif (path / CONFIG).is_file():
        run = RunDirectory(path)
        if (newest := run.newest_checkpoint()) is None:
            why = NO_CHECKPOINT if run.is_finished else f"train first: `fit --config {path}`."
            raise FileNotFoundError(f"{path} has no whole checkpoint; {why}")
        loaded = _read(newest, raw)
    elif (path / WEIGHTS).is_file():
        loaded = _read(path / WEIGHTS, raw)
    elif HUB_NAME.fullmatch(str(source)) and not in_folder and not path.exists():  # `user/model`
        try:
            loaded = _read(from_hub(str(source), WEIGHTS), raw)
        except FileNotFoundError as error:
            wrong = f"{source}: no such folder, and could not download {WEIGHTS} from the Hugging Face Hub"
            raise FileNotFoundError(f"{wrong}: {error}") from None
    else:
        known = f"a run directory ({CONFIG}), an exported folder ({WEIGHTS}) nor a name on the Hub (user/model)"
        raise FileNotFoundError(f"{source} is neither {known}.")
    return _ready(loaded, device)


def of_experiment(experiment: "Experiment") -> LoadedModel:
    """Return the model of an experiment, with the weights that its `ckpt_path` names; on the GPU if there is one."""
    path = experiment.restore()
    objective, encoder, data = experiment.objective, experiment.model, experiment.data
    names = data.class_names if encoder.num_classes else []
    source = str(path or experiment.directory)
    activate = partial(activated, type(objective))
    return _ready(LoadedModel(encoder, data.preprocessing, names, objective.one_class, activate, source))


def _ready(model: LoadedModel, device: str | torch.device | None = None) -> LoadedModel:
    model.model.to(device or ("cuda" if torch.cuda.is_available() else "cpu")).eval()
    return model


def activated(objective: type[Any] | str, logits: Tensor) -> Tensor:
    """Return what the task of an objective, a class or its import path, makes of logits."""
    try:
        trained_by = named(objective) if isinstance(objective, str) else objective
    except (ImportError, AttributeError):
        raise ValueError(f"{objective}, which knows what logits mean, is not here; install its package.") from None
    if trained_by.task is None:
        raise ValueError(f"{trained_by.__name__} learns no classes by softmax, so there is nothing to predict.")
    return trained_by.task.activate(logits)


def _read(path: Path, raw: bool) -> LoadedModel:
    """Return the model of a run's checkpoint or of an exported file."""
    try:
        facts = stored_facts(path)
    except SafetensorError as error:
        raise not_weights(path, error) from None
    if "class_names" not in facts or "backbone" not in facts:
        raise ValueError(f"{path} is damaged, or was written neither by `fit` nor by an export: it names no model.")
    if raw and facts.get("averaged"):
        raise ValueError(f"{path} has only the average of the weights. Load the run, or export it with --raw.")
    objective = facts.get("objective") or (stored_settings(path) or {})["class_path"]
    with torch.random.fork_rng([]):
        model: ImageModel = build(ImageModel, facts["backbone"])  # type: ignore[type-abstract]
        if model.num_classes != len(facts["class_names"]):
            model.reset_classifier(len(facts["class_names"]))
    load_weights(model, path, "backbone." if raw and path.suffix == ".ckpt" else None)
    transform = Preprocessing.from_metadata(facts)
    activate = partial(torch.softmax, dim=1) if facts["one_class"] else partial(activated, objective)
    return LoadedModel(model, transform, facts["class_names"], facts["one_class"], activate, str(path))
