"""Layers that several architectures use: patch embedding, MLP, stochastic depth, initializations, sin-cos table."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vitlab.distributed import local_rows, mean_over_processes, num_processes

Init = Callable[[nn.Linear], None]
"""Initializes a linear layer: `trunc_normal`, `fan_in`, or your own function by its import path."""


def pair(value: int | tuple[int, int]) -> tuple[int, int]:
    """Return (height, width) of a size given as one number or as two."""
    return (value, value) if isinstance(value, int) else (value[0], value[1])


def multiples_around(value: int, step: int) -> str:
    """Return the multiples of `step` nearest to `value`, as words for an error message."""
    below = value // step * step
    if below == value > 0:
        return f"{value}"
    return f"{below} or {below + step}" if below else f"{step}"


def trunc_normal(linear: nn.Linear) -> None:
    """Initialize as timm, DeiT and Swin do: normal, σ = 0.02, whatever the width; bias 0."""
    nn.init.trunc_normal_(linear.weight, std=0.02)
    if linear.bias is not None:
        nn.init.zeros_(linear.bias)


def fan_in(linear: nn.Linear) -> None:
    """Initialize with σ = 1/√fan_in (LeCun), which keeps the scale of activations at any width; bias 0.

    σ = 0.02 is this at a width of 2,500. At widths of 48–96 it shrinks activations in every layer, and a short
    training ends before the weights have grown.
    """
    nn.init.normal_(linear.weight, std=linear.in_features**-0.5)
    if linear.bias is not None:
        nn.init.zeros_(linear.bias)


def default_init(width: int, published: int) -> Init:
    """Return `trunc_normal` for models at least as wide as the narrowest published one, and `fan_in` for others."""
    return trunc_normal if width >= published else fan_in


def xavier(linear: nn.Linear) -> None:
    """Initialize as MAE does: uniform, of variance 2 / (fan_in + fan_out); bias 0."""
    nn.init.xavier_uniform_(linear.weight)
    if linear.bias is not None:
        nn.init.zeros_(linear.bias)


def xavier_apart(linear: nn.Linear) -> None:
    """Initialize as big_vision does: like `xavier`, but q, k and v as three separate layers.

    These are recognized by three times as many outputs as inputs, which an MLP of `mlp_ratio: 3` has, too.
    """
    parts = 3 if linear.out_features == 3 * linear.in_features else 1
    for weight in linear.weight.chunk(parts):
        nn.init.xavier_uniform_(weight)
    if linear.bias is not None:
        nn.init.zeros_(linear.bias)


class PatchEmbed(nn.Module):
    """Project non-overlapping patches: (B, in_chans, H·patch, W·patch) -> (B, H, W, D)."""

    def __init__(
        self,
        img_size: int | tuple[int, int],
        patch_size: int,
        in_chans: int,
        embed_dim: int,
        norm: nn.Module | None = None,
        dynamic_img_size: bool = True,
        dynamic_img_pad: bool = False,
    ) -> None:
        super().__init__()
        self.patch_size, self.dynamic_img_size, self.dynamic_img_pad = patch_size, dynamic_img_size, dynamic_img_pad
        self.set_input_size(img_size)
        self.proj = nn.Conv2d(in_chans, embed_dim, kernel_size=patch_size, stride=patch_size)
        self.norm = norm or nn.Identity()

    def forward(self, images: Float[Tensor, "B Cin Hpx Wpx"]) -> Float[Tensor, "B H W D"]:
        size = (images.shape[2], images.shape[3])
        if size != self.img_size:
            self.check(size)
            images = F.pad(images, (0, -size[1] % self.patch_size, 0, -size[0] % self.patch_size))
        return self.norm(self.proj(images).permute(0, 2, 3, 1))  # (B, H, W, D)

    def set_input_size(self, img_size: int | tuple[int, int]) -> None:
        self.grid_size, self.img_size = self.grid_at(img_size), pair(img_size)

    def grid_at(self, img_size: int | tuple[int, int]) -> tuple[int, int]:
        """Return (H, W) of the tokens for images of a size that patches divide."""
        size, patch = pair(img_size), self.patch_size
        if any(side < 1 or side % patch for side in size):
            near = " × ".join(multiples_around(side, patch) for side in size)
            raise ValueError(f"img_size {size} does not divide into patches of {patch} px. Sizes that do: {near}.")
        return size[0] // patch, size[1] // patch

    def check(self, size: tuple[int, int]) -> None:
        """Raise a ValueError for images of a size that cannot be embedded."""
        if size != self.img_size and not self.dynamic_img_size:
            raise ValueError(f"Images of {size} px for a model of {self.img_size} px with dynamic_img_size: false.")
        if not self.dynamic_img_pad and (size[0] % self.patch_size or size[1] % self.patch_size):
            near = " × ".join(multiples_around(side, self.patch_size) for side in size)
            wrong = f"Images of {size} px do not divide into patches of {self.patch_size} px; {near} do"
            raise ValueError(f"{wrong}. dynamic_img_pad: true pads the last patches.")

    def grid_of(self, images: Float[Tensor, "B Cin Hpx Wpx"]) -> tuple[int, int]:
        """Return (H, W) of the tokens of a batch of images."""
        return -(-images.shape[2] // self.patch_size), -(-images.shape[3] // self.patch_size)


def attention(
    q: Float[Tensor, "B h N d"], k: Float[Tensor, "B h N d"], v: Float[Tensor, "B h N d"], dropout: float
) -> Float[Tensor, "B h N d"]:
    """Return softmax(q kᵀ / √d) v."""
    if q.is_cpu and q.requires_grad and q.dtype == torch.bfloat16:
        # On the CPU, the backward of PyTorch's fused kernel in bfloat16 takes three to six times as long as these two
        # products. They keep N × N weights in memory.
        weights = (q * q.shape[-1] ** -0.5 @ k.transpose(-2, -1)).softmax(dim=-1, dtype=q.dtype)
        return F.dropout(weights, dropout) @ v
    return F.scaled_dot_product_attention(q, k, v, dropout_p=dropout)


class Mlp(nn.Module):
    """Linear, GELU, Linear."""

    def __init__(self, dim: int, hidden: int, drop: float) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.act = nn.GELU()
        self.drop = nn.Dropout(drop)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Float[Tensor, "B *N C"]) -> Float[Tensor, "B *N C"]:
        return self.drop(self.fc2(self.drop(self.act(self.fc1(x)))))


class BatchNorm(nn.Module):
    """Normalize each channel by its mean and variance over the tokens of all images of a batch: (B, *N, C).

    PyTorch's BatchNorm for channels that come last, over the batches of all processes, which SyncBatchNorm does on GPUs
    only: in evaluation it takes running averages of both (momentum 0.1, variance unbiased), unless none are tracked.
    Where gradients are accumulated, each batch has its own.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, dim: int, eps: float = 1e-5, momentum: float = 0.1, track_running_stats: bool = True) -> None:
        super().__init__()
        self.eps, self.momentum, self.track_running_stats = eps, momentum, track_running_stats
        self.weight, self.bias = nn.Parameter(torch.ones(dim)), nn.Parameter(torch.zeros(dim))
        self.register_buffer("running_mean", torch.zeros(dim) if track_running_stats else None)
        self.register_buffer("running_var", torch.ones(dim) if track_running_stats else None)

    def forward(self, x: Float[Tensor, "B *N C"]) -> Float[Tensor, "B *N C"]:
        x = x.to(self.weight.dtype)  # float32 under autocast too, as PyTorch's
        if not self.training and self.track_running_stats:
            return (x - self.running_mean) * (self.running_var + self.eps).rsqrt() * self.weight + self.bias
        dims = list(range(x.ndim - 1))
        mean = mean_over_processes(x.mean(dim=dims))
        x = x - mean
        variance = mean_over_processes(x.square().mean(dim=dims))
        if self.track_running_stats:
            with torch.no_grad():
                count = x.numel() // x.shape[-1] * num_processes()
                finite = variance.isfinite()  # a step that is skipped leaves nothing behind
                unbiased = variance * (count / max(count - 1, 1))
                self.running_mean.lerp_(torch.where(finite, mean, self.running_mean), self.momentum)
                self.running_var.lerp_(torch.where(finite, unbiased, self.running_var), self.momentum)
        return x * (variance + self.eps).rsqrt() * self.weight + self.bias


