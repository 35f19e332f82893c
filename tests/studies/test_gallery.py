import base64
import io

import numpy as np
from fake_study import results
from PIL import Image

from vitlab.evaluation.predictions import data_uri
from vitlab.studies.report.sections import gallery, interesting, models_shown

ALL = np.ones(6, dtype=bool)


def but(*wrong: int) -> np.ndarray:
    return ~np.isin(np.arange(6), wrong)


def test_disagreements_come_first_then_what_all_get_wrong() -> None:
    # Image 4 divides the models shown (seed 1) in both seeds, image 2 in one of two; 5 is wrong for all, 0 once.
    study = results({"A": {1: but(5), 2: but(5)}, "B": {1: but(5, 4, 2), 2: but(5, 4, 0)}})
    assert {run.run.seed for run in models_shown(study).values()} == {1}
    assert interesting(study)[:4].tolist() == [4, 2, 5, 0]


def test_the_seed_that_most_variants_finished_is_shown() -> None:
    shown = models_shown(results({"A": {1: ALL, 2: ALL}, "B": {2: ALL}}))
    assert [run.run.seed for run in shown.values()] == [2, 2]


class Tiny:
    """Six images of one pixel pattern each."""

    num_classes, class_names = 3, ("cat", "dog", "eel")

    def raw_images(self, split: str, indices: list[int]) -> list[np.ndarray]:
        assert split == "test"
        return [np.full((8, 8, 1), 40 * index, dtype=np.uint8) for index in indices]


def test_a_card_tells_each_models_answer_beside_the_others() -> None:
    study = results({"A": {1: but(5), 2: ALL}, "B": {1: but(5, 4), 2: ALL}})
    first, *_, last = gallery(study, Tiny())
    assert first.label == "dog"  # image 4, the labels being 0 1 2 0 1 2
    assert [(a.variant, a.predicted, a.right, a.seeds_right, a.seeds) for a in first.answers] == [
        ("A", "dog", True, 2, 2),
        ("B", "eel", False, 1, 2),
    ]
    assert abs(first.answers[1].confidence - 0.9) < 1e-6
    assert len({answer.predicted for answer in last.answers}) == 1


def decode(uri: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))))


def test_small_images_keep_every_pixel_and_photos_are_shrunk() -> None:
    rng = np.random.default_rng(0)
    for channels in (1, 3):
        small = rng.integers(0, 256, (28, 20, channels), dtype=np.uint8)
        np.testing.assert_array_equal(decode(data_uri(small)).reshape(small.shape), small)
    photo = data_uri(rng.integers(0, 256, (480, 640, 3), dtype=np.uint8))
    assert photo.startswith("data:image/jpeg")
    assert decode(photo).shape == (120, 160, 3)
