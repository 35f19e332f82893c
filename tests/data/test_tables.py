"""Tables of photographs: every layout gives the data set of the same folder, and what is wrong is named."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from tests.data.conftest import PhotoFolder
from vitlab.data import ImageFolder, LabelTable, PhotoAugment
from vitlab.data.tables import find_groups, matched
from vitlab.deployment.predict import Pictures


def _data(**settings: object) -> ImageFolder:
    shared: dict = {"image_size": 16, "batch_size": 6, "num_workers": 0}
    return ImageFolder(augment=PhotoAugment(rand_augment=None), **(shared | settings))


@pytest.fixture
def folder(photo_folder: PhotoFolder) -> Path:
    return photo_folder({f"{split}/{name}": 8 for split in ("train", "val", "test") for name in ("bee", "ant")})


def _rows(folder: Path) -> pd.DataFrame:
    files = sorted(path.relative_to(folder) for path in folder.glob("*/*/*.jpg"))
    parts = [file.parts for file in files]
    return pd.DataFrame({"split": [p[0] for p in parts], "file": list(map(str, files)), "label": [p[1] for p in parts]})


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("commas.csv", lambda rows, path: rows.to_csv(path, index=False)),
        ("semicolons_and_bom.csv", lambda rows, path: rows.to_csv(path, sep=";", encoding="utf-8-sig")),
        ("tabs.tsv", lambda rows, path: rows.rename(columns=str.upper).to_csv(path, sep="\t", index=False)),
        (
            "a.parquet",
            lambda rows, path: rows.rename(columns={"file": "Image Path", "label": "species"}).to_parquet(path),
        ),
        ("no_suffix.csv", lambda rows, path: rows.assign(file=rows.file.str[:-4]).to_csv(path, index=False)),
        ("own.csv", lambda rows, path: rows.rename(columns={"file": "who", "label": "what"}).to_csv(path, index=False)),
    ],
)
def test_a_table_gives_the_batches_of_the_same_folder(folder: Path, name: str, write: Callable) -> None:
    table = folder.parent / name
    write(_rows(folder), table)
    columns = {"file": "who", "label": "what"} if name == "own.csv" else None
    of_files, of_table = _data(root=str(folder)), _data(table=str(table), root=str(folder), columns=columns)
    assert of_table.class_names == ["ant", "bee"]
    assert of_table.facts() == of_files.facts()
    (expected, classes), names = of_files.training_batch(1, 1, torch.device("cpu"))
    (images, labels), own = of_table.training_batch(1, 1, torch.device("cpu"))
    assert (torch.equal(images[0], expected[0]), torch.equal(labels, classes), own) == (True, True, names)
    (folder.parent / "elsewhere").mkdir()  # the root that an experiment happens to name
    beside = LabelTable(str(table), str(folder.parent / "elsewhere"), columns)
    assert {f"{folder.name}/{file}" for file in of_table.image_names("val")} == set(beside.splits["val"][0])
    if columns is None:
        assert sorted(map(str, Pictures([table]).files)) == sorted(map(str, folder.glob("*/*/*.jpg")))


def _table(place: Path, text: str, files: str = "x.png y.png") -> str:
    for file in files.split():
        (place / file).parent.mkdir(exist_ok=True)
        (place / file).touch()
    (place / "labels.csv").write_text(text, encoding="utf-8", newline="")
    return str(place / "labels.csv")


@pytest.mark.parametrize(
    ("text", "names", "labels"),
    [
        ("file,label\nx.png,10\ny.png,9\n", ["9", "10"], [1, 0]),
        ("file,label\nx.png,True\ny.png,False\n", ["False", "True"], [1, 0]),
        ("x.png  1.0     mono\ny.png  0.5     poly\n", ["label"], [[1], [0.5]]),  # no header, and spaces
        ('"x.png";cat;A\n"y.png";dog;B\n', ["cat", "dog"], [0, 1]),
        ("image ID,class label\nx.png,2\ny.png,1\nx.png,2\n", ["1", "2"], [1, 0]),  # a row is there twice
        ("file,label\nx.png,cat|dog\ny.png,dog\n", ["cat", "dog"], [[1, 1], [0, 1]]),
        ("file,label\nx.png,0.5\ny.png,2\n", ["label"], [[0.5], [2]]),
        ("file,001,NA\nx.png,1,1e1\ny.png,0,TRUE\n", ["001", "NA"], [[1, 10], [0, 1]]),
        ("File\ta \tSplit\r\nx.png\t 2 \t Training \r\n", ["a"], [[2]]),
        (",file,a\n4,x.png,1\n9,y.png,2\n", ["a"], [[1], [2]]),  # what a choice of rows leaves of the index
        ("file,weight,Unnamed: 0\nx.png,1,7\n", ["weight"], [[1]]),
        ("index,file,a\n0,x.png,1\n7,y.png,2\n", ["index", "a"], [[0, 1], [7, 2]]),
    ],
)
def test_labels_are_classes_several_labels_or_quantities(
    tmp_path: Path, text: str, names: list[str], labels: list
) -> None:
    source = LabelTable(_table(tmp_path, text))
    assert source.class_names == names
    assert source.splits["train"][1].tolist() == labels
    assert source.splits["train"][1].dtype == (np.int64 if isinstance(labels[0], int) else np.float32)


def test_columns_with_other_roles_are_no_labels(tmp_path: Path) -> None:
    text = "filename,age,Patient ID,species\nx.png,3,7,cat\ny.png,4,8,dog\n"
    source = LabelTable(_table(tmp_path, text))
    assert (source.class_names, source.grouping) == (["cat", "dog"], f"{tmp_path}/labels.csv:Patient ID")
    assert source.notes[0].endswith("filename (file), Patient ID (group), species (label); not used: age.")
    both = LabelTable(source.location, columns={"label": ["age", "Patient ID"]})
    assert both.splits["train"][1].tolist() == [[3, 7], [4, 8]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,a\nx.png,many", "line 2: a is many; give a number"),
        ("file,a\n\nx.png,1\n,\ny.png,NA\n", "line 5: a is NA; give a number"),
        ("file,a\nx.png,1,2", r"labels.csv: .*Expected 2 fields in line 2, saw 3. Its first line is: file,a"),
        ("file,a,a\nx.png,1,2", "labels.csv has the column a twice"),
        ("index,file\n0,x.png", "no column of labels; it has index, file"),
        ("file,a\nx.png,1\n,1", "line 3: file is empty; give a picture"),
        ("file,a\nx.png,1\ny.png,1\nx.png,0", "line 4: file x.png is there twice"),
        ("who,a\nx.png,1", "no column file; it has who, a. Call it so, or name it by data.columns.file"),
        ("file,class,split\nx.png,cat,train\ny.png,cow,val", "val split has classes without a training image: cow"),
        ("file,a\nz.png,1\n", r"labels.csv: .* has no z.png, nor another of its files, or several .*Give data.root"),
        ("file,a,split\nx.png,1,foo", "split is foo; give train, val or test"),
        ("file,a,split\nx.png,1,test", "split is never train"),
    ],
)
def test_a_table_that_cannot_be_one_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LabelTable(_table(tmp_path, text))


def test_a_file_that_is_no_table_of_the_data_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"There is no table {tmp_path}/none.csv"):
        LabelTable(f"{tmp_path}/none.csv")
    with pytest.raises(
        ValueError, match=r"no column kind; it has file, a. Call it so, or name it by data.columns.label"
    ):
        LabelTable(_table(tmp_path, "file,a\nx.png,1"), columns={"label": "kind"})
    (tmp_path / "labels.csv").write_text("file,h\u00fcndin\nx.png,1\n", encoding="latin-1")
    with pytest.raises(ValueError, match=r"labels.csv is not in UTF-8: file,h\\xfcndin\n"):
        LabelTable(f"{tmp_path}/labels.csv")


def test_files_are_matched_by_as_much_of_their_end_as_tells_them_apart() -> None:
    there = ["a/1.jpg", "b/1.jpg", "b/2.png", "b/2x.png", "caf\u00e9/3.png", "b/004.png"]
    wanted = ["a\\1.jpg", "./a/1", "1.jpg", "2", "2x.png", "cafe\u0301/3", "c/2.png", "4", "0004"]
    found = ["a/1.jpg", "a/1.jpg", None, "b/2.png", "b/2x.png", "caf\u00e9/3.png", None, "b/004.png", None]
    assert matched(wanted, there) == found


def test_masks_beside_the_photographs_are_left_out(tmp_path: Path) -> None:
    table = _table(tmp_path, "id,class\n1,cat\n2,dog\n", "001.bmp 001.png 002.bmp 002.png")
    with pytest.raises(ValueError, match=r"several of each name. Give data.root, or data.only where masks lie beside"):
        LabelTable(table, columns={"file": "id"})
    source = LabelTable(table, columns={"file": "id"}, only=r"\.bmp$")
    assert source.splits["train"][0] == ["001.bmp", "002.bmp"]


def test_a_table_is_read_once_for_data_and_groups_and_again_when_it_changes(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table, opened = folder.parent / "photos.csv", []
    _rows(folder).drop(columns="split").assign(patient=[f"p{row // 4}" for row in range(48)]).to_csv(table, index=False)
    read = pd.read_csv
    monkeypatch.setattr(pd, "read_csv", lambda *given, **how: opened.append(given) or read(*given, **how))
    data = _data(table=str(table), root=str(folder))
    groups = [{find_groups(f"{table}:patient", [name])[0] for name in data.image_names(s)} for s in ("train", "test")]
    assert not groups[0] & groups[1]
    assert len(opened) == 1
    table.write_text(table.read_text().replace("p0", "p1"))
    os.utime(table, ns=(0, 0))
    assert find_groups(f"{table}:patient", data.image_names("train"))
    assert len(opened) == 2
