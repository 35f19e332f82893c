"""Write the features of any pictures, with their names, and a map of them."""

from collections.abc import Sequence
from pathlib import Path

from vitlab.commands.options import StudyParser, model_of

FEWEST = 3  # pictures that two components can tell apart


def run(arguments: Sequence[str]) -> int:
    """Write the features."""
    parser = StudyParser(
        "python -m vitlab embed --config runs/…",
        "Write the features of any pictures as a table with their names, and a map of them. "
        "Other arguments change the run's configuration, e.g. --ckpt_path best, or none for the weights as built.",
    )
    parser.add_argument("--images", type=Path, nargs="+", required=True, help="pictures, and folders of them")
    parser.add_argument("--out", type=Path, required=True, help="folder of features.parquet and map.png")
    parser.add_argument("--stages", type=int, nargs="*", metavar="STAGE", help="also the maps of these stages [all]")
    parser.add_argument("--raw", action="store_true", help="the raw weights, where the run also keeps their average")
    options, rest = parser.parse_known_args(arguments)
    if options.out.suffix == ".parquet":
        parser.error(f"--out {options.out}: give a folder. Its table is features.parquet.")

    import numpy as np

    from vitlab.analysis.canvas import write_png
    from vitlab.analysis.figures import draw_map
    from vitlab.deployment.embed import write_features

    table = write_features(model_of(rest, options.raw), options.images, options.out, options.stages)
    embedding = np.stack(table["embedding"].tolist())
    if len(table) >= FEWEST:
        write_png(draw_map(embedding, table["file"].tolist()), options.out / "map.png")
    pictures = f"{len(table):,} picture{'' if len(table) == 1 else 's'}"
    print(f"{pictures}, {embedding.shape[1]} features: {options.out}")
    return 0
