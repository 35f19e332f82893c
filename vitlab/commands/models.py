"""List the models that can be built: parameters, FLOPs, image size and known weights."""

import difflib
import shutil
from collections.abc import Sequence
from fnmatch import fnmatchcase

from vitlab.commands.options import StudyParser

END = """
GFLOPs of one image, two per multiply-add. Weights: timm's tags, downloaded by
--model.init_from timm/MODEL.TAG. --model.init_from FILE takes files of timm,
Microsoft and Meta."""


def run(arguments: Sequence[str]) -> int:
    """Print a row for each model as soon as it is measured."""
    parser = StudyParser(
        "python -m vitlab models", "List the sizes of ViT, DeiT, Swin and Swin v2 that can be built, or timm's models."
    )
    parser.add_argument("pattern", nargs="?", default="*", help="names, as timm has them: 'swin*' [all]")
    parser.add_argument("--timm", action="store_true", help="of timm's models, for vitlab.models.TimmModel")
    options = parser.parse_args(arguments)

    import logging

    import timm

    from vitlab.experiment.class_names import PLACES, choices

    logging.getLogger("vitlab").setLevel(logging.ERROR)  # a window larger than its map is expected here
    names = timm.list_models() if options.timm else choices(*PLACES["model.backbone"])
    names = [name for name in names if name[0].islower()]
    chosen = [name for name in names if fnmatchcase(name, options.pattern)]
    if not chosen:
        near = difflib.get_close_matches(options.pattern.strip("*"), names, n=3, cutoff=0.3)
        where = f"timm {timm.__version__} has" if options.timm else "there is"
        hint = f"; the nearest are {', '.join(near)}" if near else "" if options.timm else "; --timm looks among timm's"
        raise ValueError(f"{where} no model {options.pattern!r}{hint}.")
    width = max(map(len, chosen))
    print(f"{'model':<{width}}  {'params':>8}  {'GFLOPs':>7}  {'px':>4}  weights")
    for name in chosen:
        parameters, flops, size = measured(name, options.timm)
        row = f"{name:<{width}}  {parameters / 1e6:>6.2f} M  {flops / 1e9:>7.2f}  {size:>4}  "
        print(row + shortened(known_weights(name), shutil.get_terminal_size().columns - len(row)), flush=True)
    if len(chosen) == 1:
        print("".join(f"\n  {each}" for each in known_weights(chosen[0])))
    print(END)
    return 0


def measured(name: str, of_timm: bool) -> tuple[int, int, int]:
    """Return the parameters, the FLOPs of an image, and its side, without memory for weights."""
    import torch

    import vitlab.models
    from vitlab.evaluation.cost import count_flops

    with torch.device("meta"):
        model = vitlab.models.TimmModel(name) if of_timm else getattr(vitlab.models, name)()
        model.requires_grad_(
            False
        )  # some of timm's have views of parameters, for which torch's counter wants gradients
        flops = count_flops(model, torch.empty(1, model.in_chans, *model.img_size))
    return sum(parameter.numel() for parameter in model.parameters()), flops, model.img_size[0]


def known_weights(name: str) -> list[str]:
    """Return timm's weights by their tags."""
    import timm

    return [known.partition(".")[2] for known in timm.list_pretrained(f"{name}.*")]


def shortened(words: Sequence[str], width: int) -> str:
    """Return as many words as fit, at least one, and how many are left out."""
    for count in range(len(words), 1, -1):
        left = f", +{len(words) - count}" if count < len(words) else ""
        if len(text := ", ".join(words[:count]) + left) <= width:
            return text
    return ", ".join(words[:1]) + (f", +{len(words) - 1}" if len(words) > 1 else "")
