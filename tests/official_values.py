"""What the official configurations of the ImageNet recipes come to: groups, schedule, augmentation, drop path.

Rates were computed once by the official schedulers, run on the official values; the source is beside each. D, W, X, M,
N, S and B are the repositories of docs/recipes.md, at the commits named there.
"""

from typing import Any, NamedTuple

import pytest

from vitlab.data import ImageFolder
from vitlab.experiment.experiment import Experiment
from vitlab.objectives import Supervised
from vitlab.optim import parameter_groups

POINTS = (0.0, 0.01, 0.03, 0.07, 0.15, 0.3, 0.5, 0.75, 0.9, 1.0)  # of the run
Rates = tuple[float, ...]


def ten(numbers: str) -> Rates:
    """Return the numbers of a table's row."""
    assert len(numbers.split()) == len(POINTS)
    return tuple(map(float, numbers.split()))


class Augmentation(NamedTuple):
    """What happens to a training image, and how large it is in evaluation."""

    size: int
    crop: tuple[float, float]
    filter: str
    randaugment: str | None
    erasing: float
    mixup: tuple[float, float, int | None] | None  # alpha, CutMix's alpha, images that share a draw
    eval_ratio: float | None  # of the crop to the shorter side; None: squashed
    repeats: int = 1


class Official(NamedTuple):
    """What the official configuration comes to."""

    rates: Rates  # of the head, at POINTS
    undecayed: int  # parameters without weight decay
    drop_path: float  # of the last block
    augmentation: Augmentation | None
    smoothing: float = 0.0
    clip: float | None = None
    betas: tuple[float, float] = (0.9, 0.999)
    decay: Rates = (0.05,) * 10
    lowest: Rates | None = None  # of the lowest layer; None: as the head
    clip_student: float | None = None  # of DINO's student tensor by tensor, of MSN's at once; `clip` is of all


