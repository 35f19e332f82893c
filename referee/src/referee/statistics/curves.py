"""Curves over a numeric axis, such as training images: where two of them cross, and the law that one follows.

A point x_k has the mean errors e_a and e_b of two variants, and V_k and I_k, the variances of their difference over
seeds and images (`contrast`). Where two curves cross, r = ln(e_a / e_b) is zero. A power law is nearly a line in
ln x, so r is interpolated there, by the cubic through the nearest four points: r(x) = Σ w_k(x) r_k with

    V(x) = Σ w_k² V_k / L_k²       images are the same at all points, seeds are not
    I(x) = (Σ |w_k| √I_k / L_k)²   L_k = (e_a − e_b) / ln(e_a / e_b), the logarithmic mean

A crossing is claimed where the two variants are settled at two points in opposite ways, at the level 0.05 / K for K
points; these points are its bracket. Its interval holds every x between them at which r = 0 is not rejected at 0.05,
where the interpolation may be off by as much as the cubic and a line differ. Between two points, a jump looks like a
line that is steeper than both of its neighbors: an interval that comes there holds both points.

`power_law` fits e = α + η x^−γ (Hestness et al. 2017, arXiv 1712.00409; Rosenfeld et al. 2020, arXiv 1909.12673). Its
p is the share of studies of the fitted law whose points lie as far from their own fit, in standard errors.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from scipy import optimize

from referee.statistics.contrast import LEVEL, Contrast, Interval, half_width

NEIGHBORS = 4  # points that interpolate
BETWEEN = 32  # places looked at between two points
DRAWS = 200  # of the points, for the interval of a fit
LEAST_POINTS = 4  # of a fit with three parameters
NO_FLOOR = 1e-3  # a share of the least error that is none


class Crossing(NamedTuple):
    """Where two curves cross."""

    at: float
    low: float
    high: float
    from_first: bool  # the first variant is better before, the second one after
    bracket: tuple[float, float]  # the points at which they are settled in opposite ways


class Law(NamedTuple):
    """error = floor + factor · x^−rate."""

    floor: Interval
    factor: Interval
    rate: Interval  # without an upper end where the floor may be 0: a higher floor goes with a higher rate
    p: float  # of points that follow such a law

    def error(self, x: np.ndarray) -> np.ndarray:
        """Return the fitted error at some places."""
        return law(x, self.floor.mean, self.factor.mean, self.rate.mean)


def log_ratio(a: float, b: float, difference: Contrast) -> Contrast:
    """Return ln a − ln b as a contrast, from that of the mean errors a and b, above 0."""
    scale = a if math.isclose(a, b) else (a - b) / math.log(a / b)  # the logarithmic mean L
    seeds, images = difference.seeds / scale**2, difference.images / scale**2
    return difference._replace(mean=math.log(a / b), seeds=seeds, images=images, scores=None)


def signs(gaps: Sequence[Contrast], level: float = LEVEL) -> list[int]:
    """Return −1 where the first is better, 1 where the second is, 0 where neither is, at a level that all share."""
    return [int(low > 0) - int(high < 0) for _, low, high in (gap.interval_at(level / len(gaps)) for gap in gaps)]


def crossing(x: Sequence[float], gaps: Sequence[Contrast], level: float = LEVEL) -> Crossing | None:
    """Return where two curves cross, from their `log_ratio`s; None unless settled in opposite ways, once.

    If one of the points x, which increase, is not above 0, r is interpolated in x instead of ln x.
    """
    settled = [(k, sign) for k, sign in enumerate(signs(gaps, level)) if sign]
    turns = [pair for pair in pairwise(settled) if pair[0][1] != pair[1][1]]
    if len(turns) != 1:
        return None
    (first, before), (last, _) = turns[0]
    numbers = np.asarray(x, dtype=float)
    u = np.log(numbers) if numbers[0] > 0 else numbers
    places = np.unique(np.concatenate([np.linspace(u[k], u[k + 1], BETWEEN) for k in range(first, last)]))
    weights = np.stack([_weights(u, place) for place in places])  # (P, K)
    ratios, seeds, images = np.array([(gap.mean, gap.seeds, gap.images) for gap in gaps]).T
    r = weights @ ratios
    freedom, of_images = (min(getattr(gap, kind) for gap in gaps) for kind in ("freedom", "of_images"))

    def half(w: np.ndarray) -> float:
        return half_width(LEVEL, float(w**2 @ seeds), float(np.abs(w) @ np.sqrt(images)) ** 2, freedom, of_images)

    halves = np.array([half(w) for w in weights]) + np.abs(r - np.interp(places, u, ratios))
    beyond = np.abs(r) - halves  # above 0 where a crossing is rejected
    rejected = _zeros(places, beyond)
    at = float(_zeros(places, r).mean())
    low, high = (float(end(rejected, initial=at)) for end in (np.min, np.max))
    low, high = (places[0] if beyond[0] <= 0 else low), (places[-1] if beyond[-1] <= 0 else high)
    slopes = np.diff(np.eye(len(u)), axis=0) / np.diff(u)[:, None]  # weights of the points, (K − 1, K)
    for k in range(first, last):
        steeper = [slopes[k] - slopes[j] for j in (k - 1, k + 1) if 0 <= j < len(slopes)]  # than before, and after
        may_jump = all(float(np.sign(slopes[k] @ ratios) * (w @ ratios)) > half(w) for w in steeper)
        if u[k] < high and low < u[k + 1] and may_jump:
            low, high = min(low, u[k]), max(high, u[k + 1])
    at, low, high = (math.exp(end) if numbers[0] > 0 else float(end) for end in (at, low, high))
    return Crossing(at, low, high, before < 0, (float(numbers[first]), float(numbers[last])))


def _zeros(places: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return where a curve through some values is zero, as if it were straight between them."""
    turns = np.flatnonzero(np.sign(values[:-1]) != np.sign(values[1:]))
    share = values[turns] / (values[turns] - values[turns + 1])
    return np.asarray(places[turns] + share * (places[turns + 1] - places[turns]))