class DropPath(nn.Module):
    """Drop the branch of a residual block for whole samples while training, and scale the rest by 1/keep.

    Drawn for the global batch, so that processes differ, and together drop what one process would.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        if not 0 <= rate < 1:  # PyTorch names no setting, and in the first step
            raise ValueError(f"drop_path_rate must be at least 0 and below 1, not {rate}.")
        self.rate = rate

    def forward(self, x: Float[Tensor, "B *N C"]) -> Float[Tensor, "B *N C"]:
        if not self.training or self.rate == 0:
            return x
        keep = 1 - self.rate
        drawn = x.new_empty(num_processes() * x.shape[0], *[1] * (x.ndim - 1)).bernoulli_(keep)
        return x * local_rows(drawn).div_(keep)


class PatchDropout(nn.Module):
    """Drop a fraction of each image's patches while training, as timm does: (B, H, W, D) -> (B, K, D)."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, tokens: Float[Tensor, "B H W D"]) -> Float[Tensor, "B *grid D"]:
        if not self.training or self.rate == 0:
            return tokens
        tokens = tokens.flatten(1, 2)  # (B, N, D)
        B, N, D = tokens.shape
        drawn = local_rows(torch.randn(num_processes() * B, N, device=tokens.device))
        kept = drawn.argsort(dim=1)[:, : max(1, int(N * (1 - self.rate)))]
        return tokens.gather(1, kept.unsqueeze(-1).expand(-1, -1, D))


