"""Frozen features measured as a paper measures them, by a protocol in a YAML file: `experiments/probes/`.

Departures from the released code: where validation images are held out of the training set, the linear probe is not
trained on them and chooses its learning rate on them, the papers choose on the test images; a crop of MAE's that does
not fit into the image is drawn again, not clipped.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jsonargparse import ArgumentError, ArgumentParser
from jsonargparse.typing import PositiveInt

from vitlab.config import load_yaml, locate
from vitlab.data import BatchAugment, ImageDataModule, PhotoAugment
from vitlab.data.augment import CROP_SCALE
from vitlab.data.dataset import Split
from vitlab.data.photos import Interpolation
from vitlab.evaluation.classifiers import predict_weighted
from vitlab.evaluation.features import Features, extract
from vitlab.evaluation.probe import Accuracy, FewLabels, measure_few_labels
from vitlab.evaluation.trained_linear import LinearProbe, Tokens, has_class_token, read_tokens, train_linear
from vitlab.models import ImageModel


@dataclass(frozen=True)
class Protocol:
    """What is measured of frozen features; `knn` are numbers of neighbors, whose votes DINO's temperature weighs."""

    name: str
    knn: tuple[PositiveInt, ...] = ()
    linear: LinearProbe | None = None
    few_labels: FewLabels | None = None

    @classmethod
    def read(cls, name: str, epochs: int | None = None) -> "Protocol":
        """Read a file, or one that vitlab ships by its name, dino; `epochs` are those of the linear probe."""
        file = locate(name if Path(name).suffix else f"probes/{name}")
        content, parser = load_yaml(file), ArgumentParser(exit_on_error=False)
        parser.add_argument("--knn", type=tuple[PositiveInt, ...], default=())
        for section, kind in (("linear", LinearProbe), ("few_labels", FewLabels)):
            if section in content:
                parser.add_class_arguments(kind, section)
        if epochs and "linear" not in content:
            raise ValueError(f"--epochs changes `linear`, which {file} does not have; leave it out.")
        if epochs:
            content["linear"]["epochs"] = epochs
        try:
            return cls(file.stem, **vars(parser.instantiate(parser.parse_object(content))))
        except ArgumentError as error:
            raise ValueError(f"{file}: {' '.join(str(error).split())}") from None


def measure(
    protocol: Protocol, encoder: ImageModel, data: ImageDataModule, device: torch.device, file: Path, facts: str
) -> dict[str, Any]:
    """Print and return the accuracies; all labeled images vote, also those held out for validation.

    Args:
        file: keeps the state of the linear probe, from which the same command continues.
        facts: about the weights and the data, on which this state depends.
    """
    known: list[Split] = ["train"] if data.tests_on_validation else ["train", "val"]
    images, lines = len(data.labels("train")), list[str]()
    result: dict[str, Any] = {"protocol": protocol.name, "knn": {}, "linear": None, "low_shot": []}

    def labeled(tokens: Tokens) -> tuple[Features, Features]:
        """Return the features of the images of all splits with labels, and of the test's."""
        embed = partial(read_tokens, encoder, tokens=tokens)
        parts = [extract(encoder, data.batches(split, device), embed) for split in (*known, "test")]
        x, labels = (torch.cat(part) for part in zip(*parts[:-1], strict=True))
        return (x, labels), parts[-1]

    if few := protocol.few_labels:
        if not has_class_token(encoder):
            raise ValueError(f"{protocol.name} reads a class token, which {type(encoder).__name__} does not have.")
        listed = few.listed([name for split in known for name in data.image_names(split)])
        train, test = labeled("raw_class_token")
        low_shot = measure_few_labels(few, train, test, listed or few.drawn(train[1]))
        result["low_shot"] = [asdict(each) for each in low_shot]
        lines += map(str, low_shot)
        images = len(train[1])
    if protocol.knn:
        train, test = labeled("class_token")
        images = len(train[1])
        queries, bank, labels = (part.to(device) for part in (test[0], *train))
        for k in (k for k in protocol.knn if k <= images):
            accuracy = Accuracy.of(predict_weighted(queries, bank, labels, data.num_classes, k).cpu(), test[1])
            result["knn"][k] = asdict(accuracy)
            lines.append(f"{f'k-NN (k = {k})':<18}{accuracy}")
    if probe := protocol.linear:
        embed = partial(read_tokens, encoder, tokens=probe.tokens)
        test = extract(encoder, data.batches("test", device), embed)
        val = test if data.tests_on_validation else extract(encoder, data.batches("val", device), embed)
        augmented = simply_augmented(data, probe.interpolation)
        size = len(augmented.labels("train"))

        @torch.no_grad()
        def batches(epochs: range) -> Iterator[Features]:
            batch = probe.step_sizes(size)[0]
            for (view,), labels in augmented.training_passes(epochs, batch, device, probe.drop_last):
                yield embed(view).float(), labels

        encoder.eval()
        fitted = size, val, test, data.num_classes, data.seed, device, file, f"{facts} {probe} {device.type}"
        with encoder.biases_kept():
            linear = train_linear(probe, batches, *fitted)
        result["linear"] = asdict(linear)
        lines.append(str(linear))
    result |= {"features": test[0].shape[1], "train_images": images, "test_images": len(test[1])}
    print(f"protocol {protocol.name}: {test[0].shape[1]} features, {images:,} training images", *lines, sep="\n")
    return result


def simply_augmented(data: ImageDataModule, interpolation: Interpolation) -> ImageDataModule:
    """Return the data with a crop and a flip as their only augmentation; evaluation stays as it is."""
    augment = data.augment
    if isinstance(augment, BatchAugment):
        return data.augmented_by(BatchAugment(crop_scale=CROP_SCALE, flip_prob=0.5))
    framing = augment.eval_interpolation or augment.interpolation
    plain = PhotoAugment(interpolation=interpolation, eval_interpolation=framing, rand_augment=None, erase_prob=0.0)
    return data.augmented_by(plain)
