"""What all objectives share: optimizer, schedule, logging, checkpoints, and weights to start from."""

import math
from abc import ABC, abstractmethod
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import torch
from jaxtyping import Float, Int
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.strategies import FSDPStrategy
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn

from vitlab import log
from vitlab.internals import clip_unscaled_gradients, trainer_of
from vitlab.models import ImageModel, TimmModel
from vitlab.models.backbone import Backbone
from vitlab.models.layers import pair
from vitlab.models.stored import build, stored_settings
from vitlab.models.weights import from_hub, in_folder, load_weights
from vitlab.objectives.sharding import FSDP, apply_fsdp
from vitlab.objectives.task import Monitor, Task
from vitlab.optim import Optimizer, Schedule, describe_groups, parameter_groups, unreached

_COMPILATIONS = 256  # of one kind of block; Swin-L's 24 rates of drop path, training and not, at two sizes are 96

Views = list[Float[Tensor, "B C _ _"]]
Labels = Int[Tensor, "B"] | Float[Tensor, "B K"]
"""One class of each image; probabilities of classes after mixup, several labels, or quantities."""
Scalar = Float[Tensor, ""]
Batch = tuple[Views, Labels]


class SkippedStep(Exception):
    """Raised to skip an optimizer step: weights and optimizer state stay unchanged."""


