"""Write the logits of every test image; or, with `--images`, classify a user's own pictures."""

from collections.abc import Sequence
from pathlib import Path

from vitlab.commands.options import StudyParser, experiment_of, model_of


def run(arguments: Sequence[str]) -> int:
    """Predict."""
    parser = StudyParser(
        "python -m vitlab predict --config runs/…",
        "Classify any pictures; without --images, write the logits of the run's test images as predictions.parquet. "
        "Other arguments change the run's configuration, e.g. --ckpt_path best.",
    )
    parser.add_argument("--images", type=Path, nargs="+", help="pictures, and folders of them, nested as you like")
    parser.add_argument("--out", type=Path, help="folder of the tables and of the page index.html")
    parser.add_argument("--raw", action="store_true", help="the raw weights, where the run also keeps their average")
    options, rest = parser.parse_known_args(arguments)
    if options.images is None and (options.out is not None or options.raw):
        raise ValueError("--out and --raw go with --images: your own pictures, or folders of them.")
    if options.images is None:
        experiment_of(rest).predict()
        return 0
    if options.out is None:
        raise ValueError("--images needs --out FOLDER: where the tables and the page are written.")

    from vitlab.deployment.load import warn_of_broken
    from vitlab.deployment.predict import write_answers

    model = model_of(rest, options.raw)
    answers = model.classify(options.images)
    warn_of_broken(answers.broken)
    page = write_answers(answers, model.source, options.out)
    print(f"{len(answers.files):,} picture{'' if len(answers.files) == 1 else 's'}: {page}")
    return 0
