"""All tests that need a GPU, file by file."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from benchmarks.gpu.measuring import Figures, Measurement, Setting

ROOT = Path(__file__).parents[2]
MARK = re.compile(r"pytest\.mark\.gpu\b")
COUNT = re.compile(r"(\d+) (passed|failed|skipped|error)")


def measurements(setting: Setting) -> Iterator[Measurement]:
    """Yield the files of tests that are marked `gpu`; in a dry run the first alone."""
    files = [path for path in sorted((ROOT / "tests").rglob("test_*.py")) if MARK.search(path.read_text("utf-8"))]
    for file in files[:1] if setting.dry else files:
        yield Measurement(str(file.relative_to(ROOT)), partial(run, file))


def run(file: Path) -> Figures:
    """Run the marked tests of a file.

    Raises:
        AssertionError: one failed, or there is none.
    """
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-p", "no:cacheprovider", "--tb=short", str(file)]
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))  # vitlab may not be installed
    environment = {**os.environ, "PYTHONPATH": path}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    counts = {kind: int(number) for number, kind in COUNT.findall(done.stdout.strip().rpartition("\n")[2])}
    if done.returncode:
        print(done.stdout, done.stderr, file=sys.stderr)
        failed = [line.split(" - ")[0].rpartition("::")[2] for line in done.stdout.splitlines() if "FAILED" in line]
        raise AssertionError(f"exit status {done.returncode}: {', '.join(failed) or 'see the output'}")
    return {"passed": counts.get("passed", 0), "skipped": counts.get("skipped", 0)}
