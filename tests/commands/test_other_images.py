"""Commands that measure a run's test accuracy notice that its images are others now; data.json is what they compare."""

import json
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from vitlab.commands.dispatch import run

RUN = Path("runs/study/vit/seed-1")


@pytest.fixture
def changed(finished: Path, capsys: pytest.CaptureFixture[str]) -> Callable[[str], None]:
    """Take a run for a study's; return a function that makes a split's images other ones than those of its start."""
    RUN.parent.mkdir(parents=True)
    finished.rename(RUN)
    table = pd.DataFrame([("ViT", 1, "finished")], columns=["variant", "seed", "status"])
    table.to_csv("runs/study/results.csv", index=False)

    def change(split: str) -> None:
        facts = json.loads((RUN / "data.json").read_text())
        facts["splits"][split] = {"images": 600, "digest": "of other images"}
        (RUN / "data.json").write_text(json.dumps(facts))
        capsys.readouterr()

    return change


def test_robustness_refuses_other_test_images(
    changed: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    changed("train")
    assert run("robustness", ["runs/study", "--images", "10"]) == 0  # the test images are still those
    (RUN / "robustness.csv").unlink()
    changed("test")
    assert run("robustness", ["runs/study", "--images", "10"]) == 2
    said = capsys.readouterr().err
    assert f"{RUN} was tested on other images (test: 600 images then, 599 now)" in said
    assert not (RUN / "robustness.csv").exists()


def test_transfer_warns_of_other_images(changed: Callable[[str], None], capsys: pytest.CaptureFixture[str]) -> None:
    given = [str(RUN), "--sizes", "8", "--out", "out"]
    assert run("transfer", given) == 0
    assert "other images" not in capsys.readouterr().err
    changed("test")
    assert run("transfer", given) == 0
    assert f"{RUN} was trained on other images than these (test: 600 images then, 599" in capsys.readouterr().err
