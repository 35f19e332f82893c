"""Features of every stage by timm's names: maps (B, C, H, W) for detection, segmentation and dense probes.

    model.feature_info                     of each stage: `num_chs` C, `reduction` in pixels per place, `module`
    model.forward_intermediates(images)    the features, and the maps of all stages
    model.features_only((1, 2, 3))         a module that returns the maps of some stages; it can be exported

A stage is a block of a ViT, where all maps have the stride of a patch, and a resolution of a Swin.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypedDict

from jaxtyping import Float
from torch import Tensor, nn

Indices = int | Sequence[int] | None


class FeatureInfo(TypedDict):
    """What a stage gives."""

    module: str
    num_chs: int
    reduction: int


def pyramid(width: int, patch: int, stages: int) -> list[FeatureInfo]:
    """Return the stages of a Swin, each of which has half the resolution and twice the width of the one before."""
    return [FeatureInfo(module=f"layers.{i}", num_chs=width * 2**i, reduction=patch * 2**i) for i in range(stages)]


def taken(indices: Indices, info: Sequence[FeatureInfo]) -> list[int]:
    """Return which stages are meant, in the order of the network: all for None, the last n for an int n.

    Raises:
        ValueError: a stage that does not exist.
    """
    count = len(info)
    given = range(count) if indices is None else range(-indices, 0) if isinstance(indices, int) else indices
    wrong = [i for i in given if not -count <= i < count]
    if wrong or len(given) == 0:
        raise ValueError(
            f"Stages {indices} are to be taken, and there are {count}: 0 to {count - 1} ({info[-1]['module']}), or "
            "counted from the end by negative numbers."
        )
    return sorted({i % count for i in given})


def outputs_of(modules: Sequence[nn.Module], run: Callable[[], Any]) -> tuple[Any, list[Tensor]]:
    """Return what `run` returns, and the output that each of the modules has in it."""
    outputs: list[Tensor] = []
    handles = [module.register_forward_hook(lambda _, inputs, output: outputs.append(output)) for module in modules]
    try:
        result = run()
    finally:
        for handle in handles:
            handle.remove()
    # torch.compile looks for hooks when it compiles, and not again.
    assert len(outputs) == len(modules), "the outputs of compiled blocks cannot be read; reload the model"
    return result, outputs


class FeatureMaps(nn.Module):
    """Map images to the maps of some stages (timm's `features_only=True`).

    Args:
        model: an `ImageModel`.
        out_indices: which stages; None for all.
        norm: apply the model's final norm to the maps whose width it has.

    Raises:
        ValueError: the model gives no maps, or has no such stage.
    """

    def __init__(self, model: Any, out_indices: Indices = None, norm: bool = False) -> None:
        super().__init__()
        if not model.feature_info:
            raise ValueError(f"{type(model).__name__} gives no maps: it has no `feature_info`.")
        self.model, self.norm = model, norm
        self.out_indices = taken(out_indices, model.feature_info)
        self.feature_info: list[FeatureInfo] = [model.feature_info[i] for i in self.out_indices]
        self.in_chans, self.img_size = model.in_chans, model.img_size

    def forward(self, images: Float[Tensor, "B Cin Hpx Wpx"]) -> list[Float[Tensor, "B _ _ _"]]:
        maps: list[Tensor] = self.model.forward_intermediates(
            images, self.out_indices, norm=self.norm, intermediates_only=True
        )
        return maps