def _weights(u: np.ndarray, place: float) -> np.ndarray:
    """Return what each point adds to the value at a place between them: Σ w (u − place)^j = [j = 0] of the nearest."""
    count = min(NEIGHBORS, len(u))
    below = int(np.searchsorted(u, place, side="right")) - 1
    first = min(max(below - (count - 1) // 2, 0), len(u) - count)
    near, weights = slice(first, first + count), np.zeros(len(u))
    weights[near] = np.linalg.solve(np.vander(u[near] - place, increasing=True).T, np.eye(count)[0])
    return weights


def law(x: np.ndarray, floor: float, factor: float, rate: float) -> np.ndarray:
    """Return floor + factor · x^−rate."""
    return floor + factor * np.asarray(x, dtype=float) ** -rate


def power_law(x: Sequence[float], errors: np.ndarray, images: Sequence[float]) -> Law | None:
    """Fit a power law to the errors of one variant; None for fewer than four points or two seeds, or a point at 0.

    The intervals come from fits to resampled points: each moves by its standard error over seeds (Student's t), and all
    move together by the variance of the mean error over the choice of test images, (K,).
    """
    K, S = errors.shape  # points, seeds
    if K < LEAST_POINTS or min(x) <= 0 or S < 2:
        return None
    means, noise = errors.mean(axis=1), errors.std(axis=1, ddof=1) / math.sqrt(S)
    places = np.asarray(x, dtype=float)
    rng = np.random.default_rng(0)
    moved = rng.standard_t(S - 1, size=(DRAWS, K)) * noise
    moved += rng.standard_normal((DRAWS, 1)) * np.sqrt(np.asarray(images))
    fitted = _fit(places, means)
    spread = np.array([_fit(places, np.clip(means + each, 1e-6, None), fitted) for each in moved])
    low, high = np.quantile(spread, [LEVEL / 2, 1 - LEVEL / 2], axis=0)
    floor, factor, rate = (Interval(*map(float, each)) for each in zip(fitted, low, high, strict=True))
    if floor.low < NO_FLOOR * means.min():
        rate = rate._replace(high=math.inf)
    own, follows = _distance(places, means, noise, fitted), law(places, *fitted)
    further = sum(_distance(places, follows + each, noise, fitted) >= own for each in moved)
    return Law(floor, factor, rate, (1 + further) / (1 + DRAWS))


def _distance(x: np.ndarray, errors: np.ndarray, noise: np.ndarray, start: np.ndarray) -> float:
    """Return how far points lie from the law that is fitted to them, as a sum of squares in standard errors."""
    errors = np.clip(errors, 1e-6, None)
    return float((((errors - law(x, *_fit(x, errors, start))) / np.maximum(noise, 1e-9)) ** 2).sum())


def _fit(x: np.ndarray, errors: np.ndarray, start: np.ndarray | None = None) -> np.ndarray:
    """Return floor, factor and rate by least squares of the error's logarithm."""
    middle = float(np.exp(np.log(x).mean()))  # about which the factor and the rate are nearly uncorrelated
    scaled, wanted, least = x / middle, np.log(errors), float(errors.min())

    def residuals(parameters: np.ndarray) -> np.ndarray:
        return np.asarray(np.log(law(scaled, *parameters)) - wanted)

    def slopes(parameters: np.ndarray) -> np.ndarray:
        floor, factor, rate = parameters
        power = scaled**-rate
        weights = np.stack([np.ones_like(x), power, -factor * power * np.log(scaled)], axis=1)
        return np.asarray(weights / (floor + factor * power)[:, None])

    typical = np.array([least, float(np.exp(wanted.mean())), 0.5])
    if start is None:
        guess = typical * [0.1, 0.9, 1.0]
    else:
        guess = np.clip(start * [1, middle ** -start[2], 1], typical * 1e-3, [0.99 * least, np.inf, 4.9])
    bounds = [0, 0, 0], [least, np.inf, 5]
    fit = optimize.least_squares(residuals, guess, slopes, bounds=bounds, x_scale=typical, max_nfev=100)
    floor, factor, rate = fit.x
    return np.array([floor, factor * middle**rate, rate])
