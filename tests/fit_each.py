"""`torchrun tests/fit_each.py a.yaml b.yaml`: `python -m vitlab fit --config` of one file after the other.

The packages are imported once for all of them, which takes longer than the runs.
"""

import sys

from vitlab.commands import run

if __name__ == "__main__":
    sys.exit(max(run("fit", ["--config", path]) for path in sys.argv[1:]))
