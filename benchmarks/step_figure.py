"""The steps of several experiments beside each other, by kinds of operations, as a figure.

    python -m benchmarks.step_figure experiments/speedrun/{vit,swin,swin_v2}.yaml --base experiments/speedrun/vit.yaml

A bar is an unobserved step, in microseconds an image. Its parts are those of `benchmarks.step_profile`, scaled to it;
what no operation of PyTorch's takes is Python, Lightning's loop and waiting.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure
from referee.report.drawing import COLORS

from benchmarks.measuring import OUT, machine
from benchmarks.step_profile import KINDS, MUON, OTHER, Profile, profiled

PYTHON = "Python, the loop, waiting"


def parts(profile: Profile, images: int) -> dict[str, float]:
    """Return microseconds an image by kind. Operations that add up to more than the step are scaled down to it."""
    operations = sum(profile.kinds.values())
    scale = 1000 / images * min(1.0, profile.step / operations)
    kinds = {kind: scale * milliseconds for kind, milliseconds in profile.kinds.items()}
    return kinds | {PYTHON: 1000 / images * profile.step - scale * operations}


def draw(bars: Mapping[str, Mapping[str, float]], title: str) -> Figure:
    """Draw a bar for each experiment, the first on top."""
    figure = Figure(figsize=(11, 1.6 + 0.5 * len(bars)), layout="constrained")
    axes = figure.subplots()
    left = dict.fromkeys(bars, 0.0)
    for index, kind in enumerate([*dict.fromkeys([MUON, *KINDS.values(), OTHER]), PYTHON]):
        widths = [bar.get(kind, 0.0) for bar in bars.values()]
        style = {"color": COLORS[index % len(COLORS)], "hatch": "//" if index >= len(COLORS) else None}
        axes.barh(list(bars), widths, left=list(left.values()), label=kind, edgecolor="white", **style)
        left = {name: left[name] + width for name, width in zip(bars, widths, strict=True)}
    axes.invert_yaxis()
    axes.set(xlabel="µs an image", title=title)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside right center", frameon=False)
    return figure


def main(arguments: Sequence[str] | None = None) -> None:
    """Profile experiments, each in float32 and in bfloat16."""
    parser = argparse.ArgumentParser("python -m benchmarks.step_figure", description=__doc__.partition("\n")[0])
    parser.add_argument("experiments", nargs="+", type=Path)
    parser.add_argument("--base", type=Path, help="an experiment that the others are merged into")
    parser.add_argument("--precisions", nargs="+", default=["32-true", "bf16-mixed"])
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--out", type=Path, default=OUT, help=f"folder of steps.png [{OUT}]")
    parser.epilog = "Other options as in `vitlab fit`."
    options, rest = parser.parse_known_args(arguments)
    bars = {}
    for file in options.experiments:
        for precision in options.precisions:
            files = [str(name) for name in dict.fromkeys([options.base or file, file])]
            configs = [word for name in files for word in ("--config", name)]
            experiment, profile = profiled([*configs, *rest, "--trainer.precision", precision], options.steps)
            bars[f"{file.stem}, {precision.partition('-')[0]}"] = parts(profile, experiment.data.batch_size)
    options.out.mkdir(parents=True, exist_ok=True)
    draw(bars, machine(experiment.trainer.strategy.root_device)).savefig(options.out / "steps.png", dpi=110)


if __name__ == "__main__":
    main()