# D main.py:71-86, 210-213 (cosine over all epochs, lr_min 1e-5, from 1e-6), by timm's CosineLRScheduler
DEIT_RATES = ten("1e-6 0.0006004 0.0009978 0.00098808 0.00094605 0.00079595 0.000505 0.00015498 3.4227e-5 1e-5")
# D main.py:46, 96-138; datasets.py:73-114 (crops, erasing); README_deit.md:216-246 (devices)
DEIT_AUG = Augmentation(224, (0.08, 1.0), "bicubic", "rand-m9-mstd0.5-inc1", 0.25, (0.8, 1.0, 64), 0.875, repeats=3)
# W config.py:120-180 over 512 · 2 images (main.py:326-338), lr_scheduler.py:13-33
SWIN_RATES = ten("1e-6 0.00015085 0.00045055 0.00098808 0.00094605 0.00079595 0.000505 0.00015498 3.4227e-5 1e-5")
# W config.py:203-225, data/build.py:98-158, get_started.md:178-222
SWIN_AUG = DEIT_AUG._replace(mixup=(0.8, 1.0, 128), repeats=1)
SWIN = Official(SWIN_RATES, 0, 0.0, SWIN_AUG, 0.1, 5.0)
SWIN_V2_AUG = SWIN_AUG._replace(size=256)
# X data/data_simmim.py:52 with torchvision's bilinear
SIMMIM_AUG = Augmentation(192, (0.67, 1.0), "bilinear", None, 0.0, None, 0.875)
# X and W lr_scheduler.py: MultiStepLRScheduler, configs/*simmim_pretrain*800ep.yaml
SIMMIM_800 = ten("2e-6 3.204e-4 4e-4 4e-4 4e-4 4e-4 4e-4 4e-4 4e-5 4e-5")
# X configs/*/simmim_finetune*: 1.25e-3, 2.5e-7 and 2.5e-7 of 512 images; the lowest by optimizer.py's LAYER_DECAY
SIMMIM_FT = ten("1e-6 0.00025095 0.00075085 0.0017507 0.0037503 0.0039697 0.0025005 0.00073309 0.00012333 1e-6")
# W the same with config.py:178 (WARMUP_PREFIX): the cosine spans what the warm-up leaves
SIMMIM_FT_W = ten("1e-6 2.5095e-4 7.5085e-4 1.7507e-3 3.7503e-3 4.8097e-3 3.457e-3 1.1119e-3 1.9126e-4 1e-6")
LOWEST_SWIN = ten("1e-6 1.8897e-5 5.4692e-5 0.00012628 0.00026946 0.00028517 0.00017997 5.342e-5 9.7596e-6 1e-6")
# of X configs/swin_base__800ep, by timm's CosineLRScheduler as X lr_scheduler.py builds it: LAYER_DECAY 0.8
LOWEST_800 = ten("1e-6 1.8945e-6 3.6834e-6 7.2613e-6 1.4417e-5 1.5202e-5 9.9447e-6 3.6199e-6 1.4378e-6 1e-6")
LOWEST_V2 = ten("1e-6 1.1381e-6 1.4144e-6 1.967e-6 3.072e-6 3.6576e-6 2.91e-6 1.6139e-6 1.1052e-6 1e-6")
LOWEST_VIT = ten("1e-6 1.8743e-6 3.6229e-6 7.1201e-6 1.4115e-5 1.4882e-5 9.743e-6 3.5608e-6 1.4279e-6 1e-6")
# M main_pretrain.py:61-72, PRETRAIN.md, util/lr_sched.py
MAE_RATES = ten("0 0.00048 0.00144 0.0023974 0.002335 0.0020127 0.0012991 0.00038726 6.5019e-5 0")
MAE_AUG = Augmentation(224, (0.2, 1.0), "bicubic", None, 0.0, None, 0.875)  # M main_pretrain.py:124
MAE = Official(MAE_RATES, 0, 0.0, MAE_AUG, betas=(0.9, 0.95))  # M main_pretrain.py:184
# M main_finetune.py:57-110, FINETUNE.md:63-107; util/lr_sched.py and util/lr_decay.py
MAE_FT_B = ten("0 0.0004 0.0012 0.0019978 0.0019458 0.0016774 0.001083 0.00032356 5.5156e-5 1e-6")
MAE_FT_LH = ten("0 0.0004 0.0012 0.0028 0.0039696 0.0035322 0.0023477 0.00071525 0.00012158 1e-6")
LOWEST_B = ten("0 1.4789e-6 4.4367e-6 7.3863e-6 7.1942e-6 6.2018e-6 4.0042e-6 1.1963e-6 2.0392e-7 3.6972e-9")
LOWEST_L = ten("0 3.0102e-7 9.0305e-7 2.1071e-6 2.9873e-6 2.6581e-6 1.7668e-6 5.3825e-7 9.1498e-8 7.5254e-10")
LOWEST_H = ten("0 3.0136e-8 9.0407e-8 2.1095e-7 2.9907e-7 2.6611e-7 1.7688e-7 5.3886e-8 9.1601e-9 7.5339e-11")
MAE_FT_AUG = DEIT_AUG._replace(mixup=(0.8, 1.0, 32), repeats=1)
# N args.txt of the released model, utils.py:187-198 (cosine_scheduler), main_dino.py:238-248
DINO_RATES = ten("0 0.0016002 0.0019985 0.0019834 0.0019063 0.001612 0.0010248 0.00030846 5.9929e-5 1e-5")
DINO_DECAY = ten("0.04 0.040089 0.040799 0.044335 0.059619 0.1142 0.22 0.34728 0.39119 0.4")
# S configs/pretrain/msn_vits16.yaml: optimization, src/utils.py:67-135, src/msn_train.py:549-560
MSN_RATES = ten(
    "0.0002 0.00062667 0.00099979 0.00099573 0.00097225 0.00087681 0.00066843 0.00035527 0.00018729 9.9224e-5"
)
MSN_DECAY = ten("0.04 0.040057 0.040511 0.042778 0.05264 0.088786 0.16438 0.27562 0.33474 0.36562")
# S msn_train.py:369-370 clips the encoder, with its head and without the prototypes
MSN = Official(MSN_RATES, 335_744, 0.0, None, decay=MSN_DECAY, clip_student=3.0)
# N main_dino.py: the defaults, on eight devices (README.md, "Vanilla DINO training"); utils.py:132 clips each tensor
DINO_RATES_100 = ten("0 0.00010001 0.00030003 0.00070007 0.00099241 0.00088314 0.00058724 0.00017943 3.1124e-5 1e-6")
# B configs/vit_s16_i1k.py:82-84, the cosine of utils.py, of 8 in 90 epochs of warm-up
BIG_VISION = ten("0 0.0001125 0.0003375 0.0007875 0.00098894 0.00087328 0.00057633 0.00017455 2.943e-5 0")

