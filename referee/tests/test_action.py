"""The GitHub Action: its steps run here as a runner would run them, on a pull request, with another `gh`."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ACTION = yaml.safe_load((Path(__file__).parents[1] / "action.yml").read_text())
GH = """#!/bin/bash
echo "$@" >> "$RUNNER_TEMP/calls"
[[ "$*" == *--jq* && -e "$RUNNER_TEMP/there" ]] && echo https://api.github.com/repos/me/mine/issues/comments/7
true
"""


@pytest.fixture
def runner(tmp_path: Path) -> Any:
    commands = {"gh": GH, "referee": f'#!/bin/bash\nexec {sys.executable} -m referee "$@"\n'}
    commands["python"] = f'#!/bin/bash\nexec {sys.executable} "$@"\n'
    (tmp_path / "bin").mkdir()
    for name, text in commands.items():
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    (tmp_path / "runs.csv").write_text(
        "variant,seed,accuracy\n"
        + "".join(
            f"{name},{seed},{0.7 + lead + seed / 500}\n"
            for name, lead in (("old", 0), ("new", 0.1))
            for seed in range(5)
        )
    )

    def run(**given: str) -> int:
        inputs = {
            name: given.get(name.replace("-", "_"), each.get("default", "")) for name, each in ACTION["inputs"].items()
        }
        context = {"github.repository": "me/mine", "github.event.pull_request.number": "3", "github.token": "secret"}
        files = {name: str(tmp_path / name) for name in ("GITHUB_OUTPUT", "GITHUB_STEP_SUMMARY")}
        for step in ACTION["runs"]["steps"][1:]:  # the first installs
            outputs = Path(files["GITHUB_OUTPUT"]).read_text() if Path(files["GITHUB_OUTPUT"]).exists() else ""
            known = context | {f"inputs.{name}": str(value) for name, value in inputs.items()}
            known |= {
                f"steps.judge.outputs.{line.partition('=')[0]}": line.partition("=")[2] for line in outputs.splitlines()
            }
            env = {
                key: re.sub(r"\$\{\{ (.*?) \}\}", lambda name, known=known: known.get(name[1], ""), str(value))
                for key, value in step.get("env", {}).items()
            }
            environment = os.environ | files | env | {"RUNNER_TEMP": str(tmp_path)}
            environment["PATH"] = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
            done = subprocess.run(["bash", "-e", "-o", "pipefail", "-c", step["run"]], cwd=tmp_path, env=environment)
            if done.returncode:
                return done.returncode
        return 0

    return run


def test_a_verdict_is_in_the_summary_and_one_comment_is_edited_in_place(runner: Any, tmp_path: Path) -> None:
    assert runner(table="runs.csv", variant="new", baseline="old", margin="1") == 0
    summary = (tmp_path / "GITHUB_STEP_SUMMARY").read_text()
    assert "### referee: better" in summary
    assert "Alone: new leads old by 10" in summary
    comments = "repos/me/mine/issues/3/comments"
    assert (tmp_path / "calls").read_text().splitlines()[1].startswith(f"api --method POST {comments} -F body=@")
    (tmp_path / "there").touch()
    assert runner(table="runs.csv") == 0
    last = (tmp_path / "calls").read_text().splitlines()[-1]
    assert last.startswith("api --method PATCH https://api.github.com/repos/me/mine/issues/comments/7 ")


@pytest.mark.slow(edge=True)
def test_the_job_fails_on_what_it_is_told_and_on_mistakes(runner: Any) -> None:
    assert runner(table="runs.csv", variant="old", baseline="new") == 1
    assert runner(table="runs.csv", variant="old", baseline="new", fail_on="not comparable") == 0
    assert runner(table="runs.csv", fail_on="no winner yet, better") == 1
    assert runner(table="none.csv") == 2