class Objective(LightningModule, ABC):
    """A training objective: `loss(views, labels)` of a backbone, and everything around it.

    Args:
        backbone: What is trained.
        optimizer: Settings of the optimizer; the parameter groups are made here.
        schedule: The learning rate over the run, with its warm-up: a class of `vitlab.optim`.
        init_from: Weights to start from: a `.safetensors`, `.pth` or `.ckpt` file, a folder with `model.safetensors` or
            `pytorch_model.bin` as the hub has it, a run directory, or a name on the hub, `timm/…`. The log lists what
            was loaded, resized and left out; a file of another architecture is refused. Rows of a classifier follow the
            names of the classes, where the file knows them. Ignored when a run continues.
    """

    task: Task | None = None  # how its outputs are tested and predicted; None: only its features are of use
    one_view: bool = False  # whether `loss` takes one view of each image and no more
    init_raw: bool = False  # whether `init_from` takes the trained weights of a run that also averages them
    head_rows: str | None = None  # a file that says which rows of its classifier are taken
    remedies: str = ""  # what to change when all features become alike, for the log

    def __init__(
        self, backbone: ImageModel, optimizer: Optimizer, schedule: Schedule, init_from: str | None = None
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.optimizer, self.schedule, self.init_from = optimizer, schedule, init_from
        self.watched: dict[str, Tensor] = {}  # what `loss` notes of a batch, logged beside it

    @abstractmethod
    def loss(self, views: Views, labels: Labels) -> Scalar:
        """Return the training loss of one batch."""

    @classmethod
    def load_from_checkpoint(  # type: ignore[override]  # Lightning wraps its own in a descriptor
        cls,
        checkpoint_path: str | Path,
        map_location: Any = None,
        hparams_file: str | Path | None = None,
        strict: bool | None = None,
        weights_only: bool | None = True,
        **kwargs: Any,
    ) -> Self:
        """Build a run's objective from its checkpoint alone; `Objective` loads the checkpoint of any objective.

        A plain Trainer's checkpoint stores no configuration: pass the constructor's arguments, as in Lightning.

        Raises:
            ValueError: the run trained another objective.
        """
        path = Path(checkpoint_path)
        settings = None if kwargs else stored_settings(path)
        if settings is None:
            return super().load_from_checkpoint(path, map_location, hparams_file, strict, weights_only, **kwargs)
        objective = build(Objective, settings)  # type: ignore[type-abstract]
        if not isinstance(objective, cls):
            raise ValueError(f"{path} contains a {type(objective).__name__}, not a {cls.__name__}.")
        state = torch.load(path, map_location=map_location or "cpu", weights_only=True)["state_dict"]
        objective.load_state_dict(state, strict=strict is not False)
        return objective.to(next(iter(state.values())).device)

    @property
    def monitor(self) -> Monitor | None:
        """The metric that ranks epochs; None where none may choose."""
        return None

    @property
    def one_class(self) -> bool:
        """Whether each image has one class, so that a softmax over the outputs gives probabilities."""
        return self.task is not None and self.task.one_class

    @property
    def encoder(self) -> ImageModel:
        """The network that is evaluated and exported: the backbone, or an average of it."""
        return self.backbone

    @property
    def epoch_metrics(self) -> list[str]:
        """The metrics that are logged at the end of each epoch, by which training can stop."""
        return ["train/loss", "val/loss"]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store which parameters are the encoder's, so that whatever starts from the file takes those."""
        for name, module in self.named_modules():
            if module is self.encoder:
                checkpoint["vitlab_encoder"] = f"{name}."

    def forward(self, images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B K"]:
        """Return the encoder's output for images: logits, or the embedding after pre-training."""
        return self.encoder(images)

    def no_weight_decay(self) -> set[str]:
        """Return the names of matrices and larger parameters without weight decay; vectors never have any."""
        return {f"backbone.{name}" for name in self.backbone.no_weight_decay()}

    def parameters_by_depth(self) -> list[list[nn.Parameter]]:
        """Return the parameters of each layer, from the embedding on, for layer-wise decay; others are the head's."""
        return self.backbone.parameters_by_depth()

    @property
    def progress(self) -> float:
        """The fraction of the optimizer steps taken, from 0 to 1 / `schedule.stretch`."""
        return self.global_step / (self.trainer.estimated_stepping_batches * self.schedule.stretch)

    @property
    def global_batch(self) -> int:
        """Images per optimizer step: batch size × devices × accumulated batches."""
        batch_size: int = self.trainer.datamodule.batch_size  # type: ignore[attr-defined]
        return batch_size * self.trainer.world_size * self.trainer.accumulate_grad_batches

    def setup(self, stage: str) -> None:
        """Refuse data and trainers that the objective cannot use; start from the weights of `init_from`."""
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        if data is None:
            remedy = "give the Trainer a data module: datamodule=vitlab.data.ImageFolder(…)"
            raise ValueError(f"{type(self).__name__} needs the number of classes and the batch size; {remedy}.")
        if isinstance(self.trainer.strategy, FSDPStrategy):
            raise ValueError("trainer.strategy fsdp shards weights and their EMA differently; use fsdp2.")
        if stage != "fit":
            return
        if self.trainer.max_epochs == self.trainer.max_steps == -1:
            raise ValueError("A schedule needs the length of the run; set trainer.max_epochs or trainer.max_steps.")
        crops = data.multi_crop.kinds if data.multi_crop else ()
        if self.one_view and sum(each.number for each in crops) > 1:
            raise ValueError(f"{type(self).__name__} sees one view of each image; set data.multi_crop: null.")
        sizes = [("", size) for size in data.training_shares] + [("data.multi_crop: ", each.size) for each in crops]
        for where, size in sizes:
            try:
                if isinstance(self.backbone, Backbone):
                    self.backbone.patch_embed.check(pair(size))
                elif isinstance(self.backbone, TimmModel) and pair(size) != self.backbone.img_size:
                    self.backbone.check(size)
            except ValueError as error:
                raise ValueError(f"{where}{error}") from None
        if self.init_from is not None and self.trainer.ckpt_path is None:
            self.load_backbone(weights_path(self.init_from))

    def configure_model(self) -> None:
        trainer = trainer_of(self)
        if trainer is not None and isinstance(trainer.strategy, FSDP):
            apply_fsdp(self, trainer.strategy.device_mesh["data_parallel"])

    def compile_parts(self, backend: str = "inductor", whole: bool = False) -> None:
        """Let `torch.compile` take the blocks of all networks, averages and teachers too, in place: no key changes.

        A block is recompiled for each drop-path rate, shape and mode; by default torch stops after eight. `whole`
        compiles the loss instead, with all networks in it, and on a GPU replays it as CUDA graphs.
        """
        torch.compiler.config.recompile_limit = _COMPILATIONS
        torch.compiler.config.accumulated_recompile_limit = 4 * _COMPILATIONS
        if whole:
            compiled = torch.compile(self.loss, backend=backend, dynamic=False, mode="reduce-overhead")
            self.loss = compiled  # type: ignore[method-assign]
            return
        for part in (part for model in self.modules() if isinstance(model, ImageModel) for part in model.blocks):
            part.compile(backend=backend, dynamic=False)

    def load_backbone(self, path: Path) -> None:
        """Start from the weights of a file, and log what was loaded."""
        named = self.backbone.num_classes and self.head_rows is None
        classes = getattr(getattr(trainer_of(self), "datamodule", None), "class_names", []) if named else []
        log.info("Weights from %s", load_weights(self.backbone, path, self.prefix_in(path), classes))

    def prefix_in(self, path: Path) -> str | None:
        """Return what the names of the weights to load begin with in a file; None: those of the only encoder in it."""
        if not self.init_raw or path.suffix != ".ckpt":
            return None
        return next(f"{name}." for name, part in self.named_modules() if part is self.backbone.stored_module)

    def training_step(self, batch: Batch, batch_idx: int) -> Scalar:
        views, labels = batch
        loss = self.loss(views, labels)
        if not (isinstance(loss, Tensor) and loss.numel() == 1 and loss.requires_grad):
            got = f"{[*loss.shape]}, requires_grad {loss.requires_grad}" if isinstance(loss, Tensor) else loss
            raise ValueError(f"{type(self).__name__}.loss returned {got}; return one number with a gradient.")
        noted = {"train/loss": loss.detach()} | self.watched
        self.log_dict(noted, on_step=False, on_epoch=True, batch_size=len(labels), sync_dist=True)
        return loss

    def configure_optimizers(self) -> OptimizerLRScheduler:
        groups = parameter_groups(
            self.named_parameters(),
            self.optimizer,
            self.global_batch,
            self.parameters_by_depth(),
            self.backbone.head_parameters(),
            self.no_weight_decay(),
            [p for name, p in self.backbone.named_parameters() if name in self.backbone.no_weight_decay()],
        )
        steps, epochs = length(self.trainer)
        if steps:
            log.info("Parameter groups at a global batch of %d:\n%s", self.global_batch, describe_groups(groups))
        peaks, scale = [group["lr"] for group in groups], self.optimizer.scale(self.global_batch)
        schedules = [self.schedule.at(scale, group.pop("layer_scale")) for group in groups]
        optimizer = self.optimizer.build(groups)
        clip_unscaled_gradients(optimizer)
        milestones = getattr(self.schedule, "milestones", ())
        if steps and (missed := unreached(epochs, self.schedule.warmup_epochs, milestones)):
            log.warning(missed)
        ends = [schedule.lr(peak, steps, steps, epochs) for schedule, peak in zip(schedules, peaks, strict=True)]
        rising = [peak for peak, end in zip(peaks, ends, strict=True) if end > peak]
        if steps and rising:
            log.warning(
                "min_lr %g is above the peak of %d of %d parameter groups, %g at the lowest: rates rise after the "
                "warm-up. Lower it, or set scale_with_layer: true.",
                *(max(ends), len(rising), len(peaks), min(rising)),
            )
        # LambdaLR multiplies the peak; dividing by it keeps the schedule's absolute rates as written.
        factors = [
            lambda step, schedule=schedule, peak=peak: schedule.lr(peak, step, steps, epochs) / peak
            for schedule, peak in zip(schedules, peaks, strict=True)
        ]
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factors)  # type: ignore[arg-type]  # list is invariant
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Set the weight decay by its schedule in the groups that have any."""
        weight_decay = self.optimizer.weight_decay_at(self.progress)
        for group in optimizer.param_groups:
            if group["weight_decay"] > 0:
                group["weight_decay"] = weight_decay

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        with suppress(SkippedStep):
            super().optimizer_step(*args, **kwargs)
        self.after_optimizer_step()

    def on_train_epoch_end(self) -> None:
        """Log the learning rate at the end of the epoch, of the group with the highest peak."""
        self.log("lr", self.trainer.optimizers[0].param_groups[-1]["lr"], rank_zero_only=True)

    def after_optimizer_step(self) -> None:
        """Update averages of the weights, once per optimizer step; subclasses override it."""


def length(trainer: Trainer) -> tuple[int, float]:
    """Return the number of optimizer steps and of epochs of a run that is about to begin."""
    if trainer.limit_train_batches == 0 or trainer.max_epochs == 0:
        return 0, 1.0  # no training, no schedule
    steps = int(trainer.estimated_stepping_batches)
    trainer.fit_loop.setup_data()  # not done yet where only max_steps is given
    return steps, steps / math.ceil(trainer.num_training_batches / trainer.accumulate_grad_batches)


def weights_path(source: str, asked_by: str = "init_from") -> Path:
    """Return the file that a setting refers to: itself, one in a folder, a run's last checkpoint, a download."""
    if source.startswith("timm/"):
        try:
            return from_hub(source, "model.safetensors")
        except FileNotFoundError as error:
            raise ValueError(f"{asked_by}: could not download {source} from the Hub ({error}).") from None
    path = Path(source)
    if path.is_dir():
        path = in_folder(path) or path / "checkpoints" / "last.ckpt"
    if not path.is_file():
        if seeds := sorted(map(str, Path(source).glob("seed-*"))):
            raise FileNotFoundError(f"{asked_by}: {source} has runs in it; give one of {', '.join(seeds)}.")
        known = "a file, a folder from the hub, a run directory, or a name on the hub, timm/…"
        raise FileNotFoundError(f"{asked_by}: no weights at {path}; give {known}.")
    return path
