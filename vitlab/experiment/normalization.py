"""Whether images are normalized as those were that the weights come from."""

from vitlab import log
from vitlab.config import Config, weights_of
from vitlab.data import ImageDataModule
from vitlab.models.timm_model import normalization_of


def warn_of_normalization(config: Config, data: ImageDataModule) -> None:
    """Warn of images of another mean and deviation than those of timm's weights, by which accuracy is lost silently."""
    for key, source in weights_of(config).items():
        if not source.startswith("timm/") or "teacher" in key:  # a teacher has its own normalization
            continue
        mean, std = normalization_of(source.removeprefix("timm/"))
        if mean is not None and std is not None and (tuple(data.mean), tuple(data.std)) != (mean, std):
            log.warning(
                "%s was trained on images of mean %s and std %s; these have %s and %s. Set data.mean and data.std.",
                *(source, list(mean), list(std), list(data.mean), list(data.std)),
            )
