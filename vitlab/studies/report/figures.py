"""The charts of a study's report, of which referee's drawing writes SVG, PNG and PDF."""

from collections.abc import Callable, Sequence

import numpy as np
import referee.report.differences
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter
from referee.formats import tick
from referee.report.drawing import DASHED, MUTED, Chart, Layout, draw_curve, panels_of, point, put_legend, style_of

from vitlab.evaluation.predictions import CALIBRATION_BINS
from vitlab.studies.file.metric import Metric
from vitlab.studies.results import StudyResults, VariantResult

MIN_IN_BIN = 5  # predictions: smaller confidence bins are too noisy to show


def ranking(results: StudyResults, layout: Layout) -> Figure:
    known = results.baselines
    lines = {"k-NN": known.knn, "majority": known.majority} if known else {}
    return referee.report.differences.ranking(results.verdict, layout, lines)


def differences(results: StudyResults, layout: Layout) -> Figure:
    return referee.report.differences.differences(results.verdict, layout, results.metric.score)


def learning_curves(results: StudyResults, layout: Layout) -> Figure:
    """Draw validation score, if there is one, and training loss by epoch: the mean and range over seeds."""
    columns = [("train/loss", "training loss", 1.0)]
    if any(len(result.curve(results.metric.validation)) for result in results.ranking):
        columns.insert(0, (results.metric.validation, results.metric.axis("validation"), results.metric.scale))
    figure, panels = panels_of(layout, len(columns), 270)
    for axes, (column, title, scale) in zip(panels, columns, strict=True):
        lowest = []
        for result in results.ranking:
            if result.is_frozen:
                continue
            curve = result.curve(column)
            mean, low, high = scale * curve.to_numpy().T
            tip = f"{mean[-1]:.4g} at the end" if len(mean) else "nothing at the end"
            draw_curve(axes, curve.index.to_numpy(), mean, low, high, result.variant, result.index, tip)
            lowest.append(np.nanmin(low[len(low) // 5 :], initial=np.inf))
        if column == "val/top1" and np.isfinite(min(lowest, default=np.inf)):
            axes.set_ylim(bottom=max(0, min(lowest) - 5))  # the first epochs would flatten the rest
        axes.set_title(title)
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    put_legend(figure, panels[0], layout)
    return figure


def calibration(results: StudyResults, layout: Layout) -> Figure:
    """Draw accuracy against confidence, and the distribution of confidence, over all seeds."""
    figure, panels = panels_of(layout, 2, 270)
    edges = np.linspace(0, 1, CALIBRATION_BINS + 1)
    panels[0].plot([0, 100], [0, 100], color=MUTED, linewidth=1, linestyle=DASHED)
    for result in results.ranking:
        bins, style = result.reliability, style_of(result.index)
        shown = bins.images >= MIN_IN_BIN
        confidence, accuracy = 100 * bins.confidence[shown], 100 * bins.accuracy[shown]
        for x, y, n in zip(confidence, accuracy, bins.images[shown], strict=True):
            tip = f"{result.variant}: {y:.0f} % of {n:,} predictions with about {x:.0f} % confidence are correct"
            point(panels[0], result.index, x, y, 5.5, tip)
        panels[0].plot(confidence, accuracy, linewidth=1.6, label=result.variant, **style)
        share = 100 * bins.images / max(1, bins.images.sum())
        panels[1].stairs(share, 100 * edges, color=style["color"], linestyle=style["linestyle"], linewidth=1.8)
    panels[0].set_title("accuracy at this confidence, %")
    panels[1].set_title("predictions at this confidence, %")
    for axes in panels:
        axes.set_xlabel("confidence, %")
        axes.set_xlim(0, 102)
    put_legend(figure, panels[0], layout)
    return figure


def score_against_cost(results: StudyResults, layout: Layout) -> Figure:
    """Draw the mean test score, with its interval, against each cost, and the Pareto front."""
    quantities: tuple[tuple[str, Callable[[VariantResult], float], bool], ...] = (  # the last: more is better
        ("parameters", lambda result: result.cost("parameters"), False),
        ("FLOPs per image", lambda result: result.cost("flops"), False),
        ("training time, minutes", lambda result: result.mean("seconds") / 60, False),
        ("training, images/s", lambda result: result.speed[1] if result.speed else np.nan, True),
        ("inference, images/s", lambda result: result.cost("inference_images_per_second"), True),
        ("training memory, bytes", lambda result: result.cost("train_peak_bytes"), False),
    )
    metric, columns = results.metric, layout.columns + 1
    figure, panels = panels_of(Layout(layout.width, columns), len(quantities), 215, share_y=True)
    for axes, (title, quantity, more) in zip(panels, quantities, strict=True):
        known = [result for result in results.ranking if np.isfinite(quantity(result))]
        values = [quantity(result) for result in known]
        scores = [metric.scale * result.score.mean for result in known]
        front = pareto_front(values, [metric.sign * score for score in scores], more)
        steps = [values[i] for i in front], [scores[i] for i in front]
        axes.plot(*steps, color=MUTED, linewidth=1, linestyle=DASHED)
        for result, value, mean in zip(known, values, scores, strict=True):
            ends = [metric.scale * result.score.low, metric.scale * result.score.high]
            axes.plot([value] * 2, ends, color=style_of(result.index)["color"], linewidth=2, alpha=0.55)
            shown = f"{mean:.2f} %" if metric.is_fraction else f"{mean:.4g}"
            tip = f"{result.variant}: {shown} at {tick(float(f'{value:.3g}'))} {title}"
            point(axes, result.index, value, mean, 9, tip, label=result.variant)
        if values and max(values) > 8 * min(values):
            axes.set_xscale("log")
            axes.xaxis.set_minor_formatter(NullFormatter())
        else:
            axes.set_xlim(0, 1.15 * max(values, default=1))
            axes.xaxis.set_major_locator(MaxNLocator(layout.columns + 2, steps=[1, 2, 5, 10]))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: tick(value)))
        axes.yaxis.set_major_locator(MaxNLocator(4))
        axes.set_title(title, fontsize=11)
    for axes in panels[::columns]:
        axes.set_ylabel(metric.axis("").strip())
    put_legend(figure, panels[0], layout)
    return figure


def against_cost(metric: Metric) -> str:
    return f"{'accuracy' if metric.is_accuracy else metric.name}_against_cost".replace("/", "_")


def charts_for(metric: Metric) -> list[Chart]:
    label = metric.label
    charts = [
        Chart("ranking", f"Test {label} of every run, with mean and 95 % interval per variant.", ranking),
        Chart("differences", f"Lead in test {label} of every pair of variants, with its 95 % interval.", differences),
        Chart("learning_curves", f"Validation {label} and training loss by epoch for each variant.", learning_curves),
        Chart(against_cost(metric), f"Mean test {label} against six costs, with the Pareto front.", score_against_cost),
    ]
    if metric.one_class:
        charts.append(Chart("calibration", "Accuracy against confidence for each variant.", calibration))
    return charts


def pareto_front(costs: Sequence[float], scores: Sequence[float], more: bool) -> list[int]:
    """Return, by cost, the indices of the points that are not Pareto-dominated; with `more`, the cost is a speed."""
    sign = -1 if more else 1
    front: list[int] = []
    for i in sorted(range(len(costs)), key=lambda i: (sign * costs[i], -scores[i])):
        if not front or scores[i] > scores[front[-1]]:
            front.append(i)
    return front
