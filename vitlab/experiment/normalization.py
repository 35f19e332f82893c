"""Whether images are normalized as those were that the weights come from."""

from typing import Any

from vitlab import log
from vitlab.config import Config, weights_of
from vitlab.data import ImageDataModule


def warn_of_normalization(config: Config, data: ImageDataModule) -> None:
    """Warn of images of another mean and deviation than those of timm's weights, by which accuracy is lost silently."""
    for key, source in weights_of(config).items():
        if not source.startswith("timm/") or "teacher" in key:  # a teacher has its own normalization
            continue
        import timm  # here, because it takes seconds to import

        expected: Any = timm.get_pretrained_cfg(source.removeprefix("timm/"))
        if expected is not None and (tuple(data.mean), tuple(data.std)) != (tuple(expected.mean), tuple(expected.std)):
            log.warning(
                "%s was trained on images of mean %s and std %s; these have %s and %s. Set data.mean and data.std.",
                *(source, list(expected.mean), list(expected.std), list(data.mean), list(data.std)),
            )
