"""Measure how good a run's frozen features are: k-NN, linear and low-shot accuracy."""

import copy
import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Literal

import torch
from jsonargparse.typing import PositiveInt

from vitlab.atomic_files import write_text
from vitlab.commands.options import StudyParser, experiment_of
from vitlab.config import weights_of
from vitlab.data import ImageDataModule
from vitlab.evaluation.classifiers import MOST_NEIGHBORS, classify_pixels, predict_weighted
from vitlab.evaluation.cost import device_for
from vitlab.evaluation.features import extract
from vitlab.evaluation.probe import SPLITS, Accuracy, hold_out, probe_features
from vitlab.experiment.protocols import Protocol, measure
from vitlab.experiment.same_images import OTHER
from vitlab.models import ImageModel
from vitlab.runs.directory import RunDirectory
from vitlab.runs.lock import refuse_links


def run(arguments: Sequence[str]) -> int:
    """Print the accuracies, and write them as JSON into the run directory."""
    parser = StudyParser(
        "python -m vitlab probe --config runs/…",
        "k-NN, linear and low-shot accuracy of frozen features. Other arguments change the configuration, e.g. "
        "--ckpt_path best, or none for the weights as they are built.",
    )
    how = (
        "measure as a paper does, by experiments/probes/FILE.yaml or a file like these: dino, weighted k-NN and a "
        "linear probe of several blocks; mae, a linear probe by LARS; msn, few labels [the same for every encoder]"
    )
    parser.add_argument("--protocol", metavar="FILE", help=how)
    parser.add_argument("--epochs", type=PositiveInt, help="of the protocol's linear probe")
    options, rest = parser.parse_known_args(arguments)
    if options.epochs and options.protocol is None:
        raise ValueError("--epochs changes a --protocol; give that too.")
    experiment = experiment_of(rest)
    experiment.warn_of_other_images()
    refuse_links(experiment.directory, experiment.root)
    protocol = options.protocol and Protocol.read(options.protocol, options.epochs)
    pretrained = any(key.startswith("model.init_args.backbone.") for key in weights_of(experiment.config))
    as_built = None if protocol or pretrained else copy.deepcopy(experiment.model)
    path, device = experiment.restore(), device_for("auto")
    name, data, model = path.stem if path else "none", experiment.data, experiment.model.to(device)
    if protocol is None:
        beside = references(data, as_built if path else None, device)
        splits = {split: extract(model, data.batches(split, device)) for split in SPLITS}  # type: ignore[arg-type]
        if data.tests_on_validation:
            splits |= hold_out(splits["train"], data.probe_images)  # or each test image is its own nearest neighbor
        result = probe_features(splits, data.num_classes)
        whose = f"{result.train_images:,} images with labels, of which {len(splits['val'][1]):,} choose λ"
        print(f"{path or 'weights as built'}: {result.features} features, {whose}")
        print(f"k-NN (k = 20)     {result.knn}\nlinear probe      {result.linear}   λ = {result.strength:g}")
        print(*result.low_shot, sep="\n")
        content = asdict(result) | beside
    else:
        name += f"-{protocol.name}"
        stamp = f"{path} {path.stat().st_size} {path.stat().st_mtime_ns}" if path else "none"
        facts = json.dumps([experiment.config["model"], experiment.config["data"], experiment.seed, stamp])
        print(path or "weights as built")
        content = measure(protocol, model, data, device, experiment.directory / "features" / f"{name}.pt", facts)
    own = path is None or path.resolve().parent == RunDirectory(experiment.directory).checkpoints.resolve()
    step = 0 if path is None else torch.load(path, map_location="cpu", weights_only=True, mmap=True).get("global_step")
    folder = experiment.directory if own else experiment.directory / OTHER
    write_text(folder / f"probe-{name}.json", json.dumps({"step": step, **content}, indent=2))
    return 0


def references(data: ImageDataModule, untrained: ImageModel | None, device: torch.device) -> dict[str, object]:
    """Print and return what features have to surpass: k-NN on pixels, and among the features of an untrained model."""
    known: list[Literal["train", "val"]] = ["train"] if data.tests_on_validation else ["train", "val"]
    classes, truth, examples = classify_pixels(data, known, "test", device)
    found = {"raw pixels": Accuracy.of(classes, truth)}
    if untrained is not None:
        every = -(-sum(len(data.labels(split)) for split in known) // MOST_NEIGHBORS)
        banks = [extract(untrained.to(device), data.batches(split, device, every)) for split in known]
        bank, labels = (torch.cat(parts) for parts in zip(*banks, strict=True))
        test, truth = extract(untrained, data.batches("test", device))
        found["untrained"] = Accuracy.of(predict_weighted(test, bank, labels, data.num_classes), truth)
    for name, accuracy in found.items():
        print(f"{name}: k-NN (k = 20) {accuracy}, among {examples:,} training images")
    return {f"knn_{name.replace(' ', '_')}": asdict(accuracy) for name, accuracy in found.items()}
