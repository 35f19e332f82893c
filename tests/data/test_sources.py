"""Data sets of other libraries, compared with the same pictures in a folder."""

import io
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from PIL import Image

from tests.noise import write_shards
from vitlab.data import HuggingFace, ImageFolder, LitData, PhotoAugment, PhotoSource

NAMES = ["ant", "bee", "cat"]
BLACK = np.zeros((8, 8, 3), np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """36 pictures of three classes, in train and val."""
    root = tmp_path_factory.mktemp("photos")
    random = np.random.default_rng(0)
    for split, count in (("train", 8), ("val", 4)):
        for label in NAMES:
            place = root / split / label
            place.mkdir(parents=True)
            for i in range(count):
                pixels = random.integers(0, 256, (20 + i, 24, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(place / f"{i}.jpg", quality=90)
    return root


def _examples(root: Path, split: str) -> list[tuple[bytes, str]]:
    return [(path.read_bytes(), path.parent.name) for path in sorted((root / split).glob("*/*.jpg"))]


def _parquet(root: Path, out: Path) -> PhotoSource:
    import pyarrow as pa
    import pyarrow.parquet as parquet

    for split in ("train", "val"):
        images, labels = zip(*_examples(root, split), strict=True)
        parquet.write_table(pa.table({"image": list(images), "label": list(labels)}), out / f"{split}.parquet")
    files = {"train": str(out / "train.parquet"), "validation": str(out / "val.parquet")}
    return HuggingFace("parquet", data_files=files)


def _stored(root: Path, out: Path) -> PhotoSource:
    """The same files in fsspec's store in memory, as in an object store: there is no local path."""
    import fsspec

    _parquet(root, out)
    for split in ("train", "val"):
        fsspec.filesystem("memory").pipe(f"/{out.name}/{split}.parquet", (out / f"{split}.parquet").read_bytes())
    files = {split: f"memory://{out.name}/{split}.parquet" for split in ("train", "val")}
    with mock.patch("datasets.config.HF_HUB_OFFLINE", False):  # offline, `datasets` opens no address
        return HuggingFace("parquet", data_files=files)


def _saved(root: Path, out: Path) -> PhotoSource:
    import datasets

    features = datasets.Features({"picture": datasets.Image(), "kind": datasets.ClassLabel(names=NAMES)})
    tables = {}
    for split in ("train", "val"):
        rows = [{"picture": {"bytes": data, "path": None}, "kind": label} for data, label in _examples(root, split)]
        tables[split] = datasets.Dataset.from_list(rows, features=features)
    datasets.DatasetDict(tables).save_to_disk(out / "saved")
    return HuggingFace(str(out / "saved"), image="picture", label="kind")


def _shards(root: Path, out: Path) -> PhotoSource:
    import tarfile

    for split in ("train", "val"):
        with tarfile.open(out / f"{split}.tar", "w") as tar:
            for i, (data, label) in enumerate(_examples(root, split)):
                for suffix, content in (("jpg", data), ("cls", str(NAMES.index(label)).encode())):
                    entry = tarfile.TarInfo(f"{i:04}.{suffix}")
                    entry.size = len(content)
                    tar.addfile(entry, io.BytesIO(content))
    files = {"train": str(out / "train.tar"), "val": str(out / "val.tar")}
    return HuggingFace("webdataset", data_files=files, image="jpg", label="cls")


def _lit_data(root: Path, out: Path, scheme: str = "") -> PhotoSource:
    for split in ("train", "val"):
        records = ({"image": data, "label": NAMES.index(label)} for data, label in _examples(root, split))
        write_shards(out / split, records, chunk_size=5)
    return LitData(scheme + str(out / "train"), scheme + str(out / "val"), class_names=NAMES, cache=str(out / "cache"))


def _hub_files(root: Path, out: Path) -> PhotoSource:
    """Parquet files as the Hub has them, read by LitData record by record."""
    import pyarrow as pa
    import pyarrow.parquet as parquet
    from litdata import index_parquet_dataset

    for split in ("train", "val"):
        place = out / split
        place.mkdir()
        images, labels = zip(*_examples(root, split), strict=True)
        column = [{"bytes": image, "path": None} for image in images]
        parquet.write_table(pa.table({"image": column, "label": [*map(NAMES.index, labels)]}), place / "0.parquet")
        index_parquet_dataset(str(place))
    return LitData(str(out / "train"), str(out / "val"), class_names=NAMES)


def _data(**settings: object) -> ImageFolder:
    shared: dict = {"image_size": 16, "batch_size": 6, "num_workers": 0, "test_fraction": None}
    return ImageFolder(augment=PhotoAugment(rand_augment=None), **(shared | settings))


@pytest.mark.parametrize(
    "make", [_parquet, _stored, _saved, _shards, _lit_data, _hub_files], ids=lambda make: make.__name__
)
def test_a_source_gives_the_batches_of_the_same_folder(
    folder: Path, tmp_path: Path, make: Callable[[Path, Path], PhotoSource]
) -> None:
    of_files, of_source = _data(root=str(folder)), _data(source=make(folder, tmp_path))
    assert list(of_source.class_names) == (["0", "1", "2"] if make is _shards else NAMES)
    assert {*of_source.dataset("train").contents()} == {*of_files.dataset("train").contents()}
    for (expected, classes), (images, labels) in zip(
        *(list(data.batches("val", "cpu")) for data in (of_files, of_source)), strict=True
    ):
        assert torch.equal(images[0], expected[0])
        assert torch.equal(labels, classes)
    for number in range(3):
        ((expected, classes), _), ((images, labels), _) = (
            data.training_batch(1, number, torch.device("cpu")) for data in (of_files, of_source)
        )
        assert torch.equal(images[0], expected[0])
        assert torch.equal(labels, classes)


# LitData leaves files open.
@pytest.mark.filterwarnings("ignore:unclosed file", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_chunks_of_an_address_are_fetched_by_workers(folder: Path, tmp_path: Path) -> None:
    """`local:` makes LitData copy chunks as from an object store; the second opening reads no record for its class."""
    _lit_data(folder, tmp_path)
    settings: dict = {"class_names": NAMES, "cache": str(tmp_path / "chunks")}
    for _ in range(2):
        source = LitData(f"local:{tmp_path}/train", f"local:{tmp_path}/val", **settings)
        data = _data(source=source, num_workers=2)
        labels = torch.cat([labels for _, labels in data.batches("val", "cpu")])
        assert labels.tolist() == [k for k in range(3) for _ in range(4)]
    assert source.blocks(["train/0", "train/4", "train/5", "train/23"]).tolist() == [0, 0, 1, 4]  # type: ignore[union-attr]
    blocks = source.blocks(["val/0", "train/23", "val/4", "val/11", "train/0"])  # of folds, which part both
    assert len(set(blocks.tolist())) == 4  # type: ignore[union-attr]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # LitData leaves its chunks open
@pytest.mark.parametrize("scheme", ["", "local:"], ids=["folder", "address"])
def test_text_labels_keep_their_names_and_shards_written_anew_are_read_anew(tmp_path: Path, scheme: str) -> None:
    # Of an address, LitData fetches the new chunks by itself: old labels would go with new pixels.

    def labels(order: list[str]) -> list[str]:
        shutil.rmtree(tmp_path / "train", ignore_errors=True)
        write_shards(tmp_path / "train", ({"image": BLACK, "label": label} for label in order))
        source = LitData(f"{scheme}{tmp_path}/train", class_names=["dog", "cat"], cache=str(tmp_path / "chunks"))
        return [source.class_names[k] for k in source.splits["train"][1]]

    assert labels(["cat", "dog", "dog", "cat"]) == ["cat", "dog", "dog", "cat"]
    assert labels(["dog", "dog", "cat", "cat"]) == ["dog", "dog", "cat", "cat"]
    with pytest.raises(ValueError, match=r"class_names is \['dog', 'cat'\], but .* has the classes \['cat', 'owl'\]"):
        labels(["cat", "owl"])


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # LitData leaves its chunks open
@pytest.mark.parametrize("label", [1.5, float("nan")], ids=str)
def test_a_class_that_is_no_whole_number_is_refused(tmp_path: Path, label: float) -> None:
    # Quantities were cut down to the whole numbers below them, which are classes.
    def write(place: Path, labels: list[float]) -> str:
        return write_shards(place, ({"image": BLACK, "kind": each} for each in labels))

    assert LitData(write(tmp_path / "whole", [1.0, 3.0]), label="kind").splits["train"][1].tolist() == [0, 1]
    with pytest.raises(ValueError, match=rf"Record 1 of .*/wrong: kind is {label}; classes are whole numbers"):
        LitData(write(tmp_path / "wrong", [1.0, label]), label="kind")


def test_examples_without_an_image_are_left_out_if_asked(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as parquet

    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (8, 8, 3), dtype=np.uint8)).save(file, "PNG")
    whole = {"bytes": file.getvalue(), "path": None}
    lost = {"bytes": None, "path": str(tmp_path / "lost.png")}
    nothing = {"bytes": None, "path": None}
    images = pa.array([whole, None, lost, whole, nothing], pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
    parquet.write_table(pa.table({"image": images, "label": [0, 0, 1, 1, 0]}), tmp_path / "train.parquet")
    broken = HuggingFace("parquet", data_files=str(tmp_path / "train.parquet")).check().broken
    assert "No such file" in broken.pop("train/2")
    assert broken == dict.fromkeys(("train/1", "train/4"), "there is no image")


def test_a_table_names_files_of_its_own_folder_alone(tmp_path: Path) -> None:
    """A pipe would wait forever, a device be read until memory ends, and other pictures are nobody's business."""
    import pyarrow as pa
    import pyarrow.parquet as parquet

    own = tmp_path / "set"
    (own / "img").mkdir(parents=True)
    for place in (own / "img", tmp_path):
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(place / "a.png")
    os.mkfifo(own / "pipe.png")
    (own / "link.png").symlink_to(tmp_path / "a.png")
    (own / "device.png").symlink_to("/dev/zero")
    right = ["img/a.png", str(own / "img/a.png")]
    outside = [str(tmp_path / "a.png"), "../a.png", "link.png", "device.png", "/dev/zero"]
    paths = [*right, *outside, "pipe.png", "img"]
    images = pa.array([{"bytes": None, "path": path} for path in paths])
    parquet.write_table(pa.table({"image": images, "label": [0] * len(paths)}), own / "train.parquet")
    for source in (HuggingFace("parquet", data_files=str(own / "train.parquet")), HuggingFace(str(own))):
        broken = source.check().broken
        assert list(broken) == [f"train/{row}" for row in range(len(right), len(paths))]
        whys = list(broken.values())
        for path, why in zip(outside, whys, strict=False):
            assert why == f"its file {path} is outside of the data set's folder; copy it there"
        assert whys[len(outside) :] == ["not a regular file"] * 2


# LitData leaves its chunks open.
@pytest.mark.filterwarnings("ignore:unclosed file", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(
    ("scheme", "place"), [("", "a field that nobody reads"), ("local:", "the label"), ("", "within a field")]
)
def test_shards_with_a_pickled_field_run_nothing(tmp_path: Path, scheme: str, place: str) -> None:
    class Trap:
        def __reduce__(self) -> tuple:
            return Path.touch, (tmp_path / "trap",)

    trap = {"label": Trap()} if place == "the label" else {"other": [1, Trap()] if "within" in place else Trap()}
    write_shards(tmp_path / "train", [{"image": BLACK, "label": 1} | trap] * 4)
    (tmp_path / "trap").unlink(missing_ok=True)
    with pytest.raises(ValueError, match=r"cannot open .*/train: a field is stored as pickle, .* run what it contains"):
        LitData(f"{scheme}{tmp_path}/train", cache=str(tmp_path / "chunks"))
    assert not (tmp_path / "trap").exists()


def test_what_other_columns_contain_is_not_opened(folder: Path, tmp_path: Path) -> None:
    import datasets

    examples = [
        {"image": {"bytes": data}, "other": [{"bytes": b"%!PS"}], "label": 0} for data, _ in _examples(folder, "val")
    ]
    features = {"image": datasets.Image(), "other": datasets.List(datasets.Image()), "label": datasets.Value("int64")}
    datasets.Dataset.from_list(examples, datasets.Features(features)).save_to_disk(tmp_path / "set")
    with mock.patch.object(Image, "open", side_effect=AssertionError("a column is opened that nobody reads")):
        assert HuggingFace(str(tmp_path / "set")).read("train/0").shape == (20, 24, 3)
        with pytest.raises(ValueError, match="other is a list, not an encoded image"):
            HuggingFace(str(tmp_path / "set"), image="other").read("train/0")


def test_a_column_that_is_missing_is_named(folder: Path, tmp_path: Path) -> None:
    _parquet(folder, tmp_path)
    with pytest.raises(ValueError, match=r"no column 'picture'; it has image, label"):
        HuggingFace("parquet", data_files=str(tmp_path / "train.parquet"), image="picture")
    with pytest.raises(ValueError, match="cannot open parquet"):
        HuggingFace("parquet", data_files=str(tmp_path / "nowhere.parquet"))
    with pytest.raises(ValueError, match=r"has the splits train, and no dev"):
        HuggingFace("parquet", data_files=str(tmp_path / "train.parquet"), splits={"train": "train", "val": "dev"})


def test_one_table_that_was_saved_alone_has_the_training_images(folder: Path, tmp_path: Path) -> None:
    import datasets

    whole = HuggingFace(str(_saved(folder, tmp_path).location), image="picture", label="kind")
    alone = datasets.load_from_disk(whole.location)["train"]
    alone.save_to_disk(tmp_path / "alone")
    source = HuggingFace(str(tmp_path / "alone"), image="picture", label="kind")
    assert source.splits["train"][0] == whole.splits["train"][0]
    np.testing.assert_array_equal(source.read("train/3"), whole.read("train/3"))


@pytest.mark.parametrize("labels", [["a", None], [0, None]])
def test_examples_without_a_label_and_paths_for_images_are_named(labels: list, tmp_path: Path) -> None:
    import datasets

    place = str(tmp_path / "saved")
    datasets.Dataset.from_dict({"image": ["a.jpg", "b.jpg"], "label": labels}).save_to_disk(place)
    with pytest.raises(ValueError, match="saved: 1 of 2 examples of train have no label"):
        HuggingFace(place)
    features = datasets.Features({"image": datasets.Value("string"), "label": datasets.ClassLabel(names=["x", "y"])})
    hidden = datasets.Dataset.from_dict({"image": ["a.jpg", "b.jpg"], "label": [-1, 1]}, features)
    hidden.save_to_disk(tmp_path / "hidden")
    with pytest.raises(ValueError, match="hidden: 1 of 2 examples of train have no label"):
        HuggingFace(str(tmp_path / "hidden"))
    datasets.Dataset.from_dict({"image": ["a.jpg", "b.jpg"], "label": [0, 1]}).save_to_disk(tmp_path / "paths")
    with pytest.raises(ValueError, match="image is a str, not an encoded image"):
        HuggingFace(str(tmp_path / "paths")).read("train/0")


def test_a_class_without_a_training_image_is_named(folder: Path, tmp_path: Path) -> None:
    import datasets

    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=NAMES)})
    rows = [{"image": {"bytes": data, "path": None}, "label": 2} for data, _ in _examples(folder, "val")]
    trained = [row | {"label": k} for row, k in zip(rows, [0, 2] * 4, strict=False)]
    tables = {split: datasets.Dataset.from_list(own, features) for split, own in (("train", trained), ("val", rows))}
    datasets.DatasetDict(tables).save_to_disk(tmp_path / "set")
    with pytest.raises(ValueError, match=r"has no training image of the class bee\.\nAdd some, or take the class"):
        _data(source=HuggingFace(str(tmp_path / "set"))).setup("fit")


def _split_names(root: Path, train: tuple, test: tuple) -> HuggingFace:
    """Save two splits; of each, the names of a ClassLabel or None, and the labels."""
    import datasets

    tables = {}
    for split, (names, labels) in {"train": train, "test": test}.items():
        kind = (
            datasets.ClassLabel(names=names) if names else datasets.Value("int64" if labels[0] in (0, -1) else "string")
        )
        features = datasets.Features({"image": datasets.Value("binary"), "label": kind})
        tables[split] = datasets.Dataset.from_dict({"image": [b"x"] * len(labels), "label": labels}, features)
    datasets.DatasetDict(tables).save_to_disk(root / "set")
    return HuggingFace(str(root / "set"))


_TRAIN = (["ant", "caf\u00e9", "cat"], [0, 1, 2])


@pytest.mark.parametrize(
    ("test", "expected"),
    [
        ((["ant", "cat"], [0, 1, 1]), [0, 2, 2]),
        ((["cat", "ant", "caf\u00e9"], [0, 1, 2]), [2, 0, 1]),
        ((["cafe\u0301", "cat "], [0, 1]), [1, 2]),
        ((None, ["cat", "cafe\u0301"]), [2, 1]),
        ((None, [-1, -1]), None),
    ],
)
def test_the_splits_of_a_data_set_are_matched_by_the_names_of_their_classes(
    tmp_path: Path, test: tuple, expected: list[int] | None
) -> None:
    source = _split_names(tmp_path, _TRAIN, test)
    assert source.class_names == _TRAIN[0]
    assert (source.splits["test"][1].tolist() if "test" in source.splits else None) == expected


@pytest.mark.parametrize(
    ("train", "test", "wrong"),
    [
        (
            _TRAIN,
            (["ant", "dog"], [0, 1]),
            "image: dog.\nIts classes are ant, dog, those of train ant, caf\u00e9, cat;",
        ),
        (_TRAIN, (None, [0, 1]), "image: 0, 1.\nIts classes are 0, 1, those of train ant, caf\u00e9, cat;"),
        ((None, [0, 1]), (["ant", "bee"], [0, 1]), "image: ant, bee.\nIts classes are ant, bee, those of train 0, 1;"),
    ],
)
def test_classes_that_train_lacks_are_refused_with_those_of_both_splits(
    tmp_path: Path, train: tuple, test: tuple, wrong: str
) -> None:
    with pytest.raises(ValueError, match="the test split has classes without a training image") as raised:
        _split_names(tmp_path, train, test)
    assert wrong in str(raised.value)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # LitData leaves its chunks open
def test_shards_are_matched_by_the_names_of_their_classes(tmp_path: Path) -> None:
    def write(name: str, labels: list) -> str:
        return write_shards(tmp_path / name, ({"image": BLACK, "label": label} for label in labels))

    texts, numbers = write("texts", ["ant", "caf\u00e9", "cat"]), write("numbers", [3, 5, 9])
    others = write("others", ["cat ", "cafe\u0301"])
    assert LitData(texts, others).splits["val"][1].tolist() == [2, 1]
    named = ["cat", "ant", "cafe\u0301"]
    assert [LitData(texts, others, class_names=named).splits[s][1].tolist() for s in ("train", "val")] == [
        [1, 2, 0],
        [0, 2],
    ]
    assert LitData(numbers, write("fewer", [9, 5])).splits["val"][1].tolist() == [2, 1]
    assert LitData(numbers, others, class_names=named).splits["val"][1].tolist() == [0, 2]
    with pytest.raises(
        ValueError, match=r"without a training image: ant, café, cat.\nIts classes .* of train 3, 5, 9;"
    ):
        LitData(numbers, texts)
