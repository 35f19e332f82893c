"""Masked autoencoder (He et al. 2022, https://arxiv.org/abs/2111.06377): encode what is visible, decode the rest.

    z = encode(visible patches of x);    x̂ = decode(z at their places, a mask token at all others)
    L = Σ m_i ‖x_i − x̂_i‖² / (V · Σ m_i)

with x_i the V = p·p·C values of patch i, by default normalized to mean 0 and variance 1, and m_i = 1 if it is hidden.
Two variants of the paper are settings: m_i = 1 for all patches (its footnote 1), and an encoder that sees mask tokens
at the hidden places, as BERT's does, so that the decoder needs none (Table 1c, "encoder w/ [M]").

Letters: B images, N patches, K of them visible, P prefix tokens, D width of the encoder, E of the decoder.
"""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from jsonargparse.typing import OpenUnitInterval
from torch import Tensor, nn

from vitlab import log
from vitlab.distributed import local_rows, num_processes
from vitlab.models import Features, VisionTransformer
from vitlab.models.layers import check_heads, init_linears, sincos_table, xavier
from vitlab.models.vit import Attention, Block
from vitlab.objectives.masking import enlarge, gather_tokens, patchify, random_masking, scatter_tokens, unpatchify
from vitlab.objectives.objective import Labels, Scalar, Views
from vitlab.objectives.pretraining import MaskedPretraining, require_final_norm
from vitlab.optim import Optimizer, Schedule

LARGE_DECODER = 3.0  # times the encoder's parameters; 0.3 for the published ViT-B


class Decoder(nn.Module):
    """A narrow ViT with fixed positions that predicts the pixels of all patches."""

    pos_embed: Tensor

    def __init__(
        self,
        grid: tuple[int, int],
        in_dim: int,
        out_dim: int,
        dim: int,
        depth: int,
        num_heads: int,
        mask_token: bool = True,
        expand: int = 1,
    ) -> None:
        super().__init__()
        check_heads(dim, num_heads, "A decoder_embed_dim")
        self.expand = expand  # a token of the encoder becomes as many, squared
        self.embed = nn.Linear(in_dim, expand**2 * dim)
        self.mask_token = new_mask_token(dim) if mask_token else None
        self.register_buffer("pos_embed", sincos_table(dim, *grid), persistent=False)  # (N, E)
        self.blocks = nn.Sequential(
            *(Block(dim, Attention(dim, num_heads, True, 0.0, 0.0), 4.0, 0.0, 0.0, None) for _ in range(depth))
        )
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.pred = nn.Linear(dim, out_dim)
        init_linears(self, xavier)

    def forward(self, latent: Features, keep: Int[Tensor, "B K"]) -> Float[Tensor, "B {len(self.pos_embed)} V"]:
        prefix = self.embed(latent.prefix)  # (B, P, E), of no position
        patches = self.embed(latent.patches)  # (B, K, E); (B, N, E) of an encoder with mask tokens
        if self.expand > 1:  # a token of a Swin, which has no prefix
            side = math.isqrt(patches.shape[1])
            patches = F.pixel_shuffle(patches.mT.unflatten(2, (side, side)), self.expand).flatten(2).mT
            prefix = patches[:, :0]
        if self.mask_token is not None:
            patches = scatter_tokens(patches, keep, len(self.pos_embed), self.mask_token)  # (B, N, E)
        x = self.blocks(torch.cat([prefix, patches + self.pos_embed], dim=1))
        return self.pred(self.norm(x[:, prefix.shape[1] :]))


