"""Student against teacher, counted by hand."""

import math

import pytest
import torch

from vitlab.analysis.agreement import agreement, decisions, divergence, draw_agreement, right_and_wrong

TEACHER = torch.eye(3)[[0, 1, 2, 1]]
STUDENT = torch.eye(3)[[0, 2, 2, 1]]
LABELS = torch.tensor([0, 2, 0, 1])


def test_agreement_is_of_decisions() -> None:
    assert agreement(STUDENT, 5 * TEACHER).tolist() == [True, False, True, True]


def test_divergence_is_of_the_teacher_from_the_student() -> None:
    """KL(p ‖ q) = Σ p log(p / q) for p = (3/4, 1/4), q = (1/2, 1/2)."""
    teacher, student = torch.tensor([[0.75, 0.25]]).log(), torch.zeros(1, 2)
    assert float(divergence(student, teacher)) == pytest.approx(0.75 * math.log(1.5) + 0.25 * math.log(0.5))


def test_decisions_are_counted_by_teacher_then_student() -> None:
    assert decisions(STUDENT, TEACHER).tolist() == [[1, 0, 0], [0, 1, 1], [0, 0, 1]]


def test_who_is_right_is_counted_by_teacher_then_student() -> None:
    # Image 1: both right. Image 2: the student alone. Image 3: neither. Image 4: both.
    assert right_and_wrong(STUDENT, TEACHER, LABELS).tolist() == [[0.5, 0], [0.25, 0.25]]


def test_the_drawing_takes_many_classes() -> None:
    torch.manual_seed(0)
    teacher, student = torch.randn(2, 200, 40)
    names = [f"class {k}" for k in range(40)]
    figure = draw_agreement({"student": student}, teacher, torch.randint(40, (200,)), names, "epoch 1")
    assert "20 classes" in figure.axes[2].get_title()
