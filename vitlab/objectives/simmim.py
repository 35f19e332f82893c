"""SimMIM (Xie et al. 2022, https://arxiv.org/abs/2111.09886): predict the pixels of hidden blocks.

    x̂ = PixelShuffle(W z + b),    z = encode(m · mask token + (1 − m) · patch_embed(x))
    L = Σ m |x − x̂| / (C · Σ m)

with x the image, m the mask (1: hidden) on tokens and, in L, on pixels, and C channels. No token
is dropped, so windows keep their shape. Patches must not overlap. Swin v2 normalizes the target, x ← (x − μ) / σ, in a
sliding window. The loss on all pixels, m = 1 in L, is a setting (in the paper: "Prediction or reconstruction?").
"""

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from jsonargparse.typing import OpenUnitInterval, PositiveInt
from torch import Tensor, nn

from vitlab.distributed import local_rows, num_processes
from vitlab.models import Backbone
from vitlab.models.backbone import in_eval_mode
from vitlab.objectives.masking import block_masking, embed_hiding, enlarge, num_hidden_blocks
from vitlab.objectives.objective import Labels, Scalar, Views
from vitlab.objectives.pretraining import MaskedPretraining, require_final_norm, start_as_beit
from vitlab.optim import Optimizer, Schedule


class SimMIM(MaskedPretraining):
    """Pre-train any backbone on images without labels.

    Args:
        backbone: ViT, Swin or Swin v2; its classifier is removed.
        optimizer: Settings of the optimizer.
        schedule: The learning rate over the run, with its warm-up: a class of `vitlab.optim`.
        mask_patch_size: Side of the hidden blocks, in pixels.
        mask_ratio: Fraction of blocks that are hidden, rounded up.
        norm_targets: Side in pixels of the window that normalizes the target: 47 for Swin v2; null: no normalization.
        loss_on: Pixels that the loss is the mean over: the hidden ones, or all.
        released_init: Start a ViT as released, see `start_as_beit`; not a trained one.
        no_decay_positions: Exclude from weight decay what `backbone.no_weight_decay` lists, like position biases. The
            released code intends to, but its exclusions carry a prefix that matches no name.
        init_from: Weights to start from: a file, a folder, a run directory, or a name on the hub, `timm/…`.
    """

    def __init__(
        self,
        backbone: Backbone,
        optimizer: Optimizer,
        schedule: Schedule,
        mask_patch_size: PositiveInt = 32,
        mask_ratio: OpenUnitInterval = 0.6,
        norm_targets: PositiveInt | None = None,
        no_decay_positions: bool = False,
        loss_on: Literal["masked", "all"] = "masked",
        released_init: bool = False,
        init_from: str | None = None,
    ) -> None:
        super().__init__(backbone, optimizer, schedule, init_from)
        require_final_norm(backbone)
        (height, width), patch, block = backbone.img_size, backbone.patch_size, mask_patch_size
        blocks = (height // block) * (width // block)
        whole = not any(side % each for side in (height, width) for each in (block, backbone.stride))
        if block % patch or not whole or num_hidden_blocks(blocks, mask_ratio) == blocks:
            wrong = f"mask_patch_size {block} at mask_ratio {mask_ratio} does not fit {height} × {width} px"
            need = f"blocks are whole patches of {patch} px and fill images, as do tokens of {backbone.stride} px"
            raise ValueError(f"{wrong}: {need}, and some stay visible.")
        check_patches(backbone)
        if norm_targets is not None and norm_targets % 2 == 0:
            raise ValueError(f"norm_targets is {norm_targets}; a window has a middle: give an odd side from 3.")
        self.backbone: Backbone = backbone
        self.block = mask_patch_size // backbone.patch_size  # tokens a side
        self.mask_ratio, self.norm_targets, self.no_decay_positions = mask_ratio, norm_targets, no_decay_positions
        self.loss_on = loss_on
        self.mask_token = nn.Parameter(
            nn.init.trunc_normal_(torch.empty(1, 1, backbone.patch_embed.proj.out_channels), std=0.02)
        )
        if released_init:
            start_as_beit(backbone, self.mask_token)
        self.decoder = nn.Sequential(
            nn.Conv2d(backbone.num_features, backbone.stride**2 * backbone.in_chans, kernel_size=1),
            nn.PixelShuffle(backbone.stride),
        )

    def no_weight_decay(self) -> set[str]:
        return {"mask_token"} | (super().no_weight_decay() if self.no_decay_positions else set())

    def loss(self, views: Views, labels: Labels) -> Scalar:
        (images,) = views  # SimMIM sees one view and never the labels
        mask = self.draw_mask(images)

        pred = self.reconstruct(images, mask)  # (B, C, H, W)
        target = images if self.norm_targets is None else normalize_locally(images, self.norm_targets)
        mask = mask if self.loss_on == "masked" else torch.ones_like(mask)
        return masked_l1(pred, target, enlarge(mask, self.backbone.patch_size))

    def draw_mask(
        self, images: Float[Tensor, "B C H W"], generator: torch.Generator | None = None
    ) -> Bool[Tensor, "B h w"]:
        """Hide blocks of tokens."""
        batch, _, height, width = images.shape
        grid = height // self.backbone.patch_size, width // self.backbone.patch_size
        if generator is not None:
            return block_masking(batch, *grid, self.block, self.mask_ratio, images.device, generator)
        return local_rows(block_masking(batch * num_processes(), *grid, self.block, self.mask_ratio, images.device))

    def reconstruct(self, images: Float[Tensor, "B C H W"], mask: Bool[Tensor, "B h w"]) -> Float[Tensor, "B C H W"]:
        """Predict all pixels from the visible tokens."""
        latent = self.backbone.encode(embed_hiding(self.backbone, images, mask, self.mask_token)).patches  # (B, N, E)
        return self.decoder(latent.transpose(1, 2).unflatten(2, (images.shape[2] // self.backbone.stride, -1)))

    def fill_in(
        self, images: Float[Tensor, "B C H W"], generator: torch.Generator
    ) -> tuple[Float[Tensor, "B C H W"], Bool[Tensor, "B H W"]]:
        mask = self.draw_mask(images, generator)
        pred = self.reconstruct(images, mask)
        if self.norm_targets is not None:
            mean, std = local_statistics(images, self.norm_targets)
            pred = mean + std * pred
        return pred, enlarge(mask, self.backbone.patch_size)


def masked_l1(
    pred: Float[Tensor, "B C H W"], target: Float[Tensor, "B C H W"], mask: Bool[Tensor, "B H W"]
) -> Float[Tensor, ""]:
    """Return the mean of |pred − target| over the values of pixels in the mask (with the released code's 1e-5)."""
    error = (pred - target).abs() * mask[:, None]
    return error.sum() / (mask.sum() + 1e-5) / target.shape[1]


def normalize_locally(images: Float[Tensor, "B C H W"], window: int) -> Float[Tensor, "B C H W"]:
    """Normalize each pixel by mean and variance of its `window` × `window` neighborhood, cropped at the border."""
    mean, std = local_statistics(images, window)
    return (images - mean) / std


def local_statistics(
    images: Float[Tensor, "B C H W"], window: int
) -> tuple[Float[Tensor, "B C H W"], Float[Tensor, "B C H W"]]:
    """Return mean and unbiased deviation of each pixel's neighborhood inside the image."""

    def mean_around(values: Float[Tensor, "b c H W"], count_include_pad: bool = False) -> Float[Tensor, "b c H W"]:
        for side in ((window, 1), (1, window)):  # down, then across: 2 · 47 values for each pixel, not 47²
            values = F.avg_pool2d(values, side, 1, (side[0] // 2, side[1] // 2), count_include_pad=count_include_pad)
        return values

    count = mean_around(torch.ones_like(images[:1, :1]), count_include_pad=True) * window**2
    mean = mean_around(images)
    variance = (mean_around(images.square()) - mean.square()) * count / (count - 1)
    return mean, (variance.clamp(min=0) + 1e-6).sqrt()


@torch.no_grad()
def check_patches(backbone: Backbone) -> None:
    """Raise a ValueError if a patch's pixels reach other tokens: the mask hides tokens, not pixels."""
    patch, embed = backbone.patch_size, backbone.patch_embed
    if embed.proj.weight.is_meta:  # a model of shapes alone computes nothing
        return
    row, column = (side // patch // 2 for side in backbone.img_size)
    images = torch.zeros(2, backbone.in_chans, *backbone.img_size, device=embed.proj.weight.device)
    images[1, :, row * patch : (row + 1) * patch, column * patch : (column + 1) * patch] = 1.0
    with in_eval_mode(embed):
        black, other = embed(images)  # (h, w, D)
    changed = (black != other).any(dim=-1)
    changed[row, column] = False
    if bool(changed.any()):
        wrong = f"{type(backbone).__name__}: pixels of a hidden patch reach neighboring tokens"
        raise ValueError(f"{wrong}; use a patch_embed whose patches do not overlap.")
