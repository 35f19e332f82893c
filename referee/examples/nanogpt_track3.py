"""Read the runs of modded-nanogpt's track 3 from a clone: python nanogpt_track3.py CLONE > nanogpt_track3.csv.

Each result of the track counts at the step that its row reports, which is before the end of many logs. Loss becomes
steps at the track's own exchange rate, 0.0045 for 100 steps.
"""

import csv
import re
import sys
from pathlib import Path

ROW = re.compile(r"\| (\d+) \| (\d+)(\(!\))? \| [\d.]+ \(n=(\d+)\).*?\| \[log\]\((results/[^)]+)\)")
LOSS = r"step:(\d+)/\d+ val_loss:([\d.]+)"
FILES = {16: "*/*/stdout.txt", 23: "a26c8aa2*", 32: "code_logs/*", 44: "H100_*"}  # folders with more than the result
RUNS = {41: r"\|\s*(\d+) \| [\d.]+ \| ([\d.]+) \|", 46: r"step:(\d+)/.*val_ema_loss:([\d.]+)"}  # as the row counts them
TARGET, STEPS_OF_LOSS = 3.28, 100 / 0.0045


def losses(track: Path, result: int, steps: int, log: str) -> list[float]:
    """Return the loss of each run of a result at a step; a log may hold several runs."""
    alone = (track / log).parent.name == "results"
    files = [track / log] if alone or result == 41 else sorted((track / log).parent.glob(FILES.get(result, "*.txt")))
    found = [pair for file in files for pair in re.findall(RUNS.get(result, LOSS), file.read_text(encoding="utf-8"))]
    return [float(loss) for step, loss in found if result == 41 or int(step) == steps]


def main(track: Path) -> None:
    """Print variant, seed, reported steps, whether it was a record, loss, and steps to the target."""
    table = csv.writer(sys.stdout, lineterminator="\n")
    table.writerow(["variant", "seed", "reported_steps", "record", "val_loss", "steps_to_3.28"])
    for result, at, record, runs, log in ROW.findall((track / "README.md").read_text(encoding="utf-8")):
        found = losses(track, int(result), int(at), log)
        if len(found) != int(runs):
            raise ValueError(f"#{result} has {runs} runs, and {len(found)} are in {log}.")
        for seed, loss in enumerate(found, 1):
            steps = int(at) + (loss - TARGET) * STEPS_OF_LOSS
            table.writerow([f"#{result}", seed, at, "yes" if record else "no", loss, f"{steps:.1f}"])


if __name__ == "__main__":
    main(Path(sys.argv[1]) / "records" / "track_3_optimization")
