"""How studies that are looked at end: simulated studies whose truth is known.

Scores are drawn with a deviation of one between seeds, and the test images as in `benchmarks.verdicts` where their
number is given. A claim is false where the settled variant is not better.
"""

import argparse
import time
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from referee.statistics.sequential import Rows, levels, watch

from benchmarks import verdicts
from benchmarks.measuring import OUT, markdown, save

STUDIES = 1_000


class Design(NamedTuple):
    """A study and the world that it is drawn from; leads and deviations in deviations of a seed."""

    leads: Sequence[float]
    most: int = 10
    first: int = 4
    margin: float | None = None
    noise: str = "normal"
    deviations: Sequence[float] = ()  # of each variant's seeds; empty: 1
    images: int = 0  # of equal variants; 0: scores alone


DESIGNS = (
    *(Design((0.0,) * variants, images=images) for variants in (2, 3, 4) for images in (0, 1_000)),
    *(Design((0.0,) * 3, noise=noise) for noise in verdicts.NOISES[1:]),
    Design((0, 0, -6)),
    Design((0, 0, 0), deviations=(1, 1, 4)),
    Design((0, 0, 0), deviations=(1, 2.5, 4)),
    *(Design((0, 0, -60), deviations=deviations) for deviations in ((2, 1, 1), (4, 1, 1), (4, 1, 4), (1, 1, 4))),
    Design((0, 0, 0), first=3),
    Design((0, 0, 0), most=20),
    *(Design((lead, *others)) for others in ((0,), (0, 0)) for lead in (1, 2, 3, 4)),
    Design((6, 4, 2, 0)),
    *(Design((0,) * variants, most=20, margin=2) for variants in (2, 3)),
    Design((2, 0), most=20, margin=2),
    *(Design((lead, 0), most=12, margin=1) for lead in (0, 1)),
)


def draw(design: Design, rng: np.random.Generator) -> list[Rows]:
    """Draw the outcomes of all seeds that a study may train."""
    K, S = len(design.leads), design.most
    if design.images:
        drawn = verdicts.outcomes(verdicts.Design(K, S, design.images), rng)
        return [dict(enumerate(outcomes)) for outcomes in drawn]
    scores = rng.standard_t(3, (K, S)) / 3**0.5 if design.noise == verdicts.NOISES[1] else rng.standard_normal((K, S))
    if design.noise == verdicts.NOISES[2]:
        scores -= 10 * (rng.random((K, S)) < 0.1)
    scores *= np.array(design.deviations or [1] * K)[:, None]
    scores += np.array(design.leads)[:, None]
    return [{seed: row[seed : seed + 1] for seed in range(S)} for row in scores]


def rows(studies: int) -> Iterator[dict[str, object]]:
    """Yield a row for each design."""
    for design in DESIGNS:
        rng = np.random.default_rng(zlib.crc32(repr(design).encode()))
        looks = range(design.first, design.most + 1)
        rule = levels(tuple(looks), rising=design.margin is not None)
        ends, false, runs = Counter[str | None](), 0, []
        for _ in range(studies):
            study = watch(draw(design, rng), range(design.most), looks, design.margin)
            ends[study.stop] += 1
            false += any(design.leads[a] <= design.leads[b] for a, b in study.settled)
            runs.append(sum(study.trained.values()))
        yield {
            "leads": ", ".join(f"{lead:g}" for lead in design.leads),
            "seeds": f"{design.first} to {design.most}",
            "noise": design.noise
            + (f", sds {', '.join(f'{sd:g}' for sd in design.deviations)}" if design.deviations else "")
            + (f", {design.images:,} images" if design.images else ""),
            "margin": "" if design.margin is None else f"{design.margin:g}",
            "levels": " to ".join(dict.fromkeys(f"{each:.4f}" for each in (rule[0], rule[-1]))),
            "false, %": f"{100 * false / studies:.1f}",
            "99 % bound": f"{100 * verdicts.bound(false, studies):.1f}",
            **{f"{end}, %": f"{100 * ends[end] / studies:.0f}" for end in ("decided", "equal", "hopeless")},
            "runs, % of all": f"{100 * np.mean(runs) / design.most / len(design.leads):.0f}",
        }


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.looks", description=__doc__.split("\n")[0])
    parser.add_argument("--studies", type=int, default=STUDIES, help="of each design (default: %(default)s)")
    studies = parser.parse_args(arguments).studies
    start = time.process_time()
    table = markdown(f"How studies that are looked at end; {studies:,} studies a row.", list(rows(studies)))
    print(table)
    print(f"{time.process_time() - start:.0f} s of processor time")
    save(OUT / "looks.md", table)


if __name__ == "__main__":
    main()
