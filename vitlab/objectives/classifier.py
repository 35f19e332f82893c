"""Cross-entropy of the label, for even and uneven classes:

    L = −1/B Σ_i Σ_k w_k y_ik log softmax(f(x_i) + τ log π)_k,    y ← (1 − ε) y + ε / K

with B images, K classes, ε the label smoothing, and y one-hot or, after mixup and cutmix (made by the data), a mixture
of two. Without weights w_k = 1, without adjustment τ = 0.

Of n training images, n_k have class k and π_k = n_k / n. Weights w_k ∝ 1 / n_k give each class the same share of the
loss. Logit adjustment (Menon et al. 2021, https://arxiv.org/abs/2007.07314, eq. 10) adds τ log π in training and leaves
it out of predictions, which moves the boundary also where a network fits all images, and with τ = 1 is consistent for
the balanced error.
"""

from abc import ABC
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from jsonargparse.typing import ClosedUnitInterval, NonNegativeFloat, PositiveFloat
from torch import Tensor

from vitlab.models import ImageModel
from vitlab.objectives.classification import ClassificationTask
from vitlab.objectives.labeled import LabeledObjective
from vitlab.objectives.objective import Labels, Scalar


class Classifier(LabeledObjective, ABC):
    """Learn the class of an image; a subclass defines `loss` by `label_loss`.

    Args:
        backbone: Its number of classes must be the data's.
        labeled: What `LabeledObjective` takes.
        label_smoothing: ε above.
        class_weights: w, a number for each class, or `balanced`: scikit-learn's n / (K n_k). They are scaled to a mean
            of 1 over the training images; B divides the loss, and not, as in torch, the batch's sum of weights, so that
            processes and accumulated batches add up to a whole batch.
        logit_adjustment: τ above; 1 in the paper.
        more: What `LabeledObjective` takes, by name.
    """

    task = ClassificationTask()
    class_weight: Tensor | None
    adjustment: Tensor | None

    def __init__(
        self,
        backbone: ImageModel,
        *labeled: Any,
        label_smoothing: ClosedUnitInterval = 0.0,
        class_weights: Literal["balanced"] | list[PositiveFloat] | None = None,
        logit_adjustment: NonNegativeFloat = 0.0,
        **more: Any,
    ) -> None:
        super().__init__(backbone, *labeled, **more)
        if class_weights is not None and logit_adjustment:
            raise ValueError("class_weights and logit_adjustment both correct for uneven classes; set one of them.")
        self.label_smoothing = label_smoothing
        self.class_weights, self.logit_adjustment = class_weights, logit_adjustment
        self.register_buffer("class_weight", None, persistent=False)
        self.register_buffer("adjustment", None, persistent=False)

    def setup(self, stage: str) -> None:
        super().setup(stage)
        if stage != "fit" or (self.class_weights is None and not self.logit_adjustment):
            return
        data, option = self.trainer.datamodule, "class_weights" if self.class_weights else "logit_adjustment"  # type: ignore[attr-defined]
        if data.balance:
            raise ValueError(f"data.balance and {option} both correct for uneven classes; set one of them.")
        counts, given = np.bincount(data.labels("train"), minlength=data.num_classes), self.class_weights
        share = torch.tensor(counts / counts.sum(), dtype=torch.float32, device=self.device)
        if self.logit_adjustment:
            self.adjustment = self.logit_adjustment * share.log()
        elif given == "balanced":
            self.class_weight = 1 / (len(share) * share)
        elif given is not None and len(given) == len(share):
            weights = torch.tensor(given, device=self.device)
            self.class_weight = weights / (share * weights).sum()
        else:
            raise ValueError(f"class_weights are {given}, but the data have {len(share)} classes; give one each.")

    def label_loss(self, logits: Float[Tensor, "B K"], labels: Labels) -> Scalar:
        """Return L for f(x) and y."""
        if self.adjustment is not None:
            logits = logits + self.adjustment
        if self.class_weight is None:
            return F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)
        epsilon, B = self.label_smoothing, len(labels)
        return F.cross_entropy(logits, labels, self.class_weight, reduction="sum", label_smoothing=epsilon) / B
