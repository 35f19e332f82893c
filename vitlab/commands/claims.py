"""`claims`: test the claims of a folder, what is missing of them, and write one page about all; or check a new one."""

import sys
from collections.abc import Sequence
from pathlib import Path

from vitlab.commands.options import StudyParser
from vitlab.config import locate


def run(arguments: Sequence[str]) -> int:
    """Run the studies whose claims are not tested yet, the cheapest first; the page is written after each."""
    parser = StudyParser("python -m vitlab claims", "Test published claims: run what is missing, write one page.")
    parser.add_argument("--folder", type=Path, default=locate("experiments/claims"), help="[experiments/claims]")
    parser.add_argument("--root", type=Path, default=Path("runs/claims"), help="folder of runs and page [runs/claims]")
    parser.add_argument("--check", type=Path, metavar="FILE", help="check a new claim, and train nothing")
    options = parser.parse_args(arguments)

    from vitlab.commands.quiet import quiet
    from vitlab.studies.claims import is_tested, read_claims, write_page
    from vitlab.studies.compare import RunsFailed, compare

    quiet()
    if options.check:
        from vitlab.studies.checks import checks

        found = checks(locate(options.check), options.root)
        print(*found, sep="\n")
        return 0 if all(check.passed for check in found) else 1
    studies, failed = read_claims(options.folder), False
    for number, study in enumerate(studies, start=1):
        if not is_tested(study, options.root):
            print(f"Claim {number} of {len(studies)}: {study.path}", flush=True)
            try:
                compare(study.path, options.root)
            except (RunsFailed, ValueError, FileNotFoundError) as error:  # the others can still be tested
                failed = True
                print(error, file=sys.stderr)
        page = write_page(studies, options.root)
    print(f"The page: {page}")
    return 1 if failed else 0
