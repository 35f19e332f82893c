"""k-NN accuracy and collapse metrics of frozen features during pre-training."""

import logging
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from vitlab.evaluation.classify import require_classes
from vitlab.evaluation.collapse import rank_me, relative_std
from vitlab.evaluation.features import extract
from vitlab.evaluation.knn import predict_weighted
from vitlab.objectives import Objective
from vitlab.objectives.sharding import gathered
from vitlab.runs.last_epoch import is_last_epoch

log = logging.getLogger("vitlab")


class KnnMonitor(Callback):
    """Logs the quality of an encoder's features during training, and warns when they collapse.

    For `trainer.callbacks` of a YAML file. `val/knn` is the validation accuracy of k-NN among training images (k = 20,
    weighted as in DINO). `val/rank` and `val/std` need no labels: the effective number of dimensions of the validation
    features, and the spread of the normalized features, from 0 (collapsed) to about 1.

    Args:
        every_n_epochs: interval; the last epoch is always included.
        most: largest number of training images, taken evenly from the training set; null: all of them, as published
            k-NN figures have it. Each process embeds them.
    """

    LOGGED = ("val/knn", "val/rank", "val/std")

    def __init__(self, every_n_epochs: int = 10, most: int | None = 10_000) -> None:
        if every_n_epochs < 1 or (most is not None and most < 1):
            raise ValueError(f"KnnMonitor: every_n_epochs is {every_n_epochs} and most {most}; both must be 1 or more.")
        self.every_n_epochs, self.most = every_n_epochs, most

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Reject data without classes before the training, not after its first epochs."""
        require_classes(torch.from_numpy(trainer.datamodule.labels("train")[:1]))  # type: ignore[attr-defined]

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, Objective)
        epoch = trainer.current_epoch + 1
        if epoch % self.every_n_epochs and not is_last_epoch(trainer):
            return
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        every = 1 if self.most is None else -(-len(data.labels("train")) // self.most)
        with gathered(pl_module):
            bank, labels = extract(pl_module.encoder, data.batches("train", pl_module.device, every))
            queries, truth = extract(pl_module.encoder, data.batches("val", pl_module.device))
        correct = predict_weighted(queries, bank, labels, data.num_classes) == truth
        rank = rank_me(queries)
        values = float(correct.float().mean()), rank, relative_std(queries)
        pl_module.log_dict(dict(zip(self.LOGGED, values, strict=True)), rank_zero_only=True)
        if rank < 1.5 and trainer.is_global_zero:  # an untrained encoder has 2 or more
            remedies = pl_module.remedies and f"\n{pl_module.remedies}"
            log.warning("Collapse: val/rank is %.2f, all images look alike.%s", rank, remedies)
