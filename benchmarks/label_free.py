"""Does LeJEPA's loss rank encoders as labels do? 24 of them on CIFAR-10, an hour of a CPU core.

    python -m benchmarks.label_free

The authors say that the training loss ranks encoders as a linear probe does, with 94.5 % correlation of ranks
(ViT-B/8 on ImageNet-1k, https://arxiv.org/abs/2511.08544, Fig. 1). Here six backbones are trained at four of Muon's
rates, on 45,000 images each, and judged by k-NN on the validation images. Runs that are finished are not repeated.

Fixed before the first run: the claim is repeated if the 95 % interval of its correlation lies above 0.5, contradicted
if below, else not settled. The loss counts as its negative: the lower, the better. Of twelve encoders, the first three
backbones with seed 501, it was 0.86 [0.48, 0.97], not settled; of the 24, with a new seed, 0.83 [0.60, 0.93], repeated
(docs/results.md). `val/rank` is RankMe
(https://arxiv.org/abs/2210.02885). The interval is Fisher's, with the variance of Bonett and Wright for Spearman's
coefficient.
"""

import json
import math
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import product
from pathlib import Path

import pandas as pd
from scipy.stats import norm, spearmanr

from benchmarks.measuring import markdown, options_of, parser_of

SIGNS = {"train/loss": -1, "val/rank": 1}
BASE = "experiments/lejepa_vit_small.yaml"
SEED = 502
RATES = (0.0025, 0.005, 0.01, 0.02)
SWIN = {
    "model.backbone": "vitlab.models.SwinTransformerV2",
    "model.backbone.patch_size": 4,
    "model.backbone.embed_dim": 64,
    "model.backbone.depths": [2, 4],
    "model.backbone.num_heads": [2, 4],
    "model.backbone.window_size": 4,
    "model.backbone.drop_path_rate": 0.0,
}
BACKBONES: dict[str, dict[str, object]] = {  # by what they change of the experiment's
    "vit": {},
    "shallow-vit": {"model.backbone.depth": 2},
    "swin-v2": SWIN,
    "narrow-vit": {"model.backbone.embed_dim": 48},
    "coarse-vit": {"model.backbone.patch_size": 8},
    "narrow-swin-v2": SWIN | {"model.backbone.embed_dim": 32},
}


def commands(root: Path) -> dict[str, list[str]]:
    runs = {}
    for (backbone, changes), rate in product(BACKBONES.items(), RATES):
        settings: dict[str, object] = {
            "model.optimizer.muon_lr": rate,
            "model.optimizer.ns_dtype": "bfloat16",
            "seed_everything": SEED,
            "trainer.max_epochs": 1,
            "trainer.precision": "bf16-mixed",
            "trainer.enable_progress_bar": False,
            "run.root": root,
            "run.name": f"{backbone}-{rate}",
            "run.probe": "null",
            "run.test": False,
        }
        runs[f"{backbone}-{rate}"] = ["fit", "--config", BASE, *options_of(settings | changes)]
    return runs


def encoders(folder: Path) -> pd.DataFrame:
    files = {
        file.parents[1].name: json.loads(file.read_text(encoding="utf-8")) for file in folder.rglob("summary.json")
    }
    return pd.DataFrame({name: each["metrics"] for name, each in sorted(files.items()) if each["finished"]}).T


def correlation(x: pd.Series, y: pd.Series) -> tuple[float, float, float]:
    """Return Spearman's coefficient with the ends of its 95 % interval."""
    rho = float(spearmanr(x, y).statistic)
    half = norm.ppf(0.975) * math.sqrt((1 + rho**2 / 2) / (len(x) - 3))
    z = math.atanh(min(max(rho, -1 + 1e-12), 1 - 1e-12))
    return rho, math.tanh(z - half), math.tanh(z + half)


def report(table: pd.DataFrame) -> str:
    """Return the encoders, best first, and how well each number ranks them."""
    ordered = table.sort_values("val/knn", ascending=False)
    rows = [
        {"encoder": name, "k-NN, %": f"{100 * line['val/knn']:.1f}", **{key: f"{line[key]:.3g}" for key in SIGNS}}
        for name, line in ordered.iterrows()
    ]
    found = []
    for name, sign in SIGNS.items():
        rho, low, high = correlation(sign * table[name], table["val/knn"])
        found.append({"number": f"−{name}" if sign < 0 else name, "Spearman's ρ": f"{rho:.2f} [{low:.2f}, {high:.2f}]"})
    return markdown(f"{len(table)} encoders.", rows) + "\n" + markdown("Correlation with k-NN.", found)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = parser_of("label_free", __doc__)
    parser.add_argument("--root", type=Path, default=Path("runs/label-free"), help="folder of the runs [%(default)s]")
    parser.add_argument("--jobs", type=int, default=2, help="trainings at a time [%(default)s]")
    options = parser.parse_args(arguments)
    finished = {file.parents[1].name for file in options.root.glob(f"*/seed-{SEED}/summary.json")}
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    train = partial(subprocess.run, env=environment, check=True)
    with ThreadPoolExecutor(options.jobs) as pool:
        left = [words for name, words in commands(options.root).items() if name not in finished]
        list(pool.map(train, [[sys.executable, "-m", "vitlab", *words] for words in left]))
    print(report(encoders(options.root)))


if __name__ == "__main__":
    main()
