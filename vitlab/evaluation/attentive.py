"""Attentive probe: a query that attends to all patches of a frozen encoder, and a classifier of what it gathers.

    z = pool(norm(tokens)),    softmax(W z + b)

`pool` is timm's AttentionPoolLatent with one learned query, as in the evaluations of CAE, V-JEPA and AIM: features that
are spread over the patches, like MAE's, are not lost in a mean. Trained by AdamW with a cosine; the learning rate is
chosen on images held out of the training set. N images, T tokens, C channels, K classes.
"""

import math

import torch
import torch.nn.functional as F
from timm.layers import AttentionPoolLatent
from torch import Tensor, nn

from vitlab.models import ImageModel

RATES = (3.0e-4, 1.0e-3, 3.0e-3)
WEIGHT_DECAY = 0.05
EPOCHS, LEAST_STEPS = 20, 400  # few images are seen more often
BATCH = 128
HEADS = (12, 8, 6, 4, 3, 2, 1)


def tokens_of(model: ImageModel, images: Tensor) -> Tensor:
    """Return the last map of a model, as tokens (B, T, C); a convolutional network has one too."""
    features = model.forward_intermediates(images, 1, intermediates_only=True)[-1]  # (B, C, h, w)
    return features.flatten(2).transpose(1, 2)


class AttentiveHead(nn.Module):
    """Classify tokens (B, T, C)."""

    def __init__(self, width: int, num_classes: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.pool = AttentionPoolLatent(width, num_heads=next(n for n in HEADS if width % n == 0))
        self.head = nn.Linear(width, num_classes)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the logits (B, K)."""
        return self.head(self.pool(self.norm(tokens)))


def fit_attentive_probe(
    train: tuple[Tensor, Tensor], held_out: tuple[Tensor, Tensor], num_classes: int, seed: int, device: torch.device
) -> AttentiveHead:
    """Train a head at each rate, and return the one that is best on `held_out`: tokens (N, T, C), labels (N,).

    A function of its arguments: the global random state is left as it was.
    """
    heads = []
    for rate in RATES:
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(seed)
            heads.append(_trained(train, num_classes, rate, seed, device))
    tokens, labels = held_out  # of equally good heads `max` returns the first, that of the lowest rate
    return max(heads, key=lambda head: int((logits_of(head, tokens).argmax(dim=1) == labels).sum()))


@torch.no_grad()
def logits_of(head: AttentiveHead, tokens: Tensor) -> Tensor:
    """Return the logits (N, K) of tokens (N, T, C), on the CPU."""
    device = head.head.weight.device
    return torch.cat([head(part.to(device)).cpu() for part in tokens.split(BATCH)])


def _trained(
    train: tuple[Tensor, Tensor], num_classes: int, rate: float, seed: int, device: torch.device
) -> AttentiveHead:
    tokens, labels = train
    head = AttentiveHead(tokens.shape[2], num_classes).to(device)
    optimizer = torch.optim.AdamW(head.parameters(), lr=rate, weight_decay=WEIGHT_DECAY)
    per_epoch = math.ceil(len(tokens) / BATCH)
    epochs = max(EPOCHS, math.ceil(LEAST_STEPS / per_epoch))
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * per_epoch)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        for chosen in torch.randperm(len(tokens), generator=generator).split(BATCH):
            optimizer.zero_grad()
            F.cross_entropy(head(tokens[chosen].to(device)), labels[chosen].to(device)).backward()
            optimizer.step()
            scheduler.step()
    return head
