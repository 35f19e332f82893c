"""`python -m vitlab benchmark …`: what an experiment costs on this machine, by a few steps on random images."""

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from vitlab.commands.options import StudyParser, experiment_of
from vitlab.runs.directory import config_file, run_of

EPOCHS, STEPS = 5, 4  # the first epoch warms up


def run(arguments: Sequence[str]) -> int:
    """Print what an experiment costs on this machine."""
    parser = StudyParser(
        "python -m vitlab benchmark --config FILE.yaml",
        "Cost of an experiment on this machine, by 20 training steps on random images: images/s, TFLOP/s, peak "
        "memory, FLOPs, parameters. Keys as in fit.",
    )
    _, rest = parser.parse_known_args(arguments)
    rest += ["--trainer.devices", "1", "--trainer.num_nodes", "1", "--trainer.strategy", "auto"]
    from vitlab.config import split

    images = run_of([config_file(file) for file in split(rest)[0]]) is None  # those of a run may not be here any more
    config = experiment_of(rest, images).config

    import pandas as pd

    from vitlab.experiment.noise import fit_on_noise, on_noise

    experiment = on_noise(config, images)
    like, data = experiment.trainer, experiment.data
    with TemporaryDirectory() as folder:
        log = Path(folder) / "metrics.csv"
        same = ("precision", "gradient_clip_val", "gradient_clip_algorithm", "accumulate_grad_batches")
        options = {name: getattr(like, name) for name in same}
        options["accelerator"] = "gpu" if like.strategy.root_device.type == "cuda" else "cpu"
        sides = [data.image_size] * STEPS * like.accumulate_grad_batches
        taken = fit_on_noise(experiment, sides, EPOCHS, log, **options)
        rates = pd.read_csv(log).dropna(subset="images_per_second").iloc[1:].median()
    figures = {
        "parameters": sum(parameter.numel() for parameter in experiment.objective.backbone.parameters()),
        "training FLOPs per image": (taken.flops or 0) / data.batch_size,
        "training images/s": rates["images_per_second"],
        "waiting for data": f"{rates['data_wait']:.0%}",
        "TFLOP/s": f"{rates['tflops']:.3g}",
        "peak memory, bytes": taken.peak_bytes,
    }
    for name, value in figures.items():
        print(f"{name:<27} {value if isinstance(value, str) else f'{value:,.0f}'}")
    return 0
