"""The epoch after which a training ends: known to callbacks at its end, and always validated."""

from lightning.pytorch import Callback, LightningModule, Trainer


def is_last_epoch(trainer: Trainer) -> bool:
    """Return, at the end of an epoch, whether it is the last."""
    ended = trainer.max_steps >= 0 and trainer.global_step >= trainer.max_steps
    return ended or trainer.should_stop or trainer.current_epoch + 1 == trainer.max_epochs


class LastEpochValidation(Callback):
    """Validates the last epoch whatever `check_val_every_n_epoch` is, so that every run ends with a score.

    Args:
        pause_after: Epochs after which the run pauses, with a score too.
    """

    def __init__(self, pause_after: int | None = None) -> None:
        self.pause_after = pause_after
        self._every: int | None = None  # the setting, while it is changed

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look at an epoch that the run continues within, whose start is not told again."""
        self.on_train_epoch_start(trainer, pl_module)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        every = trainer.check_val_every_n_epoch
        if every is not None and trainer.current_epoch + 1 in (trainer.max_epochs, self.pause_after):
            self._every = self._every or every
            trainer.check_val_every_n_epoch = 1

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Give the setting back to a Trainer that trains again."""
        if self._every is not None:
            trainer.check_val_every_n_epoch, self._every = self._every, None