class LayerScale(nn.Module):
    """Scale each channel of a branch by a learned factor (CaiT, DeiT III)."""

    def __init__(self, dim: int, value: float) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((dim,), value))

    def forward(self, x: Float[Tensor, "B *N C"]) -> Float[Tensor, "B *N C"]:
        return x * self.gamma


def run_block(block: nn.Module, x: Tensor, grad_checkpointing: bool) -> Tensor:
    """Return block(x); with gradient checkpointing, its activations are recomputed in the backward pass."""
    return checkpoint(block, x, use_reentrant=False) if grad_checkpointing else block(x)


def drop_path_rates(rate: float, depth: int) -> list[float]:
    """Return the rate of each of `depth` blocks: linear from 0 at the first to `rate` at the last."""
    return [rate * i / max(depth - 1, 1) for i in range(depth)]


def check_heads(dim: int, num_heads: int, name: str = "A width") -> None:
    """Raise a ValueError unless `num_heads` divides the width `dim`."""
    if dim % num_heads:
        near = multiples_around(dim, num_heads)
        raise ValueError(f"{name} of {dim} does not divide among {num_heads} heads. Widths that do: {near}.")


def sincos_table(dim: int, height: int, width: int) -> Float[Tensor, "N dim"]:
    """Return MAE's fixed 2-D sin-cos position embedding of each patch, row by row.

    The first half of the channels encodes the column and the second half the row, each as all sines, then all
    cosines, with frequencies 10000^(-4i/dim). The released MAE weights need this order; other code has another.
    """
    if dim % 4:
        raise ValueError(f"A 2-D sin-cos table needs a width divisible by 4, not {dim}: {multiples_around(dim, 4)}.")
    return sincos_waves(10000.0 ** -(torch.arange(dim // 4, dtype=torch.float64) / (dim // 4)), height, width)


def sincos_waves(omega: Float[Tensor, "F"], height: int, width: int) -> Float[Tensor, "N 4*F"]:
    """Return sin(ωx), cos(ωx), sin(ωy) and cos(ωy) of each patch, row by row, with x its column and y its row."""
    rows, columns = torch.cartesian_prod(torch.arange(height), torch.arange(width)).double().unbind(dim=1)
    angles = [position[:, None] * omega for position in (columns, rows)]  # (N, F) each
    return torch.cat([wave for angle in angles for wave in (angle.sin(), angle.cos())], dim=1).float()


def resample_grid(
    table: Float[Tensor, "H W D"], height: int, width: int, antialias: bool = True
) -> Float[Tensor, "height width D"]:
    """Resize a grid of vectors by bicubic interpolation in float32.

    timm resizes position embeddings with antialiasing, Swin's code its tables without. The kernels differ even when
    the grid grows.
    """
    if table.shape[:2] == (height, width):
        return table
    if table.is_cuda and torch.are_deterministic_algorithms_enabled():
        return resample_by_sums(table, height, width, antialias)
    grid = table.float().permute(2, 0, 1).unsqueeze(0)
    grid = F.interpolate(grid, size=(height, width), mode="bicubic", antialias=antialias)
    return grid[0].permute(1, 2, 0).to(table.dtype)


def resample_by_sums(
    table: Float[Tensor, "H W D"], height: int, width: int, antialias: bool
) -> Float[Tensor, "height width D"]:
    """Resample as `resample_grid`, by a weighted sum for each side: the gradient of CUDA's kernel has no fixed order of
    summation, which `torch.use_deterministic_algorithms` refuses. Autocast would round products of matrices.
    """

    def weights(old: int, new: int) -> Float[Tensor, "new old"]:
        unit = torch.eye(old, device=table.device)[None, None]
        return F.interpolate(unit, size=(new, old), mode="bicubic", antialias=antialias)[0, 0]

    rows, columns = weights(table.shape[0], height), weights(table.shape[1], width)
    tall = (rows[:, :, None, None] * table.float()).sum(dim=1)  # (height, W, D)
    return (columns[:, :, None] * tall[:, None]).sum(dim=2).to(table.dtype)  # (height, width, D)


def resize_pos_embed(
    pos_embed: Float[Tensor, "1 PN D"], num_prefix: int, old: tuple[int, int], new: tuple[int, int]
) -> Float[Tensor, "1 PN2 D"]:
    """Resize the position embeddings of an old grid (H, W) to a new one; those of P prefix tokens stay."""
    grid = resample_grid(pos_embed[0, num_prefix:].unflatten(0, old), *new).flatten(0, 1).unsqueeze(0)
    return torch.cat([pos_embed[:, :num_prefix], grid], dim=1)


def add_positions(
    tokens: Float[Tensor, "B H W D"], pos_embed: Float[Tensor, "1 PN D"], grid: tuple[int, int]
) -> Float[Tensor, "B H W D"]:
    """Add the position embeddings of the patches, resized if the tokens are not of `grid`."""
    positions = pos_embed[0, -grid[0] * grid[1] :].unflatten(0, grid)
    return tokens + resample_grid(positions, tokens.shape[1], tokens.shape[2])


def classifier(num_features: int, num_classes: int) -> nn.Module:
    """Return a linear layer, or the identity for `num_classes=0`: the model then returns its pooled embedding."""
    return nn.Linear(num_features, num_classes) if num_classes else nn.Identity()


def init_linears(module: nn.Module, init: Init) -> None:
    """Apply `init` to every linear layer of `module`, itself included."""
    for child in module.modules():
        if isinstance(child, nn.Linear):
            init(child)


def new_classifier(num_features: int, num_classes: int, init: Init, like: Tensor) -> nn.Module:
    """Return a classifier initialized by `init`, on the device and in the precision of `like`."""
    head = classifier(num_features, num_classes)
    init_linears(head, init)
    return head.to(like.device, like.dtype)
