"""Vision Transformer (Dosovitskiy et al. 2021, https://arxiv.org/abs/2010.11929) and DeiT (Touvron et al. 2021,
https://arxiv.org/abs/2012.12877).

    z = [cls; dist; reg; patches] + pos
    z = z + Attention(LN(z));  z = z + MLP(LN(z))      in every block
    Attention = softmax(q kᵀ / √d) v                   q, k, v = LN(z) W, in h heads of width d

B images, H × W patches, N = H·W, D width, P prefix tokens: the class token, DeiT's
distillation token, registers. Names are timm's.
"""

from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vitlab.models.backbone import AttentionMap, Backbone, FeatureInfo, Features, recompute_attention
from vitlab.models.impulses import start_with_impulses
from vitlab.models.layers import (
    BatchNorm,
    DropPath,
    Init,
    LayerScale,
    Mlp,
    PatchDropout,
    PatchEmbed,
    add_positions,
    attention,
    check_heads,
    classifier,
    default_init,
    drop_path_rates,
    init_linears,
    new_classifier,
    resize_pos_embed,
    run_block,
    sincos_table,
)

Heads = Float[Tensor, "B h N d"]


def layer_norm(dim: int) -> nn.LayerNorm:
    """Return timm's layer norm."""
    return nn.LayerNorm(dim, eps=1e-6)


class Attention(nn.Module):
    """Multi-head self-attention over all tokens."""

    def __init__(self, dim: int, num_heads: int, qkv_bias: bool, attn_drop: float, proj_drop: float) -> None:
        super().__init__()
        self.num_heads, self.attn_drop = num_heads, attn_drop
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = nn.Dropout(proj_drop)

    def project_qkv(self, x: Float[Tensor, "B N D"]) -> tuple[Heads, Heads, Heads]:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        return q, k, v

    def forward(self, x: Float[Tensor, "B N D"]) -> Float[Tensor, "B N D"]:
        q, k, v = self.project_qkv(x)
        x = attention(q, k, v, self.attn_drop if self.training else 0.0)
        return self.proj_drop(self.proj(x.transpose(1, 2).flatten(2)))

    def attention_probs(self, x: Float[Tensor, "B N D"]) -> Float[Tensor, "B h N N"]:
        """Return the attention that `forward` applies."""
        q, k, _ = self.project_qkv(x)
        return (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).softmax(dim=-1)


class Block(nn.Module):
    """Attention and MLP; norms precede both."""

    def __init__(
        self,
        dim: int,
        attn: Attention,
        mlp_ratio: float,
        drop: float,
        drop_path: float,
        init_values: float | None,
        norm: Callable[[int], nn.Module] = layer_norm,
    ) -> None:
        super().__init__()
        self.norm1 = norm(dim)
        self.attn = attn
        self.ls1 = nn.Identity() if init_values is None else LayerScale(dim, init_values)
        self.norm2 = norm(dim)
        self.mlp = Mlp(dim, int(dim * mlp_ratio), drop)
        self.ls2 = nn.Identity() if init_values is None else LayerScale(dim, init_values)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Float[Tensor, "B N D"]) -> Float[Tensor, "B N D"]:
        x = x + self.drop_path(self.ls1(self.attn(self.norm1(x))))
        return x + self.drop_path(self.ls2(self.mlp(self.norm2(x))))


