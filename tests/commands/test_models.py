"""`models`: the counts are timm's, and the table fits a terminal."""

import subprocess
import sys

import pytest
import timm
import torch

import vitlab.models
from vitlab.commands.dispatch import run
from vitlab.commands.models import measured, shortened
from vitlab.evaluation.cost import count_flops


def test_the_table_has_what_the_pattern_names(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert run("models", ["swin*tiny_*window[78]*"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert [line.split()[0] for line in lines[1:3]] == ["swin_tiny_patch4_window7_224", "swinv2_tiny_window8_256"]
    # Liu et al. 2021, table 1, and 2022, table 9: 28 M and 4.5 G multiply-adds, 28 M and 5.9 G.
    assert lines[1].split()[1:6] == ["28.29", "M", "8.98", "224", "ms_in1k,"]
    assert lines[2].split()[1:5] == ["28.35", "M", "11.88", "256"]


def test_a_pipe_that_has_read_enough_is_no_error() -> None:
    command = [sys.executable, "-m", "vitlab", "models", "swin_tiny*"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.close()
    _, errors = process.communicate(timeout=100)
    assert (process.returncode, errors) == (128 + 13, "")


def test_one_models_weights_are_all_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("models", ["vit_base_patch16_224"]) == 0
    text = capsys.readouterr().out
    tags = [name.partition(".")[2] for name in timm.list_pretrained("vit_base_patch16_224.*")]
    assert len(tags) > 5
    assert all(f"\n  {tag}\n" in text for tag in tags)


def test_timms_models_are_listed_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("models", ["convnext_atto", "--timm"]) == 0
    row = capsys.readouterr().out.splitlines()[1]  # 3.70 M and 0.55 G multiply-adds in timm's results at 224 px
    assert row.split() == ["convnext_atto", "3.70", "M", "1.09", "224", "d2_in1k"]


def test_counts_are_those_of_a_model_with_weights() -> None:
    model = vitlab.models.swinv2_mini_patch2_window4_32()
    flops = count_flops(model, torch.zeros(1, 3, 32, 32))
    parameters = sum(parameter.numel() for parameter in model.parameters())
    assert measured("swinv2_mini_patch2_window4_32", of_timm=False) == (parameters, flops, 32)


def test_a_pattern_that_nothing_matches_is_answered_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("models", ["swn_tiny*"]) == 2
    assert "no model 'swn_tiny*'; the nearest are swinv2_tiny_window8_256" in capsys.readouterr().err
    assert run("models", ["resnet18d"]) == 2
    assert run("models", ["qqqq", "--timm"]) == 2
    assert "has no model 'qqqq'." in capsys.readouterr().err


def test_words_are_left_out_where_there_is_no_room() -> None:
    assert shortened(["one", "two", "three"], 99) == "one, two, three"
    assert shortened(["one", "two", "three"], 12) == "one, two, +1"
    assert shortened(["one", "two", "three"], 3) == "one, +2"
    assert shortened([], 3) == ""