# Parameters without weight decay: biases, norms and what `no_weight_decay` and its keywords name, counted on timm's
# models of these sizes by the rule of D main.py (timm's add_weight_decay), W optimizer.py:59-73, M util/lr_decay.py:15,
# N utils.py:632-643 and S msn_train.py:530-546.
OFFICIAL = {
    "deit_tiny": Official(DEIT_RATES, 69_544, 0.1, DEIT_AUG._replace(mixup=(0.8, 1.0, 256)), 0.1),
    "deit_small": Official(DEIT_RATES, 138_088, 0.1, DEIT_AUG._replace(mixup=(0.8, 1.0, 256)), 0.1),
    "deit_base": Official(DEIT_RATES, 275_176, 0.1, DEIT_AUG, 0.1),
    "deit_base_hard": Official(
        DEIT_RATES, 276_944 + 768, 0.1, DEIT_AUG
    ),  # its head says that dist_token is exempt here
    "deit_base_soft": Official(DEIT_RATES, 275_176, 0.1, DEIT_AUG),
    "deit_base_384": Official(
        ten("1e-6 1.24e-6 1.72e-6 2.68e-6 4.6e-6 5e-6 5e-6 5e-6 5e-6 5e-6"),  # README_deit.md:246
        567_016,
        0.0,
        DEIT_AUG._replace(size=384, mixup=(0.8, 1.0, 32)),
        0.1,
        decay=(1e-8,) * 10,
    ),
    "vit_small": Official(
        BIG_VISION,
        62_056,
        0.0,
        Augmentation(224, (0.05, 1.0), "bilinear", "rand-m10-n2", 0.0, (0.2, 0.0, None), 0.875),  # B lines 45-60, 87
        clip=1.0,
        decay=(0.1,) * 10,
    ),
    "swin_tiny": SWIN._replace(undecayed=88_930, drop_path=0.2),  # configs/swin/*.yaml: DROP_PATH_RATE
    "swin_small": SWIN._replace(undecayed=173_170, drop_path=0.3),
    "swin_base": SWIN._replace(undecayed=230_560, drop_path=0.5, augmentation=SWIN_AUG._replace(mixup=(0.8, 1.0, 64))),
    "swin_base_384": SWIN._replace(  # configs/swin/swin_base_patch4_window12_384_finetune.yaml
        rates=ten("4e-8 2.4376e-6 7.2328e-6 1.6823e-5 3.6004e-5 3.1838e-5 2.02e-5 6.1993e-6 1.3691e-6 4e-7"),
        undecayed=365_920,
        drop_path=0.5,
        decay=(1e-8,) * 10,
        augmentation=SWIN_AUG._replace(size=384, mixup=(0.8, 1.0, 64), eval_ratio=None),
    ),
    # configs/swin/swin_base_patch4_window*_22kto1k_finetune.yaml: as at 384 above, drop path 0.2
    **{
        f"finetune_swin_base_22k{name}": SWIN._replace(
            rates=ten("4e-8 2.4376e-6 7.2328e-6 1.6823e-5 3.6004e-5 3.1838e-5 2.02e-5 6.1993e-6 1.3691e-6 4e-7"),
            undecayed=undecayed,
            drop_path=0.2,
            decay=(1e-8,) * 10,
            augmentation=SWIN_AUG._replace(size=size, mixup=(0.8, 1.0, 64), eval_ratio=ratio),
        )
        for name, size, undecayed, ratio in (("", 224, 230_560, 0.875), ("_384", 384, 365_920, None))
    },
    **{
        f"swinv2_{size}_window{window}": SWIN._replace(
            undecayed=undecayed, drop_path=drop_path, augmentation=SWIN_V2_AUG._replace(mixup=(0.8, 1.0, group))
        )
        for size, undecayed, drop_path, group in (
            ("tiny", 147_730, 0.2, 128),
            ("small", 295_330, 0.3, 128),
            ("base", 381_152, 0.5, 64),
        )
        for window in (8, 16)
    },
    # of BEiT's ViT, 18,432 in LayerScale; its positions, which the recipe replaces, are exempt too
    # the mask token is exempt and, since the exclusions' names match nothing, position biases and v2's MLPs are not
    "simmim_swin_base": Official(
        ten("4e-6 8.36e-5 0.0002428 0.0005612 0.00075858 0.00064336 0.00042 0.0001513 5.8598e-5 4e-5"),
        166_016 + 128 + 3072,
        0.0,
        SIMMIM_AUG,
        clip=5.0,
    ),
    "simmim_swin_base_800ep": Official(SIMMIM_800, 166_016 + 128 + 3072, 0.0, SIMMIM_AUG, clip=5.0),
    "simmim_swinv2_base": Official(SIMMIM_800, 162_688 + 128 + 3072, 0.1, SIMMIM_AUG, clip=5.0),
    "simmim_vit_base": Official(SIMMIM_800, 294_144, 0.1, SIMMIM_AUG._replace(size=224), clip=5.0),
    "finetune_simmim_swin_base": Official(SIMMIM_FT, 230_560, 0.1, SWIN_AUG, 0.1, 5.0, lowest=LOWEST_SWIN),
    "finetune_simmim_swin_base_800ep": Official(SIMMIM_FT, 230_560, 0.1, SWIN_AUG, 0.1, 5.0, lowest=LOWEST_800),
    "finetune_simmim_swinv2_base": Official(SIMMIM_FT_W, 381_152, 0.1, SWIN_AUG, 0.1, 5.0, lowest=LOWEST_V2),
    "finetune_simmim_vit_base": Official(SIMMIM_FT, 293_608, 0.1, SWIN_AUG, 0.1, 5.0, lowest=LOWEST_VIT),
    "mae_vit_base": MAE._replace(undecayed=177_664),
    "mae_vit_large": MAE._replace(undecayed=378_112),
    "mae_vit_huge": MAE._replace(undecayed=591_692),
    "finetune_mae_vit_base": Official(MAE_FT_B, 275_176, 0.1, MAE_FT_AUG, 0.1, lowest=LOWEST_B),
    "finetune_mae_vit_large": Official(MAE_FT_LH, 323_560 + 198 * 1024, 0.2, MAE_FT_AUG, 0.1, lowest=LOWEST_L),
    "finetune_mae_vit_huge": Official(
        MAE_FT_LH, 537_320 + 258 * 1280, 0.3, MAE_FT_AUG._replace(mixup=(0.8, 1.0, 16)), 0.1, lowest=LOWEST_H
    ),
    "dino_vits16": Official(DINO_RATES, 65_408, 0.1, None, decay=DINO_DECAY),
    "dino_vits16_100ep": Official(DINO_RATES_100, 65_408, 0.1, None, decay=DINO_DECAY, clip_student=3.0),
    "msn_vits16": MSN,
    "msn_vits16_paper": MSN,
}