class MAE(MaskedPretraining):
    """Pre-train a ViT on a quarter of each image's patches; a Swin cannot drop tokens.

    The released code initializes nothing as timm does: `released_init: true` for patch embedding and class token, the
    backbone's `init: vitlab.models.layers.xavier` for linear layers and `fixed_pos_embed: true` for positions.

    Args:
        backbone: A VisionTransformer; its classifier is removed.
        optimizer: Settings of the optimizer.
        schedule: The learning rate over the run, with its warm-up: a class of `vitlab.optim`.
        mask_ratio: Fraction of patches that are hidden.
        norm_pix_loss: Normalize each patch of the target, which learns better features.
        loss_on: Patches that the loss is the mean over: the hidden ones, or all.
        mask_tokens: Where hidden patches are filled in: before the decoder, or before the encoder, which then computes
            on all patches.
        decoder_embed_dim: Width of the decoder.
        decoder_depth: Blocks of the decoder.
        decoder_num_heads: Heads of the decoder.
        released_init: Initialize patch embedding and class token as released; not for a trained backbone.
        init_from: Weights to start from: a file, a folder, a run directory, or a name on the hub, `timm/…`.
    """

    def __init__(
        self,
        backbone: VisionTransformer,
        optimizer: Optimizer,
        schedule: Schedule,
        mask_ratio: OpenUnitInterval = 0.75,
        norm_pix_loss: bool = True,
        decoder_embed_dim: int = 512,
        decoder_depth: int = 8,
        decoder_num_heads: int = 16,
        released_init: bool = False,
        loss_on: Literal["masked", "all"] = "masked",
        mask_tokens: Literal["decoder", "encoder"] = "decoder",
        init_from: str | None = None,
    ) -> None:
        super().__init__(backbone, optimizer, schedule, init_from)
        require_final_norm(backbone)
        height, width = backbone.patch_embed.grid_size
        self.backbone: VisionTransformer = backbone
        self.mask_ratio, self.norm_pix_loss, self.loss_on = mask_ratio, norm_pix_loss, loss_on
        if released_init:
            nn.init.xavier_uniform_(backbone.patch_embed.proj.weight.data.flatten(1))  # as the linear layer that it is
            if backbone.cls_token is not None:
                nn.init.normal_(backbone.cls_token, std=0.02)
        values = backbone.patch_size**2 * backbone.in_chans
        in_decoder = mask_tokens == "decoder"
        sizes = backbone.num_features, values, decoder_embed_dim, decoder_depth, decoder_num_heads
        self.decoder = Decoder((height, width), *sizes, mask_token=in_decoder)
        self.mask_token = None if in_decoder else new_mask_token(backbone.patch_embed.proj.out_channels)

    def setup(self, stage: str) -> None:
        super().setup(stage)
        decoder, encoder = (sum(p.numel() for p in part.parameters()) for part in (self.decoder, self.backbone))
        if stage == "fit" and decoder > LARGE_DECODER * encoder:
            wrong = f"The decoder has {decoder / encoder:.0f} times the encoder's {encoder:,} parameters"
            log.warning("%s: give a smaller model.decoder_embed_dim and model.decoder_depth than a ViT-B's.", wrong)

    def no_weight_decay(self) -> set[str]:
        """Only biases and norms: the released code decays the class token and the mask token too."""
        return set()

    def loss(self, views: Views, labels: Labels) -> Scalar:
        (images,) = views  # MAE sees one view and never the labels
        batch, num_patches = len(images), len(self.decoder.pos_embed)
        drawn = random_masking(batch * num_processes(), num_patches, self.mask_ratio, images.device)
        keep, mask = map(local_rows, drawn)

        pred = self.reconstruct(images, keep)  # (B, N, V)
        target = patchify(images, self.backbone.patch_size)  # (B, N, V)
        mask = mask if self.loss_on == "masked" else torch.ones_like(mask)
        return masked_mse(pred, normalize_patches(target) if self.norm_pix_loss else target, mask)

    def reconstruct(self, images: Float[Tensor, "B C H W"], keep: Int[Tensor, "B K"]) -> Float[Tensor, "B N V"]:
        """Predict all patches from the visible ones."""
        tokens = self.backbone.patch_embed(images)  # (B, H, W, D)
        if self.mask_token is None:
            tokens = self.backbone.add_pos_embed(tokens).flatten(1, 2)  # (B, N, D)
            return self.decoder(self.backbone.encode(gather_tokens(tokens, keep)), keep)
        visible = gather_tokens(tokens.flatten(1, 2), keep)  # (B, K, D)
        tokens = scatter_tokens(visible, keep, len(self.decoder.pos_embed), self.mask_token).view_as(tokens)
        return self.decoder(self.backbone.encode(self.backbone.add_pos_embed(tokens).flatten(1, 2)), keep)

    def fill_in(
        self, images: Float[Tensor, "B C H W"], generator: torch.Generator
    ) -> tuple[Float[Tensor, "B C H W"], Bool[Tensor, "B H W"]]:
        grid, patch = self.backbone.patch_embed.grid_size, self.backbone.patch_size
        keep, mask = random_masking(len(images), len(self.decoder.pos_embed), self.mask_ratio, images.device, generator)
        pred = self.reconstruct(images, keep)  # (B, N, V)
        if self.norm_pix_loss:
            mean, std = patch_statistics(patchify(images, patch))
            pred = mean + std * pred
        return unpatchify(pred, patch, *grid), enlarge(mask.unflatten(1, grid), patch)


def new_mask_token(dim: int) -> nn.Parameter:
    """Return a token (1, 1, `dim`) that stands for each hidden patch."""
    return nn.Parameter(nn.init.normal_(torch.empty(1, 1, dim), std=0.02))


def normalize_patches(patches: Float[Tensor, "B N V"]) -> Float[Tensor, "B N V"]:
    """Give the values of each patch mean 0 and (unbiased) variance 1."""
    mean, std = patch_statistics(patches)
    return (patches - mean) / std


def patch_statistics(patches: Float[Tensor, "B N V"]) -> tuple[Float[Tensor, "B N 1"], Float[Tensor, "B N 1"]]:
    """Return mean and (unbiased) deviation of each patch."""
    variance, mean = torch.var_mean(patches, dim=-1, keepdim=True)
    return mean, (variance + 1e-6).sqrt()


def masked_mse(
    pred: Float[Tensor, "B N V"], target: Float[Tensor, "B N V"], mask: Bool[Tensor, "B N"]
) -> Float[Tensor, ""]:
    """Return the mean of (pred − target)² over the values of patches in the mask."""
    error = (pred - target).square().mean(dim=-1)  # (B, N)
    return (error * mask).sum() / mask.sum()
