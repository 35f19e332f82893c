"""Each tool's files, written here in its format: what the tool calls an item, a label and a repetition is found."""

import json
import re
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from referee.outcomes import Reading
from referee.sources import read

from referee import judge


def write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")


def scored(*files: Path) -> None:
    for file in files:
        write(file, "item,correct\na,1\nb,0\n")


def lines(*records: dict) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


def test_timm_infers_one_file_a_model(tmp_path: Path) -> None:
    write(tmp_path / "vit.csv", "filename,index,prob\nval/cat/1.png,0,0.9\nval/dog/2.png,0,0.8\n")
    write(tmp_path / "swin.csv", "filename,label,prob\nval/cat/1.png,cat,0.9\nval/dog/2.png,dog,0.8\n")
    table = read([tmp_path])
    outcomes = {run.variant: run.outcomes.tolist() for run in table.runs}
    assert outcomes == {"swin": [True, True], "vit": [True, False]}
    assert table.runs[0].labels is not None
    assert table.runs[0].labels.tolist() == ["cat", "dog"]
    write(tmp_path / "vit.csv", "filename,index,prob\nval/cat/1.png,0,0.9\nval/dog/2.png,281,0.8\n")
    with pytest.raises(ValueError, match=r"of 2 classes and it predicts class 281.*--label-type name"):
        read([tmp_path / "vit.csv"])


def test_timm_describes_classes_by_default(tmp_path: Path) -> None:
    """The columns are those of --results-separate-col --topk 2, and without it of the default."""
    named = "filename,label_0,label_1,prob_0,prob_1\nn01440764/1.png,n01440764,n01443537,0.9,0.1\n"
    write(tmp_path / "named.csv", named)
    assert read([tmp_path / "named.csv"]).runs[0].outcomes.tolist() == [True]
    write(tmp_path / "described.csv", 'filename,label,prob\nn01440764/1.png,"tench, Tinca tinca",0.9\n')
    with pytest.raises(ValueError, match=r"no predicted class that is the folder of an image\. Use --fullname and"):
        read([tmp_path / "described.csv"])


def test_lm_eval_samples(tmp_path: Path) -> None:
    def sample(item: int, score: float, kind: str) -> dict:
        return {"doc_id": item, "doc": {}, "target": "3", "resps": [["3"]], "filtered_resps": ["3"], "filter": kind,
                "metrics": ["exact_match"], "doc_hash": f"h{item}", "exact_match": score}  # fmt: skip

    for model, right in (("org__small", 0.0), ("org__large", 1.0)):
        first = [sample(0, 1.0, "strict"), sample(1, right, "strict"), sample(2, 1.0, "strict") | {"doc_hash": "h1"}]
        text = lines(*first, sample(0, 0.0, "flexible"), sample(1, 0.0, "flexible"))
        write(tmp_path / model / "samples_gsm8k_2026-01-21T03-44-18.jsonl", text)
    table = read([tmp_path])
    assert table.variants == ["org/large", "org/small"]
    assert table.runs[1].outcomes.tolist() == [True, False, True]
    assert table.runs[1].items.tolist() == ["gsm8k/h0", "gsm8k/h1/1", "gsm8k/h1/2"]  # of one text, by number
    assert "filter strict: the first of strict, flexible." in table.notes


def test_lm_eval_samples_may_have_long_prompts_and_one_of_several_metrics(tmp_path: Path) -> None:
    """The order of the keys is that of --log_samples: the answers come after the document."""
    sample = {"doc_id": 0, "doc": {"text": "x" * 5_000}, "resps": [["3"]], "filtered_resps": ["3"], "acc_norm": 1.0}
    file = tmp_path / "m" / "samples_aime_2024_2026-01-21T03-44-18.jsonl"
    write(file, lines(sample))
    (run,) = read([file], Reading(metric="acc_norm")).runs
    assert (run.variant, run.seed) == ("m", "2026-01-21T03-44-18")
    write(file, lines({**sample, "acc": 0.0, "metrics": ["acc", "acc_norm"]}))
    assert [read([file], Reading(metric)).runs[0].outcomes.tolist() for metric in (None, "acc_norm")] == [
        [False],
        [True],
    ]
    with pytest.raises(ValueError, match=r"it has no score acc_nrm\. Give one as --metric: acc, acc_norm$"):
        read([file], Reading(metric="acc_nrm"))


