"""The best state of a run by its validation metric, `checkpoints/best.ckpt`."""

from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint


class BestCheckpoint(ModelCheckpoint):
    """Lightning's, which also continues in a run directory that was moved or that branched off another.

    Lightning forgets which state was best if the folder has another name, and writes over it after the next validation.
    """

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look at the metric once there is one; that of an earlier epoch is not better than itself."""
        if self.monitor in trainer.callback_metrics:
            super().on_train_epoch_end(trainer, pl_module)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up the state, whose files are now in this folder."""
        folder = Path(str(self.dirpath))
        here = {path: folder / Path(path).name for path in state_dict["best_k_models"]}
        known = {path: str(file) for path, file in here.items() if file.is_file()}
        paths = {key: known.get(state_dict[key], "") for key in ("best_model_path", "kth_best_model_path")}
        kept = {known[path]: score for path, score in state_dict["best_k_models"].items() if path in known}
        super().load_state_dict({**state_dict, "dirpath": self.dirpath, "best_k_models": kept, **paths})
