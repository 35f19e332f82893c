"""The data sets as the command line reads them: typed, complete, nothing misspelt."""

import jsonargparse
import pytest

from vitlab.data import BatchAugment, Digits, ImageDataModule, Mixup

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture
def parser() -> jsonargparse.ArgumentParser:
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(ImageDataModule, "data")
    return parser


def _parse(parser: jsonargparse.ArgumentParser, class_name: str, **arguments: object) -> ImageDataModule:
    config = {"data": {"class_path": f"vitlab.data.{class_name}", "init_args": arguments}}
    return parser.instantiate_classes(parser.parse_object(config)).data


def test_setting_one_value_keeps_the_data_sets_other_defaults(parser: jsonargparse.ArgumentParser) -> None:
    # `augment: {shift: 2}` for CIFAR must not turn its mirroring off.
    data = _parse(parser, "CIFAR10", augment={"shift": 2})
    assert data.augment == BatchAugment(shift=2, flip_prob=0.5)  # type: ignore[attr-defined]


def test_empty_mixup_is_the_published_one(parser: jsonargparse.ArgumentParser) -> None:
    published = Mixup(mixup_alpha=0.8, cutmix_alpha=1.0, prob=1.0, switch_prob=0.5)
    assert _parse(parser, "CIFAR100", mixup={}).mixup == published
    assert _parse(parser, "CIFAR100").mixup is None


def test_lists_and_numbers_are_read_as_declared(parser: jsonargparse.ArgumentParser) -> None:
    data = _parse(parser, "Digits", mean=[0.5], std=[1], augment={"crop_scale": [0.5, 1]})
    assert isinstance(data, Digits)
    assert (data.mean, data.std, data.augment.crop_scale) == ((0.5,), (1.0,), (0.5, 1.0))


@pytest.mark.parametrize(
    "arguments",
    [{"batchsize": 4}, {"augment": {"shfit": 1}}, {"batch_size": "many"}, {"batch_size": 1.5}, {"mean": [0.5, 0.5]}],
)
def test_misspelt_and_mistyped_arguments_are_refused(parser: jsonargparse.ArgumentParser, arguments: dict) -> None:
    with pytest.raises(jsonargparse.ArgumentError):
        _parse(parser, "Digits", **arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, "batch_size"),
        ({"eval_batch_size": 0}, "eval_batch_size"),
        ({"num_workers": -1}, "num_workers"),
        ({"val_fraction": 1.0}, "val_fraction"),
        ({"augment": {"shift": -1}}, "shift"),
        ({"augment": {"crop_scale": [0.5, 1.1]}}, "crop_scale"),
        ({"mixup": {"prob": 2}}, "prob"),
        ({"grow": {"start": 0, "step": 4}}, "start"),
        ({"folds": {"count": 5, "test": 0}}, "test"),
        ({"multi_crop": {"hue": -0.1}}, "hue"),
        ({"multi_crop": {"local_crops": {"number": 2, "size": 0, "scale": [0.1, 0.4], "blur_prob": [0.5]}}}, "size"),
    ],
)
def test_values_out_of_range_are_refused_by_name(
    parser: jsonargparse.ArgumentParser, arguments: dict, message: str
) -> None:
    with pytest.raises(jsonargparse.ArgumentError, match=rf"(?s){message}.*does not conform to restriction"):
        _parse(parser, "Digits", **arguments)


def test_saved_configuration_is_complete(parser: jsonargparse.ArgumentParser) -> None:
    # A saved configuration is complete: every argument of the constructor is in the dump, with its value.
    config = parser.parse_object({"data": {"class_path": "vitlab.data.ImageFolder", "init_args": {"root": "photos"}}})
    dump = parser.dump(config)
    for word in ("root: photos", "broken: refuse", "rand_augment: rand-m9-mstd0.5-inc1", "crop_pct: 0.875"):
        assert word in dump
