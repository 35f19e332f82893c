import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from fake_study import FAKE_PROGRAM, Digits, variant

import vitlab
from vitlab.config import load_yaml
from vitlab.studies.compare import RunsFailed, compare, results_of
from vitlab.studies.file.runs import Run
from vitlab.studies.report.verdict import remarks, verdict

pytestmark = pytest.mark.usefixtures("in_process", "no_figures")
Write = Callable[..., Path]


def test_broken_data_stop_a_study_before_its_first_run(
    write_study: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_data(run: Run) -> None:
        raise FileNotFoundError("No folder photos/.")

    monkeypatch.setattr("vitlab.studies.compare.images_of", no_data)
    with pytest.raises(FileNotFoundError):
        compare(write_study(), tmp_path / "runs", program=FAKE_PROGRAM)
    assert not list(tmp_path.glob("runs/**/seed-*"))


@pytest.mark.slow
def test_results_are_read_without_starting_a_run(write_study: Write, digits: Digits, tmp_path: Path) -> None:
    study, root = write_study(), tmp_path / "runs"
    nothing, _ = results_of(study, root)
    assert nothing.finished == []
    assert {failure for _, failure in nothing.failures} == {"is not finished"}
    assert not list(root.glob("*/*/seed-*"))

    report = compare(study, root, program=FAKE_PROGRAM)
    results, images = results_of(study, root)
    assert len(results.finished) == 9
    assert verdict(results) in report.read_text()
    assert images is digits

    (root / "small-study" / "swin" / "seed-2" / "summary.json").unlink()
    fewer, _ = results_of(study, root)
    assert [str(run) for run, _ in fewer.failures] == ["Swin, seed 2"]

    with pytest.raises(ValueError, match="another configuration"):
        results_of(write_study(budget={"epochs": 5}), root)


@pytest.mark.parametrize("changes", [{}, {"tune": {"space": {"model.init_args.lr": [0.1, 0.2]}, "within": "study"}}])
def test_data_that_have_no_top1_accuracy_are_refused_before_the_first_run(
    changes: dict, write_study: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Digits, "labels", lambda self, split: np.eye(10)[self.target[self.splits[split]]])
    with pytest.raises(
        ValueError, match=r"study\.yaml: labels float64 \(597, 10\) are not one class per image"
    ) as raised:
        compare(write_study(**changes), tmp_path / "runs", program=FAKE_PROGRAM)
    assert len(str(raised.value).splitlines()) == 1
    assert not list(tmp_path.glob("runs/**/seed-*"))


GROWING = {"variants": {"A": variant(0.95), "B": variant(0.9), "C": variant(0.945)}, "seeds": {"from": 3, "to": 8}}


def finished(root: Path) -> dict[str, list[int]]:
    """Return the seeds that were trained, by variant."""
    found: dict[str, list[int]] = {}
    for path in sorted(root.glob("small-study/*/seed-*/summary.json")):
        found.setdefault(path.parts[-3], []).append(int(path.parts[-2].removeprefix("seed-")))
    return found


def looks(root: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (root / "small-study" / "looks.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_a_study_trains_losers_no_more_and_ends_when_it_is_settled(
    write_study: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "runs"
    report = compare(write_study(**GROWING), root, program=FAKE_PROGRAM)
    trained, log = finished(root), looks(root)
    assert trained["b"] == [1, 2, 3]  # five points behind: given up at the first look
    assert len(trained["a"]) == len(trained["c"]) > 3
    assert [look["look"] for look in log] == list(range(1, len(log) + 1))
    assert {look["of"] for look in log} == {6}
    assert {variant["seeds"] for variant in log[0]["variants"]} == {3}
    assert log[0]["stop"] is None
    assert log[-1]["stop"] in {"decided", "hopeless", "out of budget"}
    assert f"Look 1 of at most 6: {log[0]['headline']}" in capsys.readouterr().out
    assert log[-1]["headline"] in report.read_text()

    compare(write_study(**GROWING), root, program=FAKE_PROGRAM)  # trains nothing, and sees nothing new
    assert finished(root) == trained
    assert looks(root) == log
    again, _ = results_of(write_study(**GROWING), root)
    assert again.verdict.watch.stop == log[-1]["stop"]
    assert verdict(again).startswith(log[-1]["headline"])  # which leaves out that pixels are ahead


@pytest.mark.slow
def test_two_files_of_one_name_do_not_share_a_folder(write_study: Write, tmp_path: Path) -> None:
    first = write_study(seeds=[1, 2])
    compare(first, tmp_path, program=FAKE_PROGRAM)
    copy = Path(shutil.copy(first, tmp_path / "copy.yaml"))
    before = sorted(tmp_path.glob("small-study/**/config.yaml"))
    other = write_study(variants={"ViT": variant(0.7), "CNN": variant(0.8)}).rename(tmp_path / "other.yaml")
    with pytest.raises(ValueError, match=r"(?s)belongs to another study.*study\.yaml, with ViT, Swin and Swin v2"):
        compare(other, tmp_path, program=FAKE_PROGRAM)
    assert sorted(tmp_path.glob("small-study/**/config.yaml")) == before

    longer = yaml.safe_load(copy.read_text())
    longer["seeds"], longer["variants"]["CNN"] = [1, 2, 3], variant(0.8)
    copy.write_text(yaml.safe_dump(longer))
    compare(copy, tmp_path, program=FAKE_PROGRAM)
    assert len([*tmp_path.glob("small-study/*/seed-*/config.yaml")]) == 12


def test_a_second_compare_of_a_study_is_refused_with_the_process_that_runs_it(
    write_study: Write, tmp_path: Path
) -> None:
    study = write_study()
    with locked_by_another_process(tmp_path / "small-study") as process:
        with pytest.raises(ValueError, match="is being written by process") as refused:
            compare(study, tmp_path, program=FAKE_PROGRAM)
        read, _ = results_of(study, tmp_path)  # reading goes on
        assert read.finished == []
    first, remedy = str(refused.value).splitlines()
    assert str(process.pid) in first
    assert remedy == "Wait for it, stop it, or give this study another `name`."
    assert not list(tmp_path.glob("small-study/*/seed-*"))


@contextmanager
def locked_by_another_process(folder: Path) -> Iterator["subprocess.Popen[str]"]:
    hold = "import sys; from pathlib import Path; from vitlab.runs.lock import run_lock\n"
    hold += "with run_lock(Path(sys.argv[1])): print('locked', flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", hold, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "locked\n"
        yield process
        assert process.stdin is not None
        process.stdin.close()


@pytest.mark.slow(edge=True)
def test_a_look_that_was_interrupted_counts_its_finished_runs_once(write_study: Write, tmp_path: Path) -> None:
    study = {"variants": {"A": variant(0.95), "B": variant(0.945)}, "seeds": {"from": 3, "to": 4}}
    compare(write_study(**study), tmp_path, program=FAKE_PROGRAM)
    whole = (tmp_path / "small-study/results.csv").read_text()
    shutil.rmtree(tmp_path / "small-study/b/seed-4")  # of the second look, in which A has finished
    compare(write_study(**study), tmp_path, program=FAKE_PROGRAM)
    rows = (tmp_path / "small-study/results.csv").read_text().splitlines()
    assert [row.split(",")[:2] for row in rows] == [row.split(",")[:2] for row in whole.splitlines()]
    assert [each["seeds"] for each in looks(tmp_path)[-1]["variants"]] == [4, 4]


def test_a_failed_run_delays_no_look(write_study: Write, tmp_path: Path) -> None:
    variants = {"A": variant(0.95, fail=[2]), "B": variant(0.9)}
    with pytest.raises(RunsFailed):
        compare(write_study(variants=variants, seeds={"from": 3, "to": 8}), tmp_path, program=FAKE_PROGRAM)
    (look,) = looks(tmp_path)
    assert {variant["variant"]: variant["seeds"] for variant in look["variants"]} == {"A": 2, "B": 3}
    assert list(look["failures"]) == ["A, seed 2"]
    results, _ = results_of(write_study(variants=variants, seeds={"from": 3, "to": 8}), tmp_path)
    assert len(results.verdict.watch.looks) == 1
    assert [str(run) for run, _ in results.failures] == ["A, seed 2"]


@pytest.mark.slow(edge=True)
def test_equal_variants_end_within_the_margin(write_study: Write, tmp_path: Path) -> None:
    variants = {"A": variant(0.95), "B": variant(0.951)}
    report = compare(
        write_study(variants=variants, seeds={"from": 4, "to": 12}, margin=2.5), tmp_path, program=FAKE_PROGRAM
    )
    assert looks(tmp_path)[-1]["stop"] == "equal"
    assert "Equal to within 2.5 points: " in report.read_text().replace("\u00a0", " ")


@pytest.mark.slow(edge=True)
def test_a_list_that_is_extended_after_a_report_is_tested_at_a_stricter_level(
    write_study: Write, tmp_path: Path
) -> None:
    variants = {"A": variant(0.95), "B": variant(0.94)}
    compare(write_study(variants=variants, seeds=[1, 2, 3]), tmp_path, program=FAKE_PROGRAM)
    first, _ = results_of(write_study(variants=variants, seeds=[1, 2, 3]), tmp_path)
    assert first.verdict.level == 0.05
    compare(write_study(variants=variants, seeds=[1, 2, 3, 4, 5]), tmp_path, program=FAKE_PROGRAM)
    extended, _ = results_of(write_study(variants=variants, seeds=[1, 2, 3, 4, 5]), tmp_path)
    assert extended.earlier_plans == (3,)
    assert 0.01 < extended.verdict.level < 0.02
    assert [look["of"] for look in looks(tmp_path)] == [1, 2]
    (remark,) = [line for line in remarks(extended) if "extended" in line]
    assert "3 to 5 seeds" in remark.replace("\u00a0", " ")


def test_finished_runs_of_what_a_growing_study_was_are_refused(write_study: Write, tmp_path: Path) -> None:
    """A budget in images decides the runs later than the file; the study has ended, so that nothing is trained."""
    keys: dict[str, Any] = {"seeds": {"from": 3, "to": 4}, "budget": {"images": 3600}}
    compare(write_study(variants={"A": variant(0.95), "B": variant(0.8)}, **keys), tmp_path, program=FAKE_PROGRAM)
    changed = write_study(variants={"A": variant(0.95), "B": variant(0.81)}, **keys)
    with pytest.raises(ValueError, match="a run of 'B' with another configuration"):
        compare(changed, tmp_path, program=FAKE_PROGRAM)


# From Python


def test_a_study_in_python_trains_what_is_missing_and_reads_what_is_there(write_study: Write, tmp_path: Path) -> None:
    study = vitlab.Study(write_study(seeds=[1, 2]), tmp_path)
    with pytest.raises(FileNotFoundError, match=r"There is no /.*small-study\. Call run\(\), or give `root`"):
        study.results()
    assert not list(study.folder.glob("*/seed-*"))

    results = study.run()
    assert results.sentence in (study.folder / "report.html").read_text()
    assert results.sentence == verdict(results.details)
    assert results._repr_html_().count("<tr") == 1 + len(results.ranking)
    scores = [result.score.mean for result in results.ranking]
    assert scores == sorted(scores, reverse=True)
    assert len(results.pairs) == len(scores) * (len(scores) - 1) // 2

    trained = {path: path.stat().st_mtime_ns for path in study.folder.glob("*/seed-*/summary.json")}
    assert study.results().sentence == study.run().sentence == results.sentence
    assert trained == {path: path.stat().st_mtime_ns for path in study.folder.glob("*/seed-*/summary.json")}


def test_a_study_along_an_axis_is_refused_before_it_trains(write_study: Write, tmp_path: Path) -> None:
    along = write_study(along={"epochs": [1, 2]}, budget=None)
    with pytest.raises(ValueError, match="verdict at each place; use `python -m vitlab compare`"):
        vitlab.Study(along, tmp_path)


def test_a_study_may_be_a_mapping_of_the_keys_of_its_file(write_study: Write, tmp_path: Path) -> None:
    file = write_study(seeds=[1, 2], question="Is <b> best?")
    content = load_yaml(file) | {"base": file.parent / "base.yaml"}
    study = vitlab.Study(content, tmp_path / "runs")
    assert study.folder == tmp_path / "runs/small-study"
    shown = study._repr_html_()
    assert "Is &lt;b&gt; best?" in shown
    assert [shown.count(f"<td>{name}</td>") for name in content["variants"]] == [3, 3, 3]
    sentence = study.run().sentence
    assert vitlab.Study(content, tmp_path / "runs").results().sentence == sentence
    assert vitlab.Study(study.path, tmp_path / "runs").results().sentence == sentence
    assert vitlab.Study(file, tmp_path / "other").run().sentence == sentence
    with pytest.raises(ValueError, match="needs a `name`"):
        vitlab.Study({key: value for key, value in content.items() if key != "name"}, tmp_path)
