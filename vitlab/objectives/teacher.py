"""A trained model that a student learns from: frozen, and outside of everything that trains, averages or saves."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import final

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from vitlab import log
from vitlab.config import rows_by_name
from vitlab.models import ImageModel, TimmModel
from vitlab.models.stored import build, stored_facts
from vitlab.models.timm_model import normalization_of
from vitlab.models.weights import load_weights
from vitlab.objectives.objective import weights_path
from vitlab.objectives.output_cache import OutputCache, fingerprint

GUESSED = 0.005  # chance that as many answers of one that guesses are right
WORSE = 0.05  # chance that so few answers are right of one that has closed half the distance to 100 %


@final
class Teacher:
    """A frozen model that sees the student's images in its own size and normalization.

    Not an `nn.Module`, so that the objective that holds it neither trains, saves nor averages it, and no `train()` lets
    the statistics of its batch norms drift.

    Args:
        model: Any vitlab or timm model; `img_size` is the size at which it sees the images. Null: the model of the run
            or export that `weights` are of, as the file describes it.
        weights: A file, a run directory, or a name on the hub, `timm/…`; null where the model brings its own. Of a run
            that averaged its weights, the average.
        mean: Normalization of each channel that the teacher was trained with; null: that of its run or of timm's
            weights, else the data's.
        std: The same.
        cache: A folder for the logits of the training images, which a second student of the same seed then finds there,
            also while the first one trains; null: ask the teacher each time. Each teacher has its own folder in it. For
            its size see `OutputCache`.
    """

    def __init__(
        self,
        model: ImageModel | None = None,
        weights: str | None = None,
        mean: tuple[float, ...] | None = None,
        std: tuple[float, ...] | None = None,
        cache: str | None = None,
    ) -> None:
        if (mean is None) != (std is None):
            raise ValueError(f"teacher.mean is {mean} and teacher.std {std}; give both, or neither for the data's.")
        if mean is None and weights and weights.startswith("timm/"):
            mean, std = normalization_of(weights.removeprefix("timm/"))
            if mean is not None and model is not None and len(mean) != model.in_chans:
                mean = std = None  # of filters adapted to the data's channels
        elif mean is None and not weights and isinstance(model, TimmModel) and model.pretrained:
            mean, std = model.mean, model.std
        if model is None and (weights is None or weights.startswith("timm/")):
            raise ValueError(f"teacher.model is null and teacher.weights {weights}; name the model, or give a run's.")
        self._model = model and frozen(model)
        self.weights, self.mean, self.std = weights, mean, std
        self.scale, self.shift = torch.ones(1, 1, 1), torch.zeros(1, 1, 1)
        self.cache = cache
        self.order: Tensor | None = None  # of the data's classes among those of the teacher, where it is another
        self.ready = False  # on the device, with its weights

    @property
    def model(self) -> ImageModel:
        """The model; that of a run is built when it is first asked for, without a random number being used up."""
        if self._model is None:
            assert self.weights is not None
            path = weights_path(self.weights, "teacher.weights")
            backbone = stored_facts(path).get("backbone")
            if backbone is None:
                raise ValueError(f"teacher.weights: {path} does not name its model; give teacher.model.")
            with torch.random.fork_rng([]):
                self._model = frozen(build(ImageModel, backbone))  # type: ignore[type-abstract]
        return self._model

    def prepare(
        self, device: torch.device, mean: tuple[float, ...], std: tuple[float, ...], class_names: Sequence[str] = ()
    ) -> None:
        """Read the weights and go to the device; `mean` and `std` are what the data were normalized with.

        Raises:
            ValueError: the teacher learned other classes than the data's; an order of its own is that of the data then.
        """
        of_run = {}
        if self.weights is not None:
            path = weights_path(self.weights, "teacher.weights")
            report = load_weights(self.model, path)
            if report.missing:
                fit = f"{', '.join(report.missing[:3])} that fits {self.model.num_classes} classes"
                remedy = "a teacher must have been trained on the classes of the data, and is built as it was then"
                raise ValueError(f"teacher.weights: {report.path} has no {fit}; {remedy}.")
            log.info("Teacher's weights from %s", report)
            of_run = stored_facts(path)
        if class_names and (known := of_run.get("class_names")):
            rows = rows_by_name(known, class_names)
            if {*rows} != {*range(len(known))}:
                theirs, own = (", ".join(map(str, names[:20])) for names in (known, class_names))
                wrong = f"teacher.weights: {self.weights} knows the classes {theirs}; the data have {own}"
                raise ValueError(f"{wrong}.\nName the classes as in its training, or train a teacher on these.")
            if rows != [*range(len(known))]:
                log.info("The teacher's logits are put into the order of the data's classes.")
                self.order = torch.tensor(rows, device=device)
        self.model.to(device)
        new_mean = self.mean or tuple(of_run.get("mean") or mean)
        new_std = self.std or tuple(of_run.get("std") or std)
        if not len(new_mean) == len(new_std) == len(mean):
            raise ValueError(f"teacher.mean {new_mean} and std {new_std} are not of {len(mean)} channels.")
        scale, shift = renormalization(mean, std, new_mean, new_std)
        self.scale, self.shift = scale.to(device), shift.to(device)
        self.ready = True

    def open_cache(self, precision: str) -> OutputCache | None:
        """Return the cache of this teacher's logits if `cache` names a folder; call it after `prepare`.

        Args:
            precision: The Trainer's: bfloat16 gives other logits than float32.
        """
        if self.cache is None:
            return None
        before = [precision, self.model.img_size, self.scale.flatten().tolist(), self.shift.flatten().tolist()]
        before += [] if self.order is None else [self.order.tolist()]
        return OutputCache(Path(self.cache) / fingerprint(self.model, *before), self.model.num_classes)

    @torch.no_grad()
    def __call__(self, images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B K"]:
        """Return the teacher's logits for the student's images, float32, in the order of the data's classes."""
        images = images * self.scale + self.shift
        if images.shape[2:] != (size := self.model.img_size):
            images = F.interpolate(images, size=size, mode="bicubic", antialias=True)
        logits = self.model(images).float()
        return logits if self.order is None else logits[:, self.order]

    def examine(self, batches: Iterable[tuple[list[Tensor], Tensor]]) -> None:
        """Print the teacher's accuracy on labeled images; refuse a teacher that guesses.

        Raises:
            ValueError: guessing the most frequent class is as good, and closing half the distance to 100 % would be
                better (binomial tests). Of few images neither may be known: then a warning says so.
        """
        from scipy.stats import binom  # here: it takes a while to import

        right, labels = [], []
        for (images,), batch_labels in batches:
            right.append(self(images).argmax(dim=1) == batch_labels)
            labels.append(batch_labels)
        hits, images_seen = int(torch.cat(right).sum()), sum(map(len, labels))
        guess = float(torch.cat(labels).bincount().max()) / images_seen
        said = f"The teacher classifies {100 * hits / images_seen:.2f} % of {images_seen} validation images correctly"
        if binom.sf(hits - 1, images_seen, guess) <= GUESSED:
            log.info("%s.", said)
        elif binom.cdf(hits, images_seen, (1 + guess) / 2) >= WORSE:
            log.warning("%s: too few images to tell whether it guesses, by which %.1f %% are.", said, 100 * guess)
        else:
            remedy = f"Train it first, or check its weights, mean, std and img_size {self.model.img_size}."
            raise ValueError(f"{said}; always predicting the most frequent class gives {100 * guess:.1f} %.\n{remedy}")


def frozen(model: ImageModel) -> ImageModel:
    """Return a model that is not trained."""
    return model.requires_grad_(False).eval()


def renormalization(
    mean: tuple[float, ...], std: tuple[float, ...], new_mean: tuple[float, ...], new_std: tuple[float, ...]
) -> tuple[Float[Tensor, "C 1 1"], Float[Tensor, "C 1 1"]]:
    """Return a and b such that a · x + b is normalized by `new_mean` and `new_std` if x is by `mean` and `std`."""
    m, s, new_m, new_s = (torch.tensor(values).view(-1, 1, 1) for values in (mean, std, new_mean, new_std))
    return s / new_s, (m - new_m) / new_s
