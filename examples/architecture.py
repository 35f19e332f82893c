"""An architecture of your own: a ConvNeXt, as a subclass of `vitlab.models.Backbone`.

`Backbone`'s docstring lists the attributes that `__init__` sets and the methods with defaults. `Features.prefix` has
class and distillation tokens; this network has none. From this repository's folder, or with a copy in yours:

    python -m vitlab fit swin_cifar10 --model.backbone examples.architecture.ConvNeXt

With an experiment that loads weights, add `--model.init_from null`. tests/extending trains this file.
"""

from torch import Tensor, nn

from vitlab.models import Backbone, Features, layers


class Block(nn.Module):
    """x + MLP(LN(DepthwiseConv(x)))"""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(dim, dim, kernel_size=7, padding=3, groups=dim)
        self.norm = nn.LayerNorm(dim)
        self.mlp = layers.Mlp(dim, 4 * dim, drop=0.0)

    def forward(self, x: Tensor) -> Tensor:  # (B, H, W, D)
        return x + self.mlp(self.norm(self.conv(x.movedim(-1, 1)).movedim(1, -1)))


class ConvNeXt(Backbone):
    """An isotropic ConvNeXt (Liu et al. 2022, section 3.3)."""

    def __init__(
        self, img_size: int = 32, in_chans: int = 3, num_classes: int = 10, dim: int = 64, depth: int = 4
    ) -> None:
        super().__init__()
        self.img_size, self.in_chans, self.num_classes = (img_size, img_size), in_chans, num_classes
        self.num_features = dim
        self.patch_embed = layers.PatchEmbed(img_size, 4, in_chans, dim)
        self.blocks = nn.ModuleList(Block(dim) for _ in range(depth))
        self.norm = nn.LayerNorm(dim)
        self.head = layers.classifier(dim, num_classes)

    def encode(self, tokens: Tensor) -> Features:  # (B, H, W, D)
        for block in self.blocks:
            tokens = block(tokens)
        patches = self.norm(tokens).flatten(1, 2)  # (B, N, D)
        return Features(prefix=patches[:, :0], patches=patches)
