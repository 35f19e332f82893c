"""Watch frozen features as a pre-training runs: k-NN accuracy, and how far the features spread."""

import logging
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from vitlab.evaluation.collapse import rank_me, relative_std
from vitlab.evaluation.features import extract
from vitlab.evaluation.knn import predict_weighted
from vitlab.evaluation.labels import require_classes
from vitlab.objectives import Objective
from vitlab.objectives.sharding import gathered
from vitlab.runs.record import is_last_epoch

log = logging.getLogger("vitlab")


class KnnMonitor(Callback):
    """Logs what an encoder's features are worth while an objective without labels trains, and names their collapse.

    For YAML, under `trainer.callbacks`. `val/knn`: what k-NN gets right (k = 20, weighted as in DINO), neighbors being
    training images and queries the validation images. `val/rank` and `val/std` of the queries ask for no label: the
    effective number of dimensions, and how far features of length 1 spread, from 0 to about 1.

    Args:
        every_n_epochs: how often, and after the last epoch.
        most: at most so many neighbors, spread evenly over the training images.
    """

    def __init__(self, every_n_epochs: int = 10, most: int = 10_000) -> None:
        if every_n_epochs < 1 or most < 1:
            raise ValueError(f"KnnMonitor: every_n_epochs is {every_n_epochs} and most {most}; both must be 1 or more.")
        self.every_n_epochs, self.most = every_n_epochs, most

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse data without classes before the training, not after its first epochs."""
        require_classes(torch.from_numpy(trainer.datamodule.labels("train")[:1]))  # type: ignore[attr-defined]

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, Objective)
        epoch = trainer.current_epoch + 1
        if epoch % self.every_n_epochs and not is_last_epoch(trainer):
            return
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        every = -(-len(data.labels("train")) // self.most)
        with gathered(pl_module):
            bank, labels = extract(pl_module.encoder, data.batches("train", pl_module.device, every))
            queries, truth = extract(pl_module.encoder, data.batches("val", pl_module.device))
        right = predict_weighted(queries, bank, labels, data.num_classes) == truth
        seen = {"val/knn": float(right.float().mean()), "val/rank": rank_me(queries), "val/std": relative_std(queries)}
        pl_module.log_dict(seen, rank_zero_only=True)
        if seen["val/rank"] < 1.5 and trainer.is_global_zero:  # an encoder as it is built has 2 or more
            log.warning("Collapse: val/rank is %.2f, all images look alike.\n%s", seen["val/rank"], pl_module.remedies)
