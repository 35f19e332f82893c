"""Classify a user's own pictures: tables, and an HTML gallery."""

from collections.abc import Sequence
from pathlib import Path

from vitlab.commands.options import StudyParser, model_of


def run(arguments: Sequence[str]) -> int:
    """Write the tables and the page."""
    parser = StudyParser(
        "python -m vitlab predict --config runs/…",
        "Classify any pictures. Other arguments change the run's configuration, e.g. --ckpt_path best.",
    )
    images = "pictures, and folders of them, nested as you like"
    parser.add_argument("--images", type=Path, nargs="+", required=True, help=images)
    out = "folder of the tables and of the page index.html [predictions]"
    parser.add_argument("--out", type=Path, default=Path("predictions"), help=out)
    parser.add_argument("--raw", action="store_true", help="the raw weights, where the run also keeps their average")
    options, rest = parser.parse_known_args(arguments)

    model = model_of(rest, options.raw)

    from vitlab.deployment.load import warn_of_broken
    from vitlab.deployment.predict import write_answers

    answers = model.classify(options.images)
    warn_of_broken(answers.broken)
    page = write_answers(answers, model.source, options.out)
    print(f"{len(answers.files):,} picture{'' if len(answers.files) == 1 else 's'}: {page}")
    return 0
