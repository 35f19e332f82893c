"""Frozen features measured as the papers measure them: DINO's, MAE's and MSN's protocols.

A linear probe trains on random crops of 8 to 100 % of the area, resized, half of them mirrored, whatever the run was
trained on. Departures from the released code: where validation images are held out of the training set, the linear
probe is not trained on them and chooses its learning rate on them, the papers choose on the test images; a crop of
MAE's that does not fit into the image is drawn again, not clipped.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from vitlab.data import BatchAugment, ImageDataModule, PhotoAugment
from vitlab.data.augment import CROP_SCALE
from vitlab.data.dataset import Split
from vitlab.data.photos import Interpolation
from vitlab.evaluation.class_tokens import class_token, dino_features, has_class_token, raw_class_token
from vitlab.evaluation.features import Features, extract
from vitlab.evaluation.knn import predict_weighted
from vitlab.evaluation.low_shot import LowShot, draw_subsets, listed_images, measure_few_labels
from vitlab.evaluation.probe import Accuracy
from vitlab.evaluation.trained_linear import LinearProtocol, Progress, TrainedLinear, step_sizes, train_linear
from vitlab.models import ImageModel

NEIGHBORS = (10, 20, 100, 200)  # k of eval_knn.py of facebookresearch/dino


@dataclass(frozen=True)
class ProtocolResult:
    """Test accuracies of frozen features by one paper's protocol."""

    protocol: str
    features: int  # that the classifier reads
    train_images: int
    test_images: int
    knn: dict[int, Accuracy] = field(default_factory=dict)
    linear: TrainedLinear | None = None
    low_shot: tuple[LowShot, ...] = ()

    def __str__(self) -> str:
        lines = [f"protocol {self.protocol}: {self.features} features, {self.train_images:,} training images"]
        lines += [f"{f'k-NN (k = {k})':<18}{accuracy}" for k, accuracy in self.knn.items()]
        lines += [str(self.linear)] if self.linear else []
        return "\n".join([*lines, *map(str, self.low_shot)])


def probe_dino(
    encoder: ImageModel, data: ImageDataModule, device: torch.device, protocol: LinearProtocol, progress: Progress
) -> ProtocolResult:
    """Weighted k-NN among all labeled images, temperature 0.07, and the linear probe of `dino_features`."""
    train, test = _labeled(encoder, data, class_token, device)
    queries, bank, labels = (tensor.to(device) for tensor in (test[0], *train))
    knn = {
        k: Accuracy.of(predict_weighted(queries, bank, labels, data.num_classes, k).cpu(), test[1])
        for k in NEIGHBORS
        if k <= len(labels)
    }
    linear, features = _linear(encoder, data, dino_features, protocol, "bilinear", device, progress)
    return ProtocolResult("dino", features, len(train[1]), len(test[1]), knn=knn, linear=linear)


def probe_mae(
    encoder: ImageModel, data: ImageDataModule, device: torch.device, protocol: LinearProtocol, progress: Progress
) -> ProtocolResult:
    """The linear probe of the class token after a batch norm without weights."""
    linear, features = _linear(encoder, data, class_token, protocol, "bicubic", device, progress)
    images = len(data.labels("train")), len(data.labels("test"))
    return ProtocolResult("mae", features, *images, linear=linear)


def probe_msn(
    encoder: ImageModel, data: ImageDataModule, device: torch.device, lists: Sequence[Path] = ()
) -> ProtocolResult:
    """Logistic regression on the class token before the final norm, with few labels.

    Args:
        lists: files with the names of the labeled images, one a line; those of one name are draws of one subset. Empty:
            1, 2 and 5 images per class and 1 % of the labels, drawn at random.

    Raises:
        ValueError: an encoder without a class token; a list with other images.
    """
    if not has_class_token(encoder):
        raise ValueError(
            f"--protocol msn reads a class token before the final norm, and {type(encoder).__name__} has none.\n"
            "Leave --protocol out: the protocol for every architecture has 1, 2, 5 and 10 labels per class too."
        )
    listed = _listed(data, lists)
    train, test = _labeled(encoder, data, raw_class_token, device)
    low_shot = measure_few_labels(train, test, listed or draw_subsets(train[1]))
    return ProtocolResult("msn", train[0].shape[1], len(train[1]), len(test[1]), low_shot=low_shot)


def simply_augmented(data: ImageDataModule, interpolation: Interpolation) -> ImageDataModule:
    """Return the data with a crop and a flip as their only augmentation; evaluation stays as it is."""
    augment = data.augment
    if isinstance(augment, BatchAugment):
        return data.augmented_by(BatchAugment(crop_scale=CROP_SCALE, flip_prob=0.5))
    framing = augment.eval_interpolation or augment.interpolation
    plain = PhotoAugment(interpolation=interpolation, eval_interpolation=framing, rand_augment=None, erase_prob=0.0)
    return data.augmented_by(plain)


def _linear(
    encoder: ImageModel,
    data: ImageDataModule,
    read: Callable[[ImageModel, Tensor], Tensor],
    protocol: LinearProtocol,
    interpolation: Interpolation,
    device: torch.device,
    progress: Progress,
) -> tuple[TrainedLinear, int]:
    """Return the result of the linear probe, and the number of features that it reads."""
    features = partial(extract, encoder, embed=partial(read, encoder))
    test = features(data.batches("test", device))
    val = test if data.tests_on_validation else features(data.batches("val", device))
    augmented = simply_augmented(data, interpolation)
    images = len(augmented.labels("train"))
    step, embed = step_sizes(protocol, images)[0], torch.no_grad()(partial(read, encoder.eval()))

    def batches(epochs: range) -> Iterator[Features]:
        for (view,), labels in augmented.training_passes(epochs, step, device, protocol.drop_last):
            yield embed(view).float(), labels

    with encoder.biases_kept():
        linear = train_linear(
            protocol,
            batches,
            train_images=images,
            val=val,
            test=test,
            num_classes=data.num_classes,
            seed=data.seed,
            device=device,
            progress=progress,
        )
    return linear, test[0].shape[1]


def _labeled(
    encoder: ImageModel, data: ImageDataModule, read: Callable[[ImageModel, Tensor], Tensor], device: torch.device
) -> tuple[Features, Features]:
    """Return the features of all labeled images, to which those held out for validation belong, and of the test's."""
    splits: list[Split] = ["train", "test"] if data.tests_on_validation else ["train", "val", "test"]
    *known, test = (extract(encoder, data.batches(split, device), embed=partial(read, encoder)) for split in splits)
    x, labels = (torch.cat(parts) for parts in zip(*known, strict=True))
    return (x, labels), test


def _listed(data: ImageDataModule, lists: Sequence[Path]) -> dict[str, list[Tensor]]:
    """Return the indices of listed images among the labeled ones, by the name of the list."""
    names = [*data.image_names("train"), *([] if data.tests_on_validation else data.image_names("val"))]
    subsets: dict[str, list[Tensor]] = {}
    for file in lists:
        listed = [line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
        subsets.setdefault(file.stem, []).append(listed_images(names, listed, str(file)))
    return subsets
