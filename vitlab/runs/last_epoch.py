"""The epoch after which a training ends: known to callbacks at its end, and always validated."""

import math

from lightning.pytorch import Callback, LightningModule, Trainer

from vitlab.internals import is_within_an_epoch, training_position


def is_last_epoch(trainer: Trainer) -> bool:
    """Return, at the end of an epoch, whether it is the last."""
    ended = trainer.max_steps >= 0 and trainer.global_step >= trainer.max_steps
    least_epochs, least_steps = trainer.min_epochs or 0, trainer.min_steps or 0
    may_stop = trainer.current_epoch + 1 >= least_epochs and trainer.global_step >= least_steps
    return ended or (trainer.should_stop and may_stop) or trainer.current_epoch + 1 == trainer.max_epochs


class LastEpochValidation(Callback):
    """Validates the last epoch whatever `check_val_every_n_epoch` is, so that every run ends with a score.

    Args:
        pause_after: Epochs after which the run pauses, with a score too.
    """

    def __init__(self, pause_after: int | None = None) -> None:
        self.pause_after = pause_after
        self._set: tuple[int, int | float | None] | None = None  # the settings, while they are changed

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Prepare an epoch that the run continues within: Lightning does not announce its start again."""
        if is_within_an_epoch(trainer):
            _, batches = training_position(trainer)
            self._prepare(trainer, trainer.global_step - batches // trainer.accumulate_grad_batches)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._prepare(trainer, trainer.global_step)

    def _prepare(self, trainer: Trainer, done: int) -> None:
        """Set when an epoch is validated that starts after some steps."""
        if trainer.check_val_every_n_epoch is None:  # validation counts batches
            return
        batches, accumulate = trainer.num_training_batches, trainer.accumulate_grad_batches
        in_epoch = math.ceil(batches / accumulate)
        steps = trainer.max_steps - done if trainer.max_steps >= 0 else math.inf
        if steps <= in_epoch or trainer.current_epoch + 1 in (trainer.max_epochs, self.pause_after):
            self._set = self._set or (trainer.check_val_every_n_epoch, trainer.val_check_batch)
            trainer.check_val_every_n_epoch = 1
        if 0 < steps * accumulate < (trainer.val_check_batch or 0):  # Lightning validates no epoch that is cut short
            trainer.val_check_batch = steps * accumulate

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Give the settings back to a Trainer that trains again."""
        if self._set is not None:
            (trainer.check_val_every_n_epoch, trainer.val_check_batch), self._set = self._set, None
