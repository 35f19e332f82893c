"""How well numbers that need no labels rank encoders: Spearman's correlation with k-NN on the validation images.

    python -m vitlab compare --config experiments/studies/lejepa_label_free.yaml
    python -m benchmarks.label_free runs/lejepa-label-free

The loss counts as its negative: the lower, the better. `val/rank` is RankMe (https://arxiv.org/abs/2210.02885). The
interval is Fisher's, with the variance of Bonett and Wright for Spearman's coefficient.
"""

import json
import math
import sys
from pathlib import Path

import pandas as pd
from scipy.stats import norm, spearmanr

from benchmarks.table import markdown

SIGNS = {"train/loss": -1, "val/rank": 1}


def encoders(folder: Path) -> pd.DataFrame:
    """Return the metrics of all finished runs under a folder."""
    summaries = [json.loads(file.read_text(encoding="utf-8")) for file in sorted(folder.rglob("summary.json"))]
    return pd.DataFrame([summary["metrics"] for summary in summaries if summary["finished"]])


def correlation(x: pd.Series, y: pd.Series) -> tuple[float, float, float]:
    """Return Spearman's coefficient with the ends of its 95 % interval."""
    rho = float(spearmanr(x, y).statistic)
    half = norm.ppf(0.975) * math.sqrt((1 + rho**2 / 2) / (len(x) - 3))
    z = math.atanh(min(max(rho, -1 + 1e-12), 1 - 1e-12))
    return rho, math.tanh(z - half), math.tanh(z + half)


def main(folder: Path) -> None:
    """Print a row for each number."""
    table = encoders(folder)
    rows = []
    for name, sign in SIGNS.items():
        rho, low, high = correlation(sign * table[name], table["val/knn"])
        rows.append({"number": f"−{name}" if sign < 0 else name, "Spearman's ρ": f"{rho:.2f} [{low:.2f}, {high:.2f}]"})
    print(markdown(f"{len(table)} encoders.", rows))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
