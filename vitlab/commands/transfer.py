"""`transfer`: test runs at other image sizes, windows in proportion: as they are and, on request, after fine-tuning.

Windows grow with the image, as in Swin v2's Table 1 (Liu et al. 2022, https://arxiv.org/abs/2111.09883). A continuous
position bias extrapolates to the larger window; a bias table is interpolated, as are a ViT's positions.
"""

import math
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import pandas as pd
from jsonargparse.typing import NonNegativeInt, PositiveFloat, PositiveInt

from vitlab import log
from vitlab.atomic_files import write_text
from vitlab.commands.options import StudyParser, quiet
from vitlab.config import Config, merge
from vitlab.evaluation.cost import device_for
from vitlab.evaluation.features import classify
from vitlab.evaluation.probe import Accuracy
from vitlab.experiment.experiment import Experiment
from vitlab.models.weights import load_weights
from vitlab.runs.directory import RunDirectory

LR_SHARE = 0.04  # learning rate of fine-tuning relative to training: the paper's 4e-5 after 1e-3
WARMUP_SHARE = 1 / 6  # of the epochs: 5 of 30 in the official configurations


def run(arguments: Sequence[str]) -> int:
    """Write transfer.csv, a row for each run and size, after each measurement, and print the means over seeds."""
    parser = StudyParser(
        "python -m vitlab transfer runs/…",
        "Test trained runs at other image sizes, windows in proportion. The same command continues an interrupted "
        "fine-tuning, --run.overwrite true begins it again. Other arguments change the runs' configurations, e.g. "
        "--data.eval_batch_size 100.",
    )
    parser.add_argument("--sizes", nargs="+", type=PositiveInt, required=True, help="image sizes in px")
    parser.add_argument("--epochs", type=NonNegativeInt, default=0, help="epochs of fine-tuning at each other size [0]")
    parser.add_argument("--lr", type=PositiveFloat, help="learning rate of fine-tuning [4 %% of the training's]")
    parser.add_argument("--out", type=Path, required=True, help="folder of the table and the tuned runs")
    configs, options, rest = parser.parse_runs(arguments)
    if options.lr and not options.epochs:
        raise ValueError(f"--lr {options.lr}: give --epochs of fine-tuning with it.")
    quiet()
    names, weights = set[tuple[str, int]](), dict[Experiment, Path]()
    for config in configs:
        run = Experiment(Path(config), arguments=rest)
        checkpoint, name = run.checkpoint(), run.directory.parent.name
        if checkpoint is None or not run.objective.backbone.num_classes:
            raise ValueError(f"{config}: not a finished run of a classifier; give the config.yaml of one.")
        if (name, run.seed) in names:
            raise ValueError(f"{config} is a second run called {name}, seed {run.seed}; the table needs unique names.")
        if not isinstance(run.data.image_size, int):
            raise ValueError(f"{config} sees images of {run.data.image_size} px; only squares are resized.")
        run.warn_of_other_images()
        names.add((name, run.seed))
        weights[run] = checkpoint
        if run.data.image_names("test") != next(iter(weights)).data.image_names("test"):
            raise ValueError(f"{config} is tested on other images than {configs[0]}; give runs on the same images.")
    jobs = [
        (run, checkpoint, resized(run, size))
        for run, checkpoint in weights.items()
        for size in sorted({cast(int, run.data.image_size), *map(int, options.sizes)})
    ]
    file = options.out / "transfer.csv"
    rows = []
    for number, job in enumerate(jobs, start=1):
        rows.append(measure(*job, options))
        table = pd.DataFrame(rows)
        write_text(file, table.to_csv(index=False))
        direct, size = 100 * rows[-1]["direct"], rows[-1]["image_size"]
        log.info("%s, %d px: %.1f %% (%d of %d)", job[0].directory, size, direct, number, len(jobs))
    print(f"top-1 in %, as trained → fine-tuned; {file} has every run\n{summary(table)}")
    return 0


def resized(run: Experiment, size: int) -> Config:
    """Return the run's configuration at another image size, which its architecture accepts."""
    arguments = run.config["model"]["init_args"]["backbone"]["init_args"]
    backbone = {"init_args": run.objective.backbone.arguments_at(size, arguments)}
    changes = {"model": {"init_args": {"backbone": backbone}}, "data": {"init_args": {"image_size": size}}}
    config = merge(run.config, changes | {"run": {"overwrite": run.run.overwrite}})  # of the fine-tuning
    _ = type(run)(config).objective  # architectures refuse a size when they are built
    return config


def measure(run: Experiment, checkpoint: Path, config: Config, options: Namespace) -> dict[str, Any]:
    """Return a row: the run, its sizes in px, its windows and bias, and accuracies in [0, 1], `direct` and `tuned`."""
    device, experiment = device_for("auto"), Experiment(config)
    model, data = experiment.objective.backbone, experiment.data
    load_weights(model, checkpoint)
    predicted, labels = classify(model.to(device).eval(), data.batches("test", device))
    row = {
        "name": run.directory.parent.name,
        "seed": run.seed,
        "trained_at": run.data.image_size,
        "image_size": data.image_size,
        "window": "",
        "bias": "",
        **model.describe(),
        "partial": ", ".join(RunDirectory(run.directory).shortfalls),  # why the run is incomplete
        "images": len(labels),
        **Accuracy.of(predicted, labels).columns("direct"),
        "tuned": math.nan,
    }
    if options.epochs and data.image_size != run.data.image_size:
        metrics = fine_tuning(config, checkpoint, options).fit()
        row["tuned"] = metrics.get("test_ema/top1", metrics["test/top1"])  # of the averaged weights, as before
    return row


def fine_tuning(config: Config, checkpoint: Path, options: Namespace) -> Experiment:
    """Return the training of a configuration from a checkpoint: an ordinary run `out/<name>-<size>px/seed-<n>/`."""
    recipe, size = config["model"]["init_args"], config["data"]["init_args"]["image_size"]
    rates = {key: recipe["optimizer"]["init_args"].get(key) for key in ("lr", "muon_lr", "head_lr")}
    share = options.lr / rates["lr"] if options.lr else LR_SHARE
    schedule = recipe["schedule"]["init_args"]
    ends = {key: share * schedule[key] for key in ("warmup_lr", "min_lr") if key in schedule}  # in proportion
    as_trained = {"whiten": False, "head_rows": None, "init_raw": False}  # all is in the weights, which were averaged
    arguments = {
        **{key: value for key, value in as_trained.items() if key in recipe},
        "init_from": str(checkpoint),
        "optimizer": {"init_args": {key: share * rate for key, rate in rates.items() if rate is not None}},
        "schedule": {"init_args": {"warmup_epochs": WARMUP_SHARE * options.epochs, **ends}},
    }
    place = {"root": str(options.out), "name": f"{config['run']['name']}-{size}px"}
    changes = {
        "model": {"init_args": arguments},
        "trainer": {"max_epochs": int(options.epochs)},
        "run": {**place, "test": True, "probe": None, "checkpoint": {"pause_after": None}},
    }
    return Experiment(merge(config, changes))


def summary(table: pd.DataFrame) -> str:
    """Return the means over seeds in the paper's form: a row for each run's name, direct → fine-tuned by size."""
    means = 100 * table.groupby(["name", "image_size"])[["direct", "tuned"]].mean()
    tuned = means["tuned"].map(lambda mean: "" if math.isnan(mean) else f" → {mean:.1f}")
    cells = means["direct"].map("{:.1f}".format) + tuned
    return cells.unstack().to_string(na_rep="")