def compare(experiment: Experiment, name: str, batch: int, epochs: int) -> None:
    """Fail unless an experiment comes to the official values."""
    official, trainer = OFFICIAL[name], experiment.trainer
    model: Any = experiment.objective
    data: Any = experiment.data

    depths, head = model.backbone.parameters_by_depth(), model.backbone.head_parameters()
    named, exempt = list(model.named_parameters()), model.no_weight_decay()
    groups = parameter_groups(named, model.optimizer, batch, depths, head, exempt)
    undecayed = [group for group in groups if group["weight_decay"] == 0]
    assert sum(p.numel() for group in undecayed for p in group["params"]) == official.undecayed
    decay = [model.optimizer.weight_decay_at(point / model.schedule.stretch) for point in POINTS]
    assert decay == pytest.approx(official.decay, rel=1e-3)
    assert model.optimizer.betas == official.betas

    scale, steps = model.optimizer.scale(batch), 1000 * epochs
    for group, expected in ((groups[-1], official.rates), (groups[0], official.lowest or official.rates)):
        schedule = model.schedule.at(scale, group["layer_scale"])
        rates = [schedule.lr(group["lr"], round(point * steps), steps, epochs) for point in POINTS]
        assert rates == pytest.approx(expected, rel=1e-3, abs=1e-15)

    assert model.backbone.blocks[-1].drop_path.rate == pytest.approx(official.drop_path)
    assert trainer.gradient_clip_val == official.clip
    assert getattr(model, "clip_grad", None) == official.clip_student
    if isinstance(model, Supervised):
        assert model.label_smoothing == official.smoothing
    if official.augmentation is None:
        assert crops(data) == CROPS[name]
    else:
        assert augmentation(data) == official.augmentation