class VisionTransformer(Backbone):
    """Encode an image, or any subset of its patches, with plain transformer blocks.

    Args:
        global_pool: the classifier reads the class token, or the mean of the patch tokens.
        class_token: false: no class token; `global_pool` is then avg.
        reg_tokens: registers, additional learned tokens that no head reads (Darcet et al. 2023,
            https://arxiv.org/abs/2309.16588).
        cls_token_std: σ of the class token at the start; 0.02 in the released code of DeiT, DINO, MAE and MSN.
        init_values: initial LayerScale (DeiT III); None for no LayerScale.
        norm: `batch` puts a batch norm in the place of every layer norm: each channel is normalized over all tokens of
            all images of a batch, and in evaluation by running averages. Yao et al. 2021 ("Leveraging Batch
            Normalization for Vision Transformers", ICCV workshops) saw this replacement diverge, until another batch
            norm between the two layers of the MLP, absent here, fixed it.
        no_embed_class: add positions to patches only, none to prefix tokens (DeiT III, DINOv2 with registers).
        fc_norm: normalize after pooling instead of before; by default only for the mean.
        distilled: add DeiT's distillation token and second classifier.
        fixed_pos_embed: MAE's sin-cos table, not trained, in place of learned positions.
        dynamic_img_size: accept images of other sizes and resize positions. On by default, unlike timm, for multi-crop.
        dynamic_img_pad: zero-pad images whose sides are not multiples of the patch at the bottom and right.
        patch_drop_rate: fraction of the patches dropped while training, drawn for each image (Liu et al. 2022,
            https://arxiv.org/abs/2208.07220); prefix tokens stay. Where the objective hides patches itself (MAE,
            SimMIM, MSN), no others are left out.
        init: initializes linear layers; by default timm's `trunc_normal`, and `fan_in` below DeiT-Ti's width of 192.
        impulses: distance in tokens of the neighbor that each head attends to at the start, see
            `vitlab.models.impulses`: 1, or 2 where images grow from half their size; 0, as published: none.
        patch_init: initializes the patch embedding, taken as a linear layer; by default PyTorch's uniform numbers.
        grad_checkpointing: recompute each block's activations in the backward pass instead of storing them.
    """

    def __init__(
        self,
        img_size: int | tuple[int, int] = 224,
        patch_size: int = 16,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: Literal["token", "avg"] = "token",
        embed_dim: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        init_values: float | None = None,
        norm: Literal["layer", "batch"] = "layer",
        class_token: bool = True,
        no_embed_class: bool = False,
        reg_tokens: int = 0,
        fc_norm: bool | None = None,
        distilled: bool = False,
        fixed_pos_embed: bool = False,
        dynamic_img_size: bool = True,
        dynamic_img_pad: bool = False,
        drop_rate: float = 0.0,
        pos_drop_rate: float = 0.0,
        patch_drop_rate: float = 0.0,
        proj_drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        init: Init | None = None,
        impulses: int = 0,
        patch_init: Init | None = None,
        cls_token_std: float = 1e-6,
        grad_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        check_heads(embed_dim, num_heads, "An embed_dim")
        self.num_classes, self.in_chans, self.num_features = num_classes, in_chans, embed_dim
        self.init = init or default_init(embed_dim, published=192)
        self.distilled, self.no_embed_class, self.grad_checkpointing = distilled, no_embed_class, grad_checkpointing
        if distilled and (reg_tokens or not class_token):
            raise ValueError("distilled: true has DeiT's class token and no registers; leave both settings out.")
        self.num_class_tokens, self.num_prefix_tokens = class_token + distilled, class_token + distilled + reg_tokens
        self.global_pool = self._check_pool(global_pool)

        embed = PatchEmbed(img_size, patch_size, in_chans, embed_dim, None, dynamic_img_size, dynamic_img_pad)
        self.patch_embed, self.img_size, (H, W) = embed, embed.img_size, embed.grid_size
        self.cls_token = nn.Parameter(torch.empty(1, 1, embed_dim)) if class_token else None
        self.dist_token = nn.Parameter(torch.empty(1, 1, embed_dim)) if distilled else None
        self.reg_token = nn.Parameter(torch.empty(1, reg_tokens, embed_dim)) if reg_tokens else None
        embed_len = H * W + (0 if no_embed_class else self.num_prefix_tokens)
        self.pos_embed = nn.Parameter(torch.zeros(1, embed_len, embed_dim), requires_grad=not fixed_pos_embed)
        self.pos_drop, self.patch_drop = nn.Dropout(pos_drop_rate), PatchDropout(patch_drop_rate)
        if norm == "batch" and grad_checkpointing:
            raise ValueError("norm: batch with grad_checkpointing: true would average each batch twice; turn one off.")
        new_norm: Callable[[int], nn.Module] = layer_norm if norm == "layer" else BatchNorm
        blocks = []
        for rate in drop_path_rates(drop_path_rate, depth):
            attn = Attention(embed_dim, num_heads, qkv_bias, attn_drop_rate, proj_drop_rate)
            blocks.append(Block(embed_dim, attn, mlp_ratio, proj_drop_rate, rate, init_values, new_norm))
        self.blocks = nn.ModuleList(blocks)
        norm_last = (global_pool == "avg") if fc_norm is None else fc_norm
        self.norm = nn.Identity() if norm_last else new_norm(embed_dim)
        self.fc_norm = new_norm(embed_dim) if norm_last else nn.Identity()
        self.head_drop = nn.Dropout(drop_rate)
        self.head = classifier(embed_dim, num_classes)
        self.head_dist = classifier(embed_dim, num_classes) if distilled else None

        init_linears(self, self.init)
        if patch_init is not None:
            linear = nn.Linear(in_chans * patch_size**2, embed_dim)
            patch_init(linear)
            embed.proj.weight = nn.Parameter(linear.weight.detach().view_as(embed.proj.weight))
            embed.proj.bias = nn.Parameter(linear.bias.detach())
        if self.cls_token is not None:
            nn.init.normal_(self.cls_token, std=cls_token_std)
        if self.dist_token is not None:
            nn.init.trunc_normal_(self.dist_token, std=0.02)
        if self.reg_token is not None:
            nn.init.normal_(self.reg_token, std=1e-6)
        if fixed_pos_embed:  # rows of prefix tokens stay 0, as in MAE
            self.pos_embed.data[0, -H * W :] = sincos_table(embed_dim, H, W).to(self.pos_embed)
        else:
            nn.init.trunc_normal_(self.pos_embed, std=0.02)
        if impulses and fixed_pos_embed:
            raise ValueError("impulses need positions of their own; with fixed_pos_embed: true set impulses: 0.")
        if impulses:
            qkvs = [block.attn.qkv for block in blocks]
            start_with_impulses(qkvs, num_heads, self.pos_embed[0, -H * W :], (H, W), impulses)

    def _check_pool(self, global_pool: str) -> str:
        if global_pool == "token" and not self.num_class_tokens:
            raise ValueError("global_pool token reads the class token, and class_token is false; give avg.")
        if global_pool == "avg" and self.distilled:
            raise ValueError("global_pool must be token for a distilled model, not avg.")
        return global_pool

    def add_pos_embed(self, tokens: Float[Tensor, "B H W D"]) -> Float[Tensor, "B H W D"]:
        return add_positions(tokens, self.pos_embed, self.patch_embed.grid_size)

    def forward_features(self, images: Float[Tensor, "B Cin Hpx Wpx"]) -> Features:
        return self.encode(self.patch_drop(self.add_pos_embed(self.patch_embed(images))))

    def encode(self, tokens: Float[Tensor, "B *grid D"]) -> Features:
        """Run the blocks on all patches (B, H, W, D), or on any subset of them (B, K, D), behind the prefix tokens."""
        P = self.num_prefix_tokens
        x = tokens.flatten(1, -2)  # (B, N, D)
        if P:
            learned = (self.cls_token, self.dist_token, self.reg_token)
            prefix = torch.cat([token for token in learned if token is not None], dim=1)  # (1, P, D)
            if not self.no_embed_class:
                prefix = prefix + self.pos_embed[:, :P]
            x = torch.cat([prefix.expand(x.shape[0], -1, -1), x], dim=1)  # (B, P + N, D)
        x = self.pos_drop(x)
        for block in self.blocks:
            x = run_block(block, x, self.grad_checkpointing)
        x = self.norm(x)
        return Features(prefix=x[:, :P], patches=x[:, P:])

    def pool(self, features: Features) -> Float[Tensor, "B C"]:
        """Return what the classifier reads; for a distilled model the mean of its two tokens, as in timm."""
        read = features.prefix[:, : self.num_class_tokens] if self.global_pool == "token" else features.patches
        return self.fc_norm(read.mean(dim=1))

    def forward_heads(self, features: Features) -> tuple[Float[Tensor, "B K"], Float[Tensor, "B K"]]:
        """Return the logits of the class token and of the distillation token, for the distillation objective."""
        assert self.head_dist is not None, "only a model built with distilled=True has two heads"
        cls, dist = self.head_drop(self.fc_norm(features.prefix)).unbind(dim=1)
        return self.head(cls), self.head_dist(dist)

    def forward_head(self, features: Features) -> Float[Tensor, "B K"]:
        """Return the logits, averaged over two heads (official code; the paper adds probabilities)."""
        if self.distilled:
            return torch.stack(self.forward_heads(features)).mean(dim=0)
        return self.head(self.head_drop(self.pool(features)))

    @property
    def feature_info(self) -> list[FeatureInfo]:
        """Of each block, all of which have the width and the stride of the output."""
        return [
            FeatureInfo(module=f"blocks.{i}", num_chs=self.num_features, reduction=self.stride)
            for i in range(len(self.blocks))
        ]

    def set_input_size(self, img_size: int | tuple[int, int]) -> None:
        """Rebuild a trained model for images of another size, resizing its positions."""
        old, positions = self.patch_embed.grid_size, self.pos_embed
        self.patch_embed.set_input_size(img_size)
        self.img_size, num_prefix = self.patch_embed.img_size, positions.shape[1] - old[0] * old[1]
        resized = resize_pos_embed(positions.detach(), num_prefix, old, self.patch_embed.grid_size)
        self.pos_embed = nn.Parameter(resized, requires_grad=positions.requires_grad)

    def attention_maps(self, images: Float[Tensor, "B Cin Hpx Wpx"]) -> list[AttentionMap]:
        """Return each block's attention among all tokens."""
        size = self.patch_embed.grid_of(images)
        probs = recompute_attention(self, [block.attn for block in self.blocks], images)  # type: ignore[misc]
        keys = torch.arange(probs[0].shape[-1], device=images.device).expand(probs[0].shape[-2:])
        return [AttentionMap(p, keys, size, self.stride) for p in probs]

    def reset_classifier(self, num_classes: int, global_pool: Literal["token", "avg"] | None = None) -> None:
        self.num_classes, self.global_pool = num_classes, self._check_pool(global_pool or self.global_pool)
        self.head = new_classifier(self.num_features, num_classes, self.init, like=self.pos_embed)
        if self.distilled:
            self.head_dist = new_classifier(self.num_features, num_classes, self.init, like=self.pos_embed)

    def no_weight_decay(self) -> set[str]:
        """Positions and prefix tokens. DeiT's released run decayed `dist_token`; timm does not."""
        return {"pos_embed", "cls_token", "dist_token", "reg_token"} & {name for name, _ in self.named_parameters()}

    def head_parameters(self) -> list[nn.Parameter]:
        return [*self.head.parameters(), *([] if self.head_dist is None else self.head_dist.parameters())]
