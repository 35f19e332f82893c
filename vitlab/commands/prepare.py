"""Write a folder of photographs into one file of small ones, which takes the folder's place as `--data.root`."""

from collections.abc import Sequence
from pathlib import Path

from vitlab.commands.options import StudyParser


def run(arguments: Sequence[str]) -> int:
    """Decode, shrink and pack the photographs."""
    parser = StudyParser("python -m vitlab prepare", "Shrink photographs once, into one file to train on.")
    parser.add_argument("--root", type=Path, required=True, help="folder of the photographs, as for training")
    parser.add_argument("--out", type=Path, required=True, help="folder of the packed file: the new --data.root")
    parser.add_argument("--short_side", type=int, default=256, help="largest shorter side in px [256, for 224]")
    parser.add_argument("--pixels", action="store_true", help="store RGB, cropped without decoding; larger")
    options = parser.parse_args(arguments)

    from vitlab.commands.quiet import quiet
    from vitlab.data.packed import prepare

    quiet()
    print(prepare(options.root, options.out, options.short_side, options.pixels))
    return 0
