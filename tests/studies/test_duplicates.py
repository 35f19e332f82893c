from pathlib import Path

import numpy as np
import pytest
from fake_study import Digits
from PIL import Image
from referee.formats import SPACE

from vitlab.data import ImageFolder
from vitlab.studies.results.table import duplicates


def leaking(train: int, val: int) -> Digits:
    """Return the digits with copies of some training and validation images in the test split."""
    digits = Digits()
    test = digits.splits["test"].copy()
    test[:train], test[train : train + val] = digits.splits["train"][:train], digits.splits["val"][:val]
    digits.splits["test"] = test
    return digits


def test_copies_of_training_and_validation_images_in_the_test_split_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clean = duplicates(Digits(), {}, tmp_path / "clean.json")
    assert clean == ""

    found = duplicates(leaking(5, 2), {}, tmp_path / "cache.json")
    assert found.replace(SPACE, " ") == (
        "Of 597 test images, exact copies are also 5 in the train split and 2 in the val split, which inflates "
        "accuracy: test/00000 = train/00000, test/00001 = train/00001, test/00002 = train/00002 and more."
    )
    other = duplicates(leaking(1, 0), {"other": 1}, tmp_path / "cache.json")
    assert " also 1 in the train split, which" in other.replace(SPACE, " ")
    with monkeypatch.context() as patch:
        patch.setattr(Digits, "contents", None)  # both are cached
        for images, data, known in ((leaking(5, 2), {}, found), (leaking(1, 0), {"other": 1}, other)):
            assert duplicates(images, data, tmp_path / "cache.json") == known
    assert "9 in the train split and 9 in the val split" in duplicates(leaking(9, 9), {}, tmp_path / "cache.json")


def test_a_test_split_that_is_the_validation_split_is_no_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digits = Digits()
    digits.splits["val"] = digits.splits["test"]
    monkeypatch.setattr(digits, "image_names", lambda split: [str(i) for i in digits.splits[split]])
    assert duplicates(digits, {}, tmp_path / "cache.json") == ""


def test_images_whose_source_gives_no_hash_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digits = Digits()
    monkeypatch.setattr(digits, "contents", lambda split: np.zeros(len(digits.splits[split]), np.uint64))
    found = duplicates(digits, {}, tmp_path / "cache.json")
    assert found.replace(SPACE, " ").startswith("Copies of 597 test images in other splits were not looked for")


def photographs(seed: int, number: int) -> list[Image.Image]:
    """Return pictures of smooth random fields, which differ from each other as photographs do."""
    rng = np.random.default_rng(seed)
    fields = [rng.integers(0, 255, (6, 6, 3), dtype=np.uint8) for _ in range(number)]
    return [Image.fromarray(field).resize((120, 90), Image.Resampling.BICUBIC) for field in fields]


def write(root: Path, split: str, pictures: list[Image.Image], **options: int) -> None:
    for index, picture in enumerate(pictures):
        path = root / split / "ab"[index % 2] / f"{split}{index}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(path, quality=options.get("quality", 90))


def test_photographs_encoded_anew_or_resized_are_found(tmp_path: Path) -> None:
    pictures, others = photographs(0, 20), photographs(1, 10)
    again = [pictures[3].resize((60, 45)), pictures[4].point(lambda value: min(255, int(1.15 * value)))]
    write(tmp_path / "photos", "train", pictures)
    write(tmp_path / "photos", "val", photographs(2, 4))
    write(tmp_path / "photos", "test", [*others, *again], quality=60)
    data = ImageFolder(root=str(tmp_path / "photos"), image_size=32)
    found = duplicates(data, {}, tmp_path / "cache.json")
    assert found.replace(SPACE, " ").startswith(
        "2 test images look almost like images of another split, which inflates accuracy if they show the same: "
        "test/a/test10.jpg and train/b/train3.jpg, test/b/test11.jpg and train/a/train4.jpg. Move"
    )
    assert duplicates(data, {}, tmp_path / "cache.json") == found


def test_a_copy_is_no_look_alike_and_small_pictures_are_not_compared(tmp_path: Path) -> None:
    pictures = photographs(0, 8)
    write(tmp_path / "photos", "train", pictures)
    write(tmp_path / "photos", "val", photographs(2, 4))
    write(tmp_path / "photos", "test", [*photographs(1, 3), pictures[5]])
    found = duplicates(ImageFolder(root=str(tmp_path / "photos"), image_size=32), {}, tmp_path / "cache.json")
    assert found.replace(SPACE, " ").startswith("Of 4 test images, exact copies are also 1 in the train split, which")
    assert "look" not in found
    assert duplicates(Digits(), {}, tmp_path / "digits.json") == ""  # of 8 px, many look alike
