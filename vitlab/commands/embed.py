"""Write the features of any pictures, with their names, and a page that maps them."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from vitlab.commands.options import StudyParser, experiment_of

FEWEST = 3  # pictures that two components can tell apart


def run(arguments: Sequence[str]) -> int:
    """Write the features."""
    parser = StudyParser(
        "python -m vitlab embed --config runs/…",
        "Write the features of any pictures as a table with their names, and a page that maps them. "
        "Other arguments change the run's configuration, e.g. --ckpt_path best, or none for the weights as built.",
    )
    parser.add_argument("--images", type=Path, nargs="+", required=True, help="pictures, and folders of them")
    parser.add_argument("--out", type=Path, required=True, help="folder of the table and of the page index.html")
    parser.add_argument("--stages", type=int, nargs="*", metavar="STAGE", help="also the maps of these stages [all]")
    parser.add_argument("--raw", action="store_true", help="the raw weights, where the run also keeps their average")
    options, rest = parser.parse_known_args(arguments)
    if options.out.suffix == ".parquet":
        parser.error(f"--out {options.out}: give a folder. Its table is features.parquet.")

    from vitlab.deployment.embed import Embedded, write_page, write_table
    from vitlab.deployment.load import load, of_experiment

    only_run = len(rest) == 2 and rest[0] == "--config" and Path(rest[1]).is_dir()
    model = load(rest[1], options.raw) if only_run else of_experiment(experiment_of(rest, images=False), options.raw)
    embedded = Embedded(model, options.images, options.stages)
    files = write_table(embedded, options.out)
    pictures = f"{len(embedded.names):,} picture{'' if len(embedded.names) == 1 else 's'}"
    print(f"{pictures}, {embedded.embedding.shape[1]} features: {' and '.join(map(str, files))}")
    for stage in embedded.stages:
        print(f"  {stage['module']}: maps of {stage['num_chs']} channels, a place each {stage['reduction']} px")
    if len(embedded.names) >= FEWEST:
        page = options.out / "index.html"
        write_page(embedded, model.source, page)
        print(page)
    _report_broken(embedded.broken)
    return 0


def _report_broken(broken: Mapping[str, str]) -> None:
    if broken:
        first = "\n".join(f"  {name}: {why}" for name, why in list(broken.items())[:3])
        print(f"{len(broken)} could not be decoded and are left out:\n{first}", file=sys.stderr)
