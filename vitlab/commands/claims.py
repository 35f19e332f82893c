"""`claims`: test the claims of a folder, what is missing of them, and write one page about all."""

import sys
from collections.abc import Sequence
from pathlib import Path

from vitlab.commands.options import StudyParser


def run(arguments: Sequence[str]) -> int:
    """Run the studies whose claims are not tested yet, the cheapest first."""
    parser = StudyParser("python -m vitlab claims", "Test published claims: run what is missing, write one page.")
    parser.add_argument("--folder", type=Path, default=Path("experiments/claims"), help="[experiments/claims]")
    parser.add_argument("--root", type=Path, default=Path("runs/claims"), help="folder of runs and page [runs/claims]")
    options = parser.parse_args(arguments)

    from vitlab.commands.quiet import quiet
    from vitlab.studies.claims import run_claims
    from vitlab.studies.compare import RunsFailed, compare

    quiet()
    failed = []

    def tested(study: Path, root: Path) -> None:
        try:
            compare(study, root)
        except (RunsFailed, ValueError, FileNotFoundError) as error:  # the others can still be tested
            failed.append(study)
            print(error, file=sys.stderr)

    print(f"The page: {run_claims(options.folder, options.root, tested)}")
    return 1 if failed else 0