@pytest.mark.parametrize("archived", [False, True])
def test_an_epoch_of_inspect_is_a_seed(tmp_path: Path, archived: bool) -> None:
    samples = [
        {"id": item, "epoch": epoch, "scores": {"choice": {"value": "C" if item else "I"}}}
        for epoch in (1, 2)
        for item in (0, 1)
    ]
    head = {"eval": {"task": "arc", "model": "org/model"}}
    if archived:
        with zipfile.ZipFile(tmp_path / "log.eval", "w") as archive:
            archive.writestr("header.json", json.dumps(head))
            for number, sample in enumerate(samples):
                archive.writestr(f"samples/{number}.json", json.dumps(sample))
    else:
        write(tmp_path / "log.json", json.dumps({"version": 2, **head, "samples": samples}))
    table = read([tmp_path])
    assert [(run.variant, run.seed) for run in table.runs] == [("org/model", "1"), ("org/model", "2")]
    assert table.runs[0].outcomes.tolist() == [False, True]


def test_a_sample_of_inspect_that_failed_has_no_score(tmp_path: Path) -> None:
    samples = [
        {"id": 1, "epoch": epoch} | ({"scores": {"a": {"value": "C"}, "b": {"value": "I"}}} if epoch == 2 else {})
        for epoch in (1, 2)
    ]
    write(tmp_path / "log.json", json.dumps({"eval": {"task": "arc", "model": "m"}, "samples": samples}))
    for metric, right in ((None, True), ("b", False)):
        failed, known = read([tmp_path], Reading(metric=metric)).runs
        assert (failed.has_result, known.outcomes.tolist()) == (False, [right])
    with pytest.raises(ValueError, match=r"it has no scorer c\. Give one as --metric: a, b"):
        read([tmp_path], Reading(metric="c"))


@pytest.mark.parametrize(("losses", "last"), [(("3e-5", "nan"), None), (("nan", "3e-5"), 3e-5)])
def test_a_run_that_diverged_has_a_best_loss_and_no_last(
    tmp_path: Path, losses: tuple[str, str], last: float | None
) -> None:
    """By the expression that the README has."""
    readme = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    (pattern,) = re.findall(r"--read '(\S+)'", readme)
    write(tmp_path / "a.txt", "".join(f"val_loss:{loss}\n" for loss in losses))
    (run,) = read([tmp_path], Reading(lower=True, pattern=pattern)).runs
    assert run.outcomes.tolist() == [last] if last else not run.has_result
    assert read([tmp_path], Reading(lower=True, pattern=pattern, pick="best")).runs[0].outcomes.tolist() == [3e-5]


@pytest.mark.parametrize(
    ("files", "runs"),
    [("vit/seed-3/p swin/seed-3/p", "vit 3 swin 3"), ("vit/3 swin/3", "vit 3 swin 3"), ("a-seed3 b-seed3", "a 3 b 3"),
     ("vit_b16 swin_b16", "vit_b16 1 swin_b16 1"), ("lr0.1 lr0.2", "lr0.1 1 lr0.2 1"), ("vit/p a/p", "vit 1 a 1"),
     ("vit/eval/p swin/eval/p", "vit 1 swin 1"), ("lr.0.1/p lr.0.2/p", "lr.0.1 1 lr.0.2 1"),
     ("vit/seed-1/eval/p vit/seed-2/eval/p", "vit 1 vit 2")],
)  # fmt: skip
def test_a_path_says_which_run_a_file_is(tmp_path: Path, files: str, runs: str) -> None:
    scored(*(tmp_path / f"{file}.csv" for file in files.split()))
    table = read([tmp_path])
    assert {f"{run.variant} {run.seed}" for run in table.runs} == {*re.findall(r"\S+ \S+", runs)}
    assert any("from the paths" in note for note in table.notes)  # nothing is taken silently


def test_an_array_is_a_run_on_its_items_or_the_seeds_of_a_variant(tmp_path: Path) -> None:
    for kind, names, values in (("items", ["vit-seed1", "vit-seed2"], [1, 0, 1]), ("seeds", ["vit"], [0.5, 0.25])):
        (tmp_path / kind).mkdir()
        for name in names:
            np.save(tmp_path / kind / name, values)
    runs = [run for kind in ("items", "seeds") for run in read([tmp_path / kind]).runs]
    found = [(run.variant, run.seed, run.outcomes.tolist()) for run in runs]
    right = [True, False, True]
    assert found == [("vit", "1", right), ("vit", "2", right), ("vit", "1", [0.5]), ("vit", "2", [0.25])]


