"""k-NN accuracy and collapse metrics of frozen features during pre-training."""

import math
from typing import Any

import torch
from jaxtyping import Float
from jsonargparse.typing import PositiveInt
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from vitlab import log
from vitlab.evaluation.classifiers import classify_pixels, predict_weighted
from vitlab.evaluation.features import extract, rank_me, relative_std, require_classes
from vitlab.objectives import Objective
from vitlab.objectives.sharding import gathered
from vitlab.runs.checkpoints import is_last_epoch


class KnnMonitor(Callback):
    """Logs the quality of an encoder's features during training, and warns when they collapse or teach nothing.

    For `trainer.callbacks` of a YAML file. `val/knn` is the validation accuracy of k-NN among training images (k = 20,
    weighted as in DINO); `val/knn_untrained` that of the encoder before its first step, and `val/knn_pixels` that of
    the pixels of images of at most 32 px, which features have to surpass to be of use. `val/rank` and `val/std` need no
    labels: the effective number of dimensions of the validation features, and the spread of the normalized features,
    from 0 (collapsed) to about 1.

    Args:
        every_n_epochs: interval; the last epoch is always included.
        most: largest number of training images, taken evenly from the training set; null: all of them, as published
            k-NN figures have it. Each process embeds them.
    """

    LOGGED = ("val/knn", "val/knn_untrained", "val/knn_pixels", "val/rank", "val/std")

    def __init__(self, every_n_epochs: PositiveInt = 10, most: PositiveInt | None = 10_000) -> None:
        self.every_n_epochs, self.most = every_n_epochs, most
        self.references: dict[str, float] = {}  # val/knn_untrained and val/knn_pixels
        self.last = math.inf  # val/knn

    def on_fit_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Reject data without classes before the training, not after its first epochs; measure where it starts."""
        require_classes(torch.from_numpy(trainer.datamodule.labels("train")[:1]))  # type: ignore[attr-defined]
        if trainer.ckpt_path is not None:  # else they come with the checkpoint
            return
        untrained, _ = self._measure(trainer, pl_module)
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        most = self.most or len(data.labels("train"))
        found, truth, _ = classify_pixels(data, ["train"], "val", pl_module.device, most)
        raw = float((found == truth).float().mean())
        self.references = {"val/knn_untrained": untrained, "val/knn_pixels": raw}
        if trainer.is_global_zero:
            log.info("k-NN before training: %.1f %%, on raw pixels %.1f %%", 100 * untrained, 100 * raw)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        epoch = trainer.current_epoch + 1
        if epoch % self.every_n_epochs and not is_last_epoch(trainer):
            return
        self.last, features = self._measure(trainer, pl_module)
        rank = rank_me(features)
        values = {"val/knn": self.last, "val/rank": rank, "val/std": relative_std(features)}
        pl_module.log_dict(values | self.references, rank_zero_only=True)
        if rank < 1.5 and trainer.is_global_zero:  # an untrained encoder has 2 or more
            remedies = pl_module.remedies and f"\n{pl_module.remedies}"
            log.warning("Collapse: val/rank is %.2f, all images look alike.%s", rank, remedies)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Warn of features that are no better than without training."""
        untrained = self.references.get("val/knn_untrained", 0.0)
        if self.last <= untrained and trainer.is_global_zero:
            message = "The training improved no features: k-NN %.1f %%, before it %.1f %%."
            log.warning(message, 100 * self.last, 100 * untrained)

    def state_dict(self) -> dict[str, Any]:
        return {"references": self.references, "last": self.last}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.references, self.last = state_dict["references"], state_dict["last"]

    def _measure(self, trainer: Trainer, objective: Objective) -> tuple[float, Float[Tensor, "N C"]]:
        """Return the accuracy of k-NN, and the features of the validation images."""
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        every = 1 if self.most is None else -(-len(data.labels("train")) // self.most)
        with gathered(objective):
            bank, labels = extract(objective.encoder, data.batches("train", objective.device, every))
            queries, truth = extract(objective.encoder, data.batches("val", objective.device))
        correct = predict_weighted(queries, bank, labels, data.num_classes) == truth
        return float(correct.float().mean()), queries
