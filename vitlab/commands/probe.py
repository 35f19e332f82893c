"""Measure how good a run's frozen features are: k-NN, linear and low-shot accuracy."""

import json
from collections.abc import Sequence
from dataclasses import asdict

from vitlab.commands.options import StudyParser, experiment_of


def run(arguments: Sequence[str]) -> int:
    """Print the accuracies, and write them as JSON into the run directory.

    `--ckpt_path none` measures the weights as they are built: a pretrained timm model, or the untrained encoder.
    """
    parser = StudyParser(
        "python -m vitlab probe --config runs/…",
        "k-NN, linear and low-shot accuracy of frozen features. Arguments change the configuration, e.g. "
        "--ckpt_path best, or none for the weights as they are built.",
    )
    experiment = experiment_of(parser.parse_known_args(arguments)[1])

    from vitlab.atomic_files import write_text
    from vitlab.evaluation.cost import device_for
    from vitlab.evaluation.features import extract
    from vitlab.evaluation.probe import SPLITS, hold_out, probe_features

    path, device = experiment.restore(), device_for("auto")
    data, model = experiment.data, experiment.model.to(device)
    splits = {split: extract(model, data.batches(split, device)) for split in SPLITS}  # type: ignore[arg-type]
    if data.tests_on_validation:
        splits |= hold_out(splits["train"])  # or each test image would be its own nearest neighbor
    result = probe_features(splits, data.num_classes)
    print(f"{path or 'weights as built'}: {result.features} features, {result.train_images:,} training images")
    print(f"k-NN (k = 20)     {result.knn}\nlinear probe      {result.linear}   λ = {result.strength:g}")
    for low_shot in result.low_shot:
        print(low_shot)
    file = experiment.directory / f"probe-{path.stem if path else 'none'}.json"
    write_text(file, json.dumps(asdict(result), indent=2))
    return 0