def test_files_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for seed in (1, 2, 10, 11):
        write(tmp_path / f"vit/seed-{seed}.csv", "score\n0.5\n")
    alone = [tmp_path / f"vit/seed-{seed}.csv" for seed in (1, 10, 11, 2)]  # as a shell lists vit/*
    for places in ([tmp_path], [f"{tmp_path}/{{variant}}/seed-{{seed}}.csv"], alone):
        assert [run.seed for run in read(places).runs] == ["1", "2", "10", "11"]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [("a.jsonl", '{"item": "a", "corr', ""), ("a.eval", "x", "File is not a zip file"),
     ("b.bin", "x", r"no format is known for \.bin"), ("a.csv", "item,score,score\nx,1,2\n", "Two columns have"),
     ("a.csv", "vit,1,0.81\nvit,2,0.83\n", r"its first line has no names of columns, but 0\.81\. Put")],
)  # fmt: skip
def test_a_file_that_is_damaged_or_hides_something_is_refused(
    tmp_path: Path, name: str, content: str, words: str
) -> None:
    write(tmp_path / name, content)
    with pytest.raises(ValueError, match=rf"{name} cannot be read: .*{words}"):
        read([tmp_path / name])


def test_a_line_of_json_may_hold_what_ends_a_line_elsewhere(tmp_path: Path) -> None:
    """JSON allows U+2028 and U+0085 in a text; `str.splitlines` would end the line there."""
    rows = [{"item": f"{i}\u2028\u0085", "correct": i % 2} for i in range(4)]
    lines = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    for name, text in (("run-1.jsonl", lines), ("run-2.jsonl", lines + "\n \n")):
        (tmp_path / name).write_text(text, encoding="utf-8")
        assert read([tmp_path / name]).runs[0].outcomes.tolist() == [False, True, False, True]


CLASSES = ["001", "NA", "1e3", "None", "TRUE", "1.10"]
ROWS = [
    {"variant": v, "seed": s, "item": f"{i}e400", "label": CLASSES[i % 6], "prediction": CLASSES[(i + i % k) % 6]}
    for v, k in (("0010", 2), ("NA", 3))
    for s in ("1", "01")
    for i in range(60)
]


@pytest.mark.parametrize("name", ["t.csv", "t.CSV", "t.tsv", "t.json", "t.jsonl", "t.parquet", "t.feather", "t.xlsx",
                                  "mark.csv", "semicolon.csv", "utf16.tsv", "index.csv"])  # fmt: skip
def test_one_rule_reads_every_format(tmp_path: Path, name: str) -> None:
    """Rows whose names all look like numbers, truth values or nothing."""
    frame, file = pd.DataFrame(ROWS), tmp_path / name
    match name.lower().split("."):
        case _, "json" | "jsonl" as suffix:
            frame.to_json(file, orient="records", lines=suffix == "jsonl")
        case _, "parquet" | "feather" as suffix:
            getattr(frame, f"to_{suffix}")(file)
        case _, "xlsx":
            pytest.importorskip("openpyxl")
            frame.to_excel(file, index=False)
        case stem, suffix:
            encoding = {"mark": "utf-8-sig", "utf16": "utf-16"}.get(stem, "utf-8")
            separator = ";" if stem == "semicolon" else "\t" if suffix == "tsv" else ","
            frame.to_csv(file, sep=separator, encoding=encoding, index=stem == "index")
    outcomes = read([file])
    assert outcomes.variants == ["0010", "NA"]
    for run in outcomes.runs:
        rows = [row for row in ROWS if (row["variant"], row["seed"]) == (run.variant, run.seed)]
        assert dict(zip(run.items, run.outcomes, strict=True)) == {
            row["item"]: row["label"] == row["prediction"] for row in rows
        }


