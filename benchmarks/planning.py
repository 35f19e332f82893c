"""How often the planner's ranges hold the truth: simulated pilots of studies whose variances are known.

    python -m benchmarks.planning               # planning.md has the table

A latent variable per image: difficulty of the image + what one variant finds easier + the seed's shift + a flip; above
0 the image is classified correctly. At 90 % accuracy seeds flip w = 0.048 per image and I = 0.014/N, as trained models
do.
"""

import argparse
import math
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from referee.statistics.contrast import LEVEL, all_pairs
from referee.statistics.power import Need, Pilot, Variances, measured, need
from scipy import stats

from benchmarks.table import OUT, markdown, save

MEAN, DIFFICULTY, TASTE = 2.583, 1.655, 0.568  # of the latent variable: 90 % accuracy, w and N · I as above
FLIPS, IMAGES = 0.0484, 0.0139  # w and N · I that follow
DENSITY = 0.0871  # of the latent variable at 0: what a shift of 1 moves the accuracy


class Setting(NamedTuple):
    """A study to plan, and its pilot."""

    variants: int
    sd: float  # of a variant's accuracy over seeds, in points, before flips
    images: int
    difference: float  # in points
    pilot: int  # seeds
    noise: str = "normal"  # of seeds; or "t", 3 degrees of freedom

    @property
    def truth(self) -> Pilot:
        """The pilot that knows the variances."""
        variances = Variances(1e-4 * self.sd**2 + FLIPS / self.images, IMAGES / self.images)
        return Pilot(self.variants, self.images, variances, variances, variances)


SETTINGS = [
    Setting(3, 0.5, 10_000, 1.0, 3),
    Setting(3, 0.5, 10_000, 1.0, 5),
    Setting(2, 0.5, 10_000, 1.0, 3),
    Setting(3, 0.5, 10_000, 0.5, 3),
    Setting(3, 0.5, 10_000, 0.5, 5),
    Setting(3, 0.5, 600, 3.0, 3),
    Setting(4, 0.5, 2_000, 1.5, 3),
    Setting(3, 0.5, 10_000, 1.0, 3, "t"),
    Setting(3, 0.5, 600, 1.0, 3),
    Setting(3, 0.5, 2_000, 0.5, 3),
]


def outcomes(rng: np.random.Generator, setting: Setting, seeds: int, lead: float = 0.0) -> list[np.ndarray]:
    """Draw (S, N) outcomes of each variant; the first is `lead` points ahead."""
    difficulty = rng.normal(MEAN, DIFFICULTY, setting.images)
    spread = math.sqrt(1 + DIFFICULTY**2 + TASTE**2)
    ahead = float(stats.norm.ppf(stats.norm.cdf(MEAN / spread) + lead / 100)) * spread - MEAN
    drawn = []
    for variant in range(setting.variants):
        shift = rng.standard_t(3, seeds) / np.sqrt(3) if setting.noise == "t" else rng.normal(0, 1, seeds)
        shift = 0.01 * setting.sd * shift / DENSITY + (ahead if variant == 0 else 0.0)
        chance = difficulty + rng.normal(0, TASTE, setting.images) + shift[:, None]
        drawn.append(chance + rng.standard_normal((seeds, setting.images)) > 0)
    return drawn


def holds(answer: Need, truth: Need) -> bool:
    """Whether the range contains the truth; where no seeds are enough, a range of seeds that is open above does."""
    if truth.images and not answer.images:
        return answer.seeds.high is None
    (_, low, high), (wanted, *_) = (each.images if truth.images else each.seeds for each in (answer, truth))
    return low is not None and low <= wanted and (high is None or wanted <= high)


def power(setting: Setting, seeds: int, studies: int) -> float:
    """Return the share of studies of this size that settle the difference between the first two variants."""
    rng = np.random.default_rng(1)
    settled = [
        all_pairs(outcomes(rng, setting, seeds, setting.difference))[0, 1].adjusted < LEVEL for _ in range(studies)
    ]
    return float(np.mean(settled))


def row(setting: Setting, pilots: int) -> dict[str, object]:
    """Simulate pilots of one setting."""
    rng = np.random.default_rng(0)
    truth = need(setting.truth, setting.difference / 100)
    answers = []
    for _ in range(pilots):
        pilot = measured(outcomes(rng, setting, setting.pilot), setting.variants)
        assert pilot is not None
        answers.append(need(pilot, setting.difference / 100))
    wanted = truth.images or truth.seeds
    assert wanted.point is not None
    ranges = [answer.images if truth.images else answer.seeds for answer in answers]
    inside = [holds(answer, truth) for answer in answers]
    enough = [r is None or r.high is None or r.high >= wanted.point for r in ranges]

    def middle(number: Callable[[object], int | None], quantile: float = 0.5) -> str:
        values = sorted(number(r) or 10**9 if r else 0 for r in ranges)
        value = values[round(quantile * (len(values) - 1))]
        return "–" if value == 0 else f"{value:,}" if value < 10**9 else "over 1,000"

    unit = " images" if truth.images else ""
    points = [middle(lambda r: r.point, q) for q in (0.1, 0.5, 0.9)]
    return {
        "K, sd, N": f"{setting.variants}, {setting.sd}{' (t)' if setting.noise == 't' else ''}, {setting.images:,}",
        "δ": setting.difference,
        "pilot": setting.pilot,
        "truth": f"{wanted.point:,}{unit}",
        "point: 10, 50, 90 %": ", ".join(points),
        "range holds truth": f"{np.mean(inside):.1%}",
        "median range": f"{middle(lambda r: r.low)} to {middle(lambda r: r.high)}",
        "enough at the upper end": f"{np.mean(enough):.0%}",
        "power at the truth": "–" if truth.images else f"{power(setting, wanted.point, pilots // 4):.0%}",
        "images asked for": f"{np.mean([answer.images is not None for answer in answers]):.1%}",
    }


def main() -> None:
    """Print and write the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--pilots", type=int, default=1000)
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    rows = []
    for setting in SETTINGS:
        rows.append(row(setting, options.pilots))
        print(rows[-1], flush=True)
    save(options.out / "planning.md", markdown(f"{options.pilots} pilots a row.", rows))


if __name__ == "__main__":
    main()
