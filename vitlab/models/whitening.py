"""Start the patch embedding with whitened patches of the training images: uncorrelated, each of variance 1.

The first convolution of tysam's hlb-CIFAR10 and of airbench (Jordan 2024, https://arxiv.org/abs/2404.00498, section
3.1), where it gains most of all. There these weights are frozen, patches overlap and have 2 × 2 pixels, their mean is
not subtracted, and a bias is learned beside them. Here the weights train, patches are the model's own, the bias
subtracts the mean, and the filters come in order of falling variance.
"""

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

from vitlab.models.layers import PatchEmbed

EPS = 5e-4  # airbench's; directions of less variance stay below 1
CONSTANT = 1e-9  # of the largest variance: what does not vary in training, like a border that is always black


@torch.no_grad()
def whiten_patches(embed: PatchEmbed, batches: Iterable[Tensor]) -> None:
    """Write the eigenvectors v of the patches' covariance, over √(λ + ε), into the first channels of an embedding.

    A direction that does not vary is not scaled: over √ε, it would be enlarged 45 times in an image where it does.
    In order of falling λ; then their negatives, as in airbench, as far as there are channels. The bias of these
    channels subtracts the mean patch. Other channels keep their weights. `batches` are images (B, C, H, W) as the model
    sees them.
    """
    weight, bias, k = embed.proj.weight, embed.proj.bias, embed.patch_size
    assert bias is not None
    features = weight[0].numel()
    count, total, products = 0, torch.zeros(features).double(), torch.zeros(features, features).double()
    for images in batches:
        patches = F.unfold(images.float(), k, stride=k).transpose(1, 2).flatten(0, 1).double().cpu()  # (B·N, C·k·k)
        count, total, products = count + len(patches), total + patches.sum(dim=0), products + patches.T @ patches
    if count < 2:
        raise ValueError("whiten: there are no training images to compute the patches' statistics from.")
    mean = total / count
    variances, vectors = torch.linalg.eigh(products / count - mean.outer(mean))  # rising; vectors are columns
    vectors = vectors * vectors.gather(0, vectors.abs().argmax(dim=0, keepdim=True)).sign()  # one of the two signs
    scale = torch.where(variances < CONSTANT * variances[-1], 1.0, (variances.clamp(min=0) + EPS).rsqrt())
    filters = (vectors * scale).T.flip(0)
    filters = torch.cat([filters, -filters])[: len(weight)]
    weight[: len(filters)] = filters.view(-1, *weight.shape[1:]).to(weight)
    bias[: len(filters)] = -(filters @ mean).to(bias)
