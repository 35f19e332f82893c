"""Weights of torchvision and mmpretrain under timm's names; shapes and orders that differ are changed with them.

What stands before the names of an encoder in the file, like `module.`, stays.
"""

import re

from torch import Tensor

Weights = dict[str, Tensor]
Rules = dict[str, str]
"""Patterns and their replacements, applied in order."""

TORCHVISION_VIT: Rules = {
    r"encoder\.layers\.encoder_layer_(\d+)\.": r"blocks.\1.",
    r"(blocks\.\d+)\.ln_([12])\.": r"\1.norm\2.",
    r"self_attention\.in_proj_(weight|bias)$": r"attn.qkv.\1",
    r"self_attention\.out_proj\.": "attn.proj.",
    r"mlp\.(?:0|linear_1)\.": "mlp.fc1.",  # linear_1 and linear_2 in files from before torchvision 0.14
    r"mlp\.(?:3|linear_2)\.": "mlp.fc2.",
    r"encoder\.pos_embedding$": "pos_embed",
    r"encoder\.ln\.": "norm.",
    r"class_token$": "cls_token",
    r"conv_proj\.": "patch_embed.proj.",
    r"heads\.head\.": "head.",
}
TORCHVISION_SWIN: Rules = {
    r"features\.0\.0\.": "patch_embed.proj.",
    r"features\.0\.2\.": "patch_embed.norm.",
    r"\.mlp\.0\.": ".mlp.fc1.",  # not those of `cpb_mlp`
    r"\.mlp\.3\.": ".mlp.fc2.",
    r"(^|\.)head\.": r"\1head.fc.",
}
MMPRETRAIN: Rules = {
    r"patch_embed\.projection\.": "patch_embed.proj.",
    r"ffn\.layers\.0\.0\.": "mlp.fc1.",
    r"ffn\.layers\.1\.": "mlp.fc2.",
    r"absolute_pos_embed$": "pos_embed",
    r"attn\.w_msa\.": "attn.",
    r"attn\.gamma1\.weight$": "ls1.gamma",
    r"ffn\.gamma2\.weight$": "ls2.gamma",
}
MMPRETRAIN_VIT: Rules = MMPRETRAIN | {
    r"(^|\.)layers\.(\d+)\.": r"\1blocks.\2.",
    r"(blocks\.\d+)\.ln([12])\.": r"\1.norm\2.",
    r"(^|\.)ln1\.": r"\1norm.",
    r"(^|\.)ln2\.": r"\1fc_norm.",
    r"(^|\.)head\.layers\.(head|head_dist)\.": r"\1\2.",
    r"(^|\.)head\.fc\.": r"\1head.",
}
MMPRETRAIN_SWIN: Rules = MMPRETRAIN | {r"(^|\.)stages\.": r"\1layers."}


def with_timm_names(weights: Weights) -> Weights:
    """Return a file's weights under timm's names; unchanged where neither torchvision nor mmpretrain named them."""
    names = "\n".join(weights)
    if "encoder.layers.encoder_layer_0." in names:
        return {_renamed(name, TORCHVISION_VIT): tensor for name, tensor in weights.items()}
    if "features.1.0.attn." in names:
        return _of_torchvisions_swin(weights)
    if ".ffn.layers.0.0." in names:
        return _of_mmpretrain(weights)
    return weights


def _renamed(name: str, rules: Rules) -> str:
    for pattern, new in rules.items():
        name = re.sub(pattern, new, name)
    return name


def _of_torchvisions_swin(weights: Weights) -> Weights:
    """Rename; torchvision numbers stages 1, 3, 5, 7 and patch mergings 2, 4, 6, which begin the next stage in timm.

    In Swin v2 q, k and v have one bias, whose part for k is set to 0 in every forward pass.
    """
    renamed: Weights = {}
    for name, tensor in weights.items():
        name = _renamed(name, TORCHVISION_SWIN)
        name = re.sub(r"features\.(\d*[13579])\.(\d+)\.", lambda m: f"layers.{int(m[1]) // 2}.blocks.{m[2]}.", name)
        name = re.sub(r"features\.(\d*[02468])\.", lambda m: f"layers.{int(m[1]) // 2}.downsample.", name)
        renamed[name] = tensor
    for name in [name for name in renamed if name.endswith(".logit_scale")]:
        attention = name.removesuffix("logit_scale")
        q, _, v = renamed.pop(f"{attention}qkv.bias").chunk(3)
        renamed |= {f"{attention}q_bias": q, f"{attention}v_bias": v}
    return renamed


def _of_mmpretrain(weights: Weights) -> Weights:
    """Rename; move the classifier, which mmpretrain keeps outside `backbone.`, into the encoder.

    Patch merging concatenates neighbors in the order of `nn.Unfold`: by channel, then row by row. A Swin's last norm
    has the number of its stage.
    """
    before = next((match[1] for name in weights if (match := re.match(r"(.*?)patch_embed\.", name))), "")
    outside = before.removesuffix("backbone.")
    head = re.compile(rf"{re.escape(outside)}head\.(fc|layers\.head|layers\.head_dist)\.")
    stages = [int(match[1]) for name in weights if (match := re.search(r"stages\.(\d+)\.", name))]
    rules = (
        MMPRETRAIN_SWIN | {rf"^{re.escape(before)}norm{max(stages)}\.": f"{before}norm."} if stages else MMPRETRAIN_VIT
    )
    renamed: Weights = {}
    for name, tensor in weights.items():
        inside = before + name.removeprefix(outside) if head.match(name) else name
        renamed[_renamed(inside, rules)] = tensor
    for name in [name for name in renamed if name.endswith("downsample.reduction.weight")]:
        norm = name.removesuffix("reduction.weight") + "norm."
        renamed[name] = _unfolded(renamed[name])
        if renamed[f"{norm}weight"].shape[-1] == renamed[name].shape[1]:  # before the reduction: Swin, not Swin v2
            renamed |= {f"{norm}{kind}": _unfolded(renamed[f"{norm}{kind}"]) for kind in ("weight", "bias")}
    return renamed


def _unfolded(tensor: Tensor) -> Tensor:
    """Reorder the 4·C inputs of a merging from (C, row, column) to (column, row, C)."""
    return tensor.unflatten(-1, (-1, 2, 2)).transpose(-3, -1).flatten(-3)
