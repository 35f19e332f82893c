"""UM-MAE (Li et al. 2022, https://arxiv.org/abs/2205.10063): a masked autoencoder for backbones that need a whole map.

    keep one patch of each 2 × 2;  x' = the map of half the size that the kept ones form
    z = encode(x', a quarter of whose patches is hidden again);    x̂ = decode(z at their places, mask tokens at others)
    L = Σ m_i ‖x_i − x̂_i‖² / (V · Σ m_i)

with x_i the V = p·p·C values of patch i, normalized to mean 0 and variance 1, and m_i = 1 if it is not kept. The
half-size map has no holes, so a Swin can partition it into windows and merge it. Regular gaps make the task too easy:
therefore some of the kept patches are hidden again, behind a learned token. They count as kept in the loss.

As in the released code, a window that covers a stage's half-size map is clamped to it and not shifted; and a token of a
Swin's last stage stands for several patches, and the decoder takes it apart. Three things differ. A Swin is vitlab's,
with its relative positions on the half-size map; there its bias is a function of the patches' places in the image. It
merges 2 × 2 tokens as Swin or Swin v2 does; there each is normalized, and a 2 × 2 convolution with a bias merges them.
And the decoder adds to each patch the position of that patch. There, positions are in the order of the image's rows and
patches in that of the half-size map (models_mae_swin.py, forward_decoder), which agree only where neighboring 2 × 2
keep patches of the same row.

Letters: B images, N patches of `mask_patch_size`, K = N / 4 of them kept, D width of the tokens, V as above.
"""

import torch
from jaxtyping import Bool, Float, Int
from jsonargparse.typing import ClosedUnitInterval, PositiveInt
from torch import Tensor

from vitlab.distributed import local_rows, num_processes
from vitlab.models import Backbone
from vitlab.models.windows import WindowBlock
from vitlab.objectives.mae import Decoder, masked_mse, new_mask_token, normalize_patches, patch_statistics
from vitlab.objectives.masking import compact, embed_hiding, enlarge, patchify, uniform_masking, unpatchify
from vitlab.objectives.objective import Labels, Scalar, Views
from vitlab.objectives.pretraining import MaskedPretraining, require_final_norm
from vitlab.optim import Optimizer, Schedule

Masks = tuple[Int[Tensor, "B K"], Bool[Tensor, "B N"], Bool[Tensor, "B N"]]
"""The kept patches, those that are not, and those of the kept ones that are hidden again."""


class UMMAE(MaskedPretraining):
    """Pre-train ViT, Swin or Swin v2 on a quarter of each image's patches, at about a quarter of an image's cost.

    Args:
        backbone: Any vitlab model; its classifier is removed.
        optimizer: Settings of the optimizer.
        schedule: The learning rate over the run, with its warm-up: a class of `vitlab.optim`.
        mask_patch_size: Side of the patches that are kept or hidden, in pixels: a ViT's own; 16 for a Swin, four times
            its own.
        secondary_ratio: Fraction of the kept patches that is hidden again.
        norm_pix_loss: Normalize each patch of the target.
        decoder_embed_dim: Width of the decoder, a plain ViT.
        decoder_depth: Blocks of the decoder.
        decoder_num_heads: Heads of the decoder.
        init_from: Weights to start from: a file, a folder, a run directory, or a name on the hub, `timm/…`.
    """

    def __init__(
        self,
        backbone: Backbone,
        optimizer: Optimizer,
        schedule: Schedule,
        mask_patch_size: PositiveInt = 16,
        secondary_ratio: ClosedUnitInterval = 0.25,
        norm_pix_loss: bool = True,
        decoder_embed_dim: int = 512,
        decoder_depth: int = 2,
        decoder_num_heads: int = 16,
        init_from: str | None = None,
    ) -> None:
        super().__init__(backbone, optimizer, schedule, init_from)
        require_final_norm(backbone)
        (height, width), own, last = backbone.img_size, backbone.patch_size, backbone.stride
        side = mask_patch_size
        if side % own or last % side or height != width or height % (2 * last):
            wrong = f"mask_patch_size is {side} px; own patches have {own} px and images {height} × {width}"
            remedy = f"Give a multiple of {own} that divides {last}, and square images of a multiple of {2 * last} px"
            raise ValueError(f"{wrong}. {remedy}.")
        for block in backbone.blocks:
            if isinstance(block, WindowBlock):
                block.clamps = True
        self.backbone: Backbone = backbone
        self.grid, self.side = (height // side, width // side), side // own  # in patches, in tokens
        self.mask_patch_size, self.secondary_ratio = side, secondary_ratio
        self.norm_pix_loss = norm_pix_loss
        self.mask_token = new_mask_token(backbone.patch_embed.proj.out_channels)
        values = side**2 * backbone.in_chans
        sizes = backbone.num_features, values, decoder_embed_dim, decoder_depth, decoder_num_heads
        self.decoder = Decoder(self.grid, *sizes, expand=last // side)

    def no_weight_decay(self) -> set[str]:
        """Only biases and norms, as in the released code."""
        return set()

    def loss(self, views: Views, labels: Labels) -> Scalar:
        (images,) = views
        drawn = self.draw_masks(len(images) * num_processes(), images.device)
        keep, mask, again = (local_rows(each) for each in drawn)
        target = patchify(images, self.mask_patch_size)  # (B, N, V)
        target = normalize_patches(target) if self.norm_pix_loss else target
        return masked_mse(self.reconstruct(images, keep, again), target, mask)

    def draw_masks(self, batch: int, device: torch.device, generator: torch.Generator | None = None) -> Masks:
        """Keep a quarter of the patches, and hide a fraction of these again, rounded up as released."""
        keep, mask = uniform_masking(batch, *self.grid, device, generator)
        order = torch.rand(keep.shape, device=device, generator=generator).argsort(dim=1)
        hidden = keep.gather(1, order[:, int(keep.shape[1] * (1 - self.secondary_ratio)) :])
        return keep, mask, torch.zeros_like(mask).scatter(1, hidden, True)

    def reconstruct(
        self, images: Float[Tensor, "B C H W"], keep: Int[Tensor, "B K"], again: Bool[Tensor, "B N"]
    ) -> Float[Tensor, "B N V"]:
        """Predict all patches from those that are kept and not hidden again."""
        hidden = again.unflatten(1, self.grid)
        fill = self.backbone.patch_embed.norm(self.mask_token)
        tokens = embed_hiding(self.backbone, images, hidden, fill)  # (B, H, W, D)
        return self.decoder(self.backbone.encode(compact(tokens, keep, self.side)), keep)

    def fill_in(
        self, images: Float[Tensor, "B C H W"], generator: torch.Generator
    ) -> tuple[Float[Tensor, "B C H W"], Bool[Tensor, "B H W"]]:
        keep, mask, again = self.draw_masks(len(images), images.device, generator)
        pred = self.reconstruct(images, keep, again)
        if self.norm_pix_loss:
            mean, std = patch_statistics(patchify(images, self.mask_patch_size))
            pred = mean + std * pred
        hidden = (mask | again).unflatten(1, self.grid)
        return unpatchify(pred, self.mask_patch_size, *self.grid), enlarge(hidden, self.mask_patch_size)
