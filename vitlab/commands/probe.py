"""Measure how good a run's frozen features are: k-NN, linear and low-shot accuracy."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from jsonargparse.typing import PositiveInt

from vitlab.commands.options import StudyParser, experiment_of
from vitlab.config import weights_of

if TYPE_CHECKING:
    import torch

    from vitlab.experiment.experiment import Experiment
    from vitlab.models import ImageModel


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

    import torch

    from vitlab.atomic_files import write_text
    from vitlab.evaluation.cost import device_for
    from vitlab.experiment.protocols import Protocol, measure
    from vitlab.experiment.same_images import OTHER
    from vitlab.runs.directory import RunDirectory
    from vitlab.runs.lock import refuse_links

    refuse_links(experiment.directory, experiment.root)
    protocol = options.protocol and Protocol.read(options.protocol, options.epochs)
    pretrained = any(key.startswith("model.init_args.backbone.") for key in weights_of(experiment.config))
    as_built = None if protocol or pretrained else copy.deepcopy(experiment.model)
    path, device = experiment.restore(), device_for("auto")
    name = path.stem if path else "none"
    if protocol is None:
        beside = references(experiment, as_built if path else None, device)
        content = common_protocol(experiment, path, device) | beside
    else:
        name += f"-{protocol.name}"
        stamp = f"{path} {path.stat().st_size} {path.stat().st_mtime_ns}" if path else "none"
        facts = json.dumps([experiment.config["model"], experiment.config["data"], experiment.seed, stamp])
        file = experiment.directory / "features" / f"{name}.pt"
        print(path or "weights as built")
        content = measure(protocol, experiment.model.to(device), experiment.data, device, file, facts)
    own = path is None or path.resolve().parent == RunDirectory(experiment.directory).checkpoints.resolve()
    step = 0 if path is None else torch.load(path, map_location="cpu", weights_only=True, mmap=True).get("global_step")
    folder = experiment.directory if own else experiment.directory / OTHER
    write_text(folder / f"probe-{name}.json", json.dumps({"step": step, **content}, indent=2))
    return 0


def common_protocol(experiment: Experiment, path: Path | None, device: torch.device) -> dict[str, object]:
    """Print and return the accuracies by the one protocol for every objective and architecture."""
    from vitlab.evaluation.features import extract
    from vitlab.evaluation.probe import SPLITS, hold_out, probe_features

    data, model = experiment.data, experiment.model.to(device)
    splits = {split: extract(model, data.batches(split, device)) for split in SPLITS}  # type: ignore[arg-type]
    if data.tests_on_validation:
        splits |= hold_out(splits["train"], data.probe_images)  # or each test image would be its own nearest neighbor
    result = probe_features(splits, data.num_classes)
    whose = f"{result.train_images:,} images with labels, of which {len(splits['val'][1]):,} choose λ"
    print(f"{path or 'weights as built'}: {result.features} features, {whose}")
    print(f"k-NN (k = 20)     {result.knn}\nlinear probe      {result.linear}   λ = {result.strength:g}")
    for low_shot in result.low_shot:
        print(low_shot)
    return asdict(result)


def references(experiment: Experiment, untrained: ImageModel | None, device: torch.device) -> dict[str, object]:
    """Print and return what features have to surpass: k-NN on pixels, and among the features of an untrained model."""
    import torch

    from vitlab.evaluation.classifiers import MOST_NEIGHBORS, classify_pixels, predict_weighted
    from vitlab.evaluation.features import extract
    from vitlab.evaluation.probe import Accuracy

    data = experiment.data
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
