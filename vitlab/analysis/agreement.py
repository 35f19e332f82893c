"""Agreement of a student with its teacher.

B images, K classes. A student has logits (B, K) by name, such as those of its two heads and their mean.
"""

import numpy as np
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from referee.report.drawing import COLORS, INK, MUTED
from torch import Tensor

from vitlab.analysis.canvas import new_figure, styled

CLASSES_SHOWN = 20


def agreement(student: Float[Tensor, "B K"], teacher: Float[Tensor, "B K"]) -> Bool[Tensor, "B"]:
    """Return for which images both predict the same class."""
    return student.argmax(dim=1) == teacher.argmax(dim=1)


def divergence(student: Float[Tensor, "B K"], teacher: Float[Tensor, "B K"]) -> Float[Tensor, ""]:
    """Return the mean KL(softmax(teacher) ‖ softmax(student)), in nats."""
    return F.kl_div(student.log_softmax(dim=1), teacher.log_softmax(dim=1), reduction="batchmean", log_target=True)


def decisions(student: Float[Tensor, "B K"], teacher: Float[Tensor, "B K"]) -> Int[Tensor, "K K"]:
    """Count images by the teacher's prediction (row) and the student's (column)."""
    classes = teacher.shape[1]
    pairs = teacher.argmax(dim=1) * classes + student.argmax(dim=1)
    return pairs.bincount(minlength=classes**2).view(classes, classes)


def right_and_wrong(
    student: Float[Tensor, "B K"], teacher: Float[Tensor, "B K"], labels: Int[Tensor, "B"]
) -> Float[Tensor, "2 2"]:
    """Return the fractions of images on which the teacher (rows) and the student (columns) are right and wrong."""
    wrong = [(logits.argmax(dim=1) != labels).long() for logits in (teacher, student)]
    return (2 * wrong[0] + wrong[1]).bincount(minlength=4).view(2, 2) / len(labels)


@styled
def draw_agreement(
    student: dict[str, Float[Tensor, "B K"]],
    teacher: Float[Tensor, "B K"],
    labels: Int[Tensor, "B"],
    class_names: list[str],
    title: str,
) -> Figure:
    """Draw how often the student's logits agree with the teacher; of the first, who is right and where they differ."""
    first = next(iter(student.values()))
    figure = new_figure(13, 4.6)
    bars, table, heat = figure.subplots(1, 3, width_ratios=[1.2, 0.8, 1.4])
    right = teacher.argmax(dim=1) == labels
    for offset, (name, chosen) in enumerate({"teacher right": right, "teacher wrong": ~right}.items()):
        if not chosen.any():
            continue
        shares = [float(agreement(logits, teacher)[chosen].float().mean()) for logits in student.values()]
        places = [i + 0.36 * (offset - 0.5) for i in range(len(shares))]
        drawn = bars.barh(places, shares, 0.34, color=COLORS[offset], label=f"{name} ({int(chosen.sum()):,} images)")
        bars.bar_label(drawn, [f"{share:.1%}" for share in shares], padding=3, color=INK)
    bars.set_yticks(range(len(student)), list(student))
    bars.set(xlim=(0, 1.18), ylim=(len(student) - 0.5, -0.5), title="student agrees with the teacher")
    bars.xaxis.set_major_formatter(PercentFormatter(1))
    bars.set_xticks([0, 0.25, 0.5, 0.75, 1])
    bars.spines[["top", "right"]].set_visible(False)
    bars.legend(loc="upper center", bbox_to_anchor=(0.5, -0.1), ncols=1)

    right_or_wrong = right_and_wrong(first, teacher, labels).numpy()
    table.imshow(right_or_wrong, cmap="Blues", vmin=0, vmax=1.2)
    for (row, column), share in np.ndenumerate(right_or_wrong):
        color = "white" if share > 0.6 else INK
        table.text(column, row, f"{share:.1%}", ha="center", va="center", color=color, fontsize=12)
    table.set_xticks([0, 1], ["right", "wrong"])
    table.set_yticks([0, 1], ["right", "wrong"], rotation=90, va="center")
    table.set(xlabel="student", ylabel="teacher", title="who is right")

    counts = decisions(first, teacher)  # of many classes those with the most disagreement are drawn
    different = counts - counts.diag().diag()
    shown = (different.sum(dim=0) + different.sum(dim=1)).argsort(descending=True, stable=True)[:CLASSES_SHOWN]
    shown = shown.sort().values
    counts, different, names = counts[shown][:, shown], different[shown][:, shown], [class_names[k] for k in shown]
    heat.imshow(different.numpy(), cmap="Oranges", vmin=0, vmax=1.3 * max(int(different.max()), 1))
    for (row, column), count in np.ndenumerate(counts.numpy()):
        if count:
            color = MUTED if row == column else INK
            heat.text(column, row, str(count), ha="center", va="center", color=color, fontsize=8)
    heat.set_xticks(range(len(names)), names, rotation=0 if max(map(len, names)) < 3 else 90)
    heat.set_yticks(range(len(names)), names)
    which = f" (the {len(names)} classes with the most disagreement)" if len(names) < len(class_names) else ""
    heat.set(xlabel="student predicts", ylabel="teacher predicts", title=f"images by prediction{which}")
    figure.suptitle(f"{title}, {len(labels):,} validation images", color=MUTED, fontsize=10)
    return figure
