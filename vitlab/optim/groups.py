"""Parameter groups of equal learning rate and weight decay.

The learning rate of a parameter group is `lr` times the layer-wise decay of its depth, or `head_lr` for the classifier;
with `reference_batch` all of it is multiplied by global batch / reference batch. The product is the group's `lr`, which
every scheduler obeys (timm stores an `lr_scale` next to it, which PyTorch's schedulers ignore).
"""

from collections.abc import Collection, Iterable, Sequence
from typing import Any

from torch import nn

from vitlab.optim.settings import Optimizer


def parameter_groups(
    parameters: Iterable[tuple[str, nn.Parameter]],
    optimizer: Optimizer,
    global_batch: int,
    layers: Sequence[Sequence[nn.Parameter]] = (),
    head: Sequence[nn.Parameter] = (),
    no_decay: Collection[str] = (),
    positions: Sequence[nn.Parameter] = (),
) -> list[dict[str, Any]]:
    """Sort trainable parameters into groups of equal learning rate and weight decay.

    Args:
        parameters: Names and parameters, as `named_parameters()` gives them.
        layers: The parameters by depth (`parameters_by_depth()`); parameters not listed count as the last, the head.
        head: The classifier's parameters.
        no_decay: Names not decayed, besides everything of at most one dimension.
        positions: Tables of positions, and what computes them: never hidden matrices, decayed or not.

    Returns:
        Groups for a PyTorch optimizer: `params`, `names`, `lr` (scaled), `layer_scale` (the layer-wise decay in it),
        `weight_decay`; the highest rate last. For an optimizer that separates matrices also `hidden_matrices`: whether
        they are decayed matrices of the blocks, or between two blocks.
    """
    scale = optimizer.scale(global_batch)
    depth = {id(p): i for i, layer in enumerate(layers) for p in layer}
    in_head, tables = {id(p) for p in head}, {id(p) for p in positions}
    top = len(layers) - 1
    groups: dict[tuple[float, float, bool, float], dict[str, Any]] = {}
    for name, parameter in parameters:
        if not parameter.requires_grad:
            continue
        below_head = top - depth.get(id(parameter), top)
        excluded = parameter.ndim <= 1 or name in no_decay
        in_blocks = 0 < below_head < top and id(parameter) not in in_head
        hidden = optimizer.separates_matrices and parameter.ndim == 2 and in_blocks and not excluded
        hidden = hidden and id(parameter) not in tables
        layer_scale = (optimizer.layer_decay or 1.0) ** below_head
        lr = optimizer.lr_of(hidden) * layer_scale
        if id(parameter) in in_head and optimizer.head_lr is not None:
            lr, layer_scale = optimizer.head_lr, 1.0
        decay = 0.0 if excluded else float(optimizer.weight_decay)  # stored in checkpoints
        settings: dict[str, Any] = {"params": [], "names": [], "lr": lr * scale, "layer_scale": layer_scale}
        settings["weight_decay"] = decay
        if optimizer.separates_matrices:
            settings["hidden_matrices"] = hidden
        group = groups.setdefault((lr, decay, hidden, layer_scale), settings)
        group["params"].append(parameter)
        group["names"].append(name)
    return [groups[key] for key in sorted(groups)]


def describe_groups(groups: Sequence[dict[str, Any]], most: int = 4) -> str:
    """Return a table of the groups, a line each; a long table (layer-wise decay has dozens) is folded in the middle."""
    rows = [
        f"  lr {group['lr']:<10.4g} weight decay {group['weight_decay']:<6.4g} {len(group['params']):>4} tensors "
        f"{sum(p.numel() for p in group['params']):>12,} parameters, e.g. {group['names'][0]}"
        f"{' (Muon)' if group.get('hidden_matrices') else ''}"
        for group in groups
    ]
    if len(rows) > most:
        rows = [*rows[:1], f"  … {len(rows) - most + 1} groups between …", *rows[len(rows) - most + 2 :]]
    return "\n".join(rows)