def augmentation(data: ImageFolder) -> Augmentation:
    aug, mixup = data.augment, data.mixup
    mixed = None if mixup is None else (mixup.mixup_alpha, mixup.cutmix_alpha, mixup.group)
    if mixup is not None:
        assert (mixup.prob, mixup.switch_prob) == (1.0, 0.5)
    assert (aug.crop_ratio, aug.flip_prob) == ((3 / 4, 4 / 3), 0.5)
    seen = data.image_size, aug.crop_scale, aug.interpolation, aug.rand_augment, aug.erase_prob, mixed, data.crop_pct
    return Augmentation(*seen, repeats=data.repeats)


# N main_dino.py:419-456 and args.txt; S src/data_manager.py:64-104 and msn_vits16.yaml
DINO_CROPS = ((2, 224, (0.25, 1.0), (1.0, 0.1), (0.0, 0.2)), (10, 96, (0.05, 0.25), (0.5,), (0.0,)))
MSN_CROPS = ((2, 224, (0.3, 1.0), (0.5,), (0.0,)), (10, 96, (0.05, 0.3), (0.5,), (0.0,)))
DINO_CROPS_100 = ((2, 224, (0.4, 1.0), (1.0, 0.1), (0.0, 0.2)), (8, 96, (0.05, 0.4), (0.5,), (0.0,)))
CROPS = {  # filter; brightness, contrast, saturation, hue, with which probability; gray
    "dino_vits16": (DINO_CROPS, "bicubic", (0.4, 0.4, 0.2, 0.1), 0.8, 0.2),
    "dino_vits16_100ep": (DINO_CROPS_100, "bicubic", (0.4, 0.4, 0.2, 0.1), 0.8, 0.2),
    "msn_vits16": (MSN_CROPS, "bilinear", (0.4, 0.4, 0.4, 0.1), 0.8, 0.2),
    "msn_vits16_paper": (MSN_CROPS, "bilinear", (0.4, 0.4, 0.4, 0.1), 0.8, 0.2),
}


def crops(data: ImageFolder) -> tuple[object, ...]:
    views = data.multi_crop
    assert views is not None
    seen = tuple(
        (part.number, part.size, tuple(part.scale), tuple(part.blur_prob), tuple(part.solarize_prob))
        for part in (views.global_crops, views.local_crops)
    )
    jitter = views.brightness, views.contrast, views.saturation, views.hue
    return seen, views.interpolation, jitter, views.jitter_prob, views.gray_prob