def test_latin_1_is_read_and_names_the_columns_that_are_there(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes("Modell;Gr\u00f6\u00dfe\nViT;1\n".encode("latin-1"))
    with pytest.raises(ValueError, match="1\u00a0row of Modell, Gr\u00f6\u00dfe"):
        read([tmp_path / "t.csv"])


@pytest.mark.parametrize("place", ["", "{variant}.csv"])
def test_hidden_and_system_files_are_left_out_and_counted(tmp_path: Path, place: str) -> None:
    hidden = [".ipynb_checkpoints/vit-checkpoint.csv", "@eaDir/vit.csv", "$RECYCLE.BIN/vit.csv", "__MACOSX/._vit.csv",
              "System Volume Information/x.csv", "#recycle/x.csv", ".Trash-1000/x.csv", "Thumbs.db", ".DS_Store",
              "desktop.ini"]  # fmt: skip
    scored(tmp_path / "vit.csv", tmp_path / "swin.csv", *(tmp_path / each for each in hidden))
    for name in ("README.md", "curve.png"):
        write(tmp_path / name, "x")
    outcomes = read([tmp_path / place])
    assert outcomes.variants == ["swin", "vit"]
    assert ("10\u00a0hidden or system files left out." in outcomes.notes) == (place == "")
    assert ("no results, and left out: README.md, curve.png." in outcomes.notes) == (place == "")
    for name in ("swin.csv", "vit.csv"):
        (tmp_path / name).unlink()
    with pytest.raises(FileNotFoundError):
        read([tmp_path / place])


def test_two_files_of_one_run_are_refused_with_both(tmp_path: Path) -> None:
    scored(tmp_path / "vit/1.csv", tmp_path / "vit/2.csv")
    with pytest.raises(
        ValueError, match=r"2\.csv, row 0 is a second one of vit, seed 1, beside .*1\.csv\. Name the seed in"
    ):
        read([f"{tmp_path}/{{variant}}/*.csv"])


def test_a_place_may_begin_at_home_or_at_a_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scored(tmp_path / "results" / "vit.csv")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PLACE", str(tmp_path))
    for place in ("~/results", "$PLACE/results", "~/results/{variant}.csv"):
        assert read([place]).variants == ["vit"]


def test_the_direction_of_a_log_is_that_of_its_expression(tmp_path: Path) -> None:
    write(tmp_path / "a" / "1.txt", "val_loss:0.5 x:3")
    place = [f"{tmp_path}/{{variant}}/{{seed}}.txt"]
    assert read(place, Reading(pattern=r"val_loss:(\S+)")).metric.mode == "min"
    assert read(place, Reading("accuracy", pattern=r"x:(\S+)")).metric.mode == "max"
    with pytest.raises(ValueError, match="is a higher or a lower score better"):
        read(place, Reading(pattern=r"x:(\S+)"))


def test_timm_numbers_classes_in_its_natural_order(tmp_path: Path) -> None:
    """By timm's natural_key: numbers by value, without capitals, so that these are 0, 1 and 2."""
    rows = [f"val/{name}/1.png,{index},0.9\n" for index, name in enumerate(["ant", "Bee2", "bee10"])]
    write(tmp_path / "vit.csv", "filename,index,prob\n" + "".join(rows))
    assert read([tmp_path / "vit.csv"]).runs[0].outcomes.all()


@pytest.mark.parametrize("sign", ["", " %"])
def test_decimal_commas_are_read_where_semicolons_separate(sign: str, tmp_path: Path) -> None:
    """As a European Excel writes; names keep their commas, and other tables say what to write."""
    rows = [(name, seed, 60 + 10 * float(name[0]) + seed / 4) for name in ("0,5", "1,5") for seed in range(1, 5)]
    head = "model;seed;accuracy\n"
    text = head + "".join(f"{m};{s};{f'{y:.2f}'.replace('.', ',')}{sign}\n" for m, s, y in rows)
    (tmp_path / "point.csv").write_text(head + "".join(f"{m};{s};{y:.2f}{sign}\n" for m, s, y in rows))
    (tmp_path / "comma.csv").write_text(text)
    (tmp_path / "tabs.csv").write_text(text.replace(";", "\t"))
    one, other = judge(tmp_path / "point.csv"), judge(tmp_path / "comma.csv")
    assert one.sentence == other.sentence
    assert one.table().equals(other.table())
    assert [variant.name for variant in other.ranking] == ["1,5", "0,5"]
    with pytest.raises(ValueError, match=r"'60,25.*' is not a number.*numbers have a point, like 81\.3"):
        judge(tmp_path / "tabs.csv")
