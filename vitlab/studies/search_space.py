"""A study's search over several settings: what is drawn, how often, and by which of optuna's samplers.

    search:
      space:
        model.init_args.optimizer.init_args.lr: {from: 1.0e-4, to: 1.0e-2}     # log-uniform
        model.init_args.optimizer.init_args.weight_decay: {from: 0.0, to: 0.3, log: false}
        model.init_args.label_smoothing: [0.0, 0.1]                            # one of a list
      trials: 24          # of each variant
      sampler: random     # or sobol, which covers the space more evenly, or tpe, which learns from earlier trials
      seed: 0             # of the sampler
      prune: {after: 2, keep: 0.5}   # null; after two epochs, half of each variant's trials end

Settings drawn at random or by Sobol's sequence are the same for every variant. TPE draws for each variant by its own
trials. Trial i has its own seed, the same for every variant and different from the comparison's.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count, islice
from typing import TYPE_CHECKING, Any

from vitlab.studies.budget import refuse_unknown
from vitlab.studies.format import as_yaml

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.samplers import BaseSampler

SAMPLERS = ("random", "sobol", "tpe")
FROM = 2000  # the first seed of a trial
LEAST_TRIALS = 2


@dataclass(frozen=True)
class Search:
    """What is tried before a comparison, as often for every variant."""

    space: dict[str, Any]  # by key: a list of values, or a mapping with from, to and log
    trials: int
    sampler: str
    seed: int
    seeds: list[int]  # by trial
    after: int | None = None  # epochs of the trials that are pruned
    keep: int = 0  # trials of each variant that are trained to their end

    @property
    def shared(self) -> bool:
        """Whether trial i has the same settings for every variant."""
        return self.sampler != "tpe"

    def settings(self, scores: Sequence[float | None]) -> list[dict[str, Any]]:
        """Return the settings, by key, of the trials that are determined by the scores of earlier ones.

        Args:
            scores: Higher is better; None: a failed trial.
        """
        import optuna  # here, because it takes a second to import

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        with warnings.catch_warnings(action="ignore"):  # of samplers that optuna calls experimental
            study = optuna.create_study(direction="maximize", sampler=self._sampler())
            drawn = []
            space = {key: _distribution(each) for key, each in self.space.items()}
            for number in range(self.trials):
                if number > len(scores) and not self.shared:
                    break
                trial = study.ask(space)
                drawn.append(dict(trial.params))
                score = scores[number] if number < len(scores) and not self.shared else 0.0
                study.tell(trial, score, None if score is not None else optuna.trial.TrialState.FAIL)
        return drawn

    def _sampler(self) -> "BaseSampler":
        from optuna.samplers import QMCSampler, RandomSampler, TPESampler

        if self.sampler == "sobol":
            return QMCSampler(qmc_type="sobol", scramble=True, seed=self.seed)
        return RandomSampler(self.seed) if self.sampler == "random" else TPESampler(seed=self.seed)


def _distribution(value: Any) -> "BaseDistribution":
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(value, list):
        return CategoricalDistribution(value)
    if type(value["from"]) is int and type(value["to"]) is int:
        return IntDistribution(value["from"], value["to"], log=value["log"])
    return FloatDistribution(value["from"], value["to"], log=value["log"])


def parse_search(value: Any, seeds: Sequence[int]) -> Search | None:
    """Parse a study's `search`.

    Args:
        seeds: of the comparison, which no trial has.

    Raises:
        ValueError: the message does not name the file.
    """
    if value is None:
        return None
    if not isinstance(value, dict) or not isinstance(value.get("space"), dict) or not value["space"]:
        raise ValueError(f"search: {value!r}. Expected a mapping with a `space` of keys and `trials`.")
    refuse_unknown(value, ("space", "trials", "sampler", "seed", "prune"), "key of `search`")
    trials, sampler, seed = value.get("trials"), value.get("sampler", "random"), value.get("seed", 0)
    if type(trials) is not int or trials < LEAST_TRIALS:
        raise ValueError(f"search: trials: {trials!r}. Expected a whole number from {LEAST_TRIALS}.")
    if sampler not in SAMPLERS:
        raise ValueError(f"search: sampler: {sampler!r}. Expected one of {', '.join(SAMPLERS)}.")
    if type(seed) is not int or seed < 0:
        raise ValueError(f"search: seed: {seed!r}. Expected a whole number from 0.")
    space = {str(key): _parse_values(str(key), each) for key, each in value["space"].items()}
    unused = islice((number for number in count(FROM) if number not in seeds), trials)
    return Search(space, trials, sampler, seed, list(unused), *_parse_prune(value.get("prune"), trials, sampler))


def _parse_prune(value: Any, trials: int, sampler: str) -> tuple[int | None, int]:
    if value is None:
        return None, trials
    if not isinstance(value, dict):
        raise ValueError(f"search: prune: {value!r}. Expected {{after: 2, keep: 0.5}}, or null.")
    refuse_unknown(value, ("after", "keep"), "key of `search: prune`")
    after, keep = value.get("after"), value.get("keep")
    if type(after) is not int or after < 1 or type(keep) is not float or not 0 < keep < 1:
        raise ValueError(f"search: prune: {as_yaml(value)}. Expected epochs and a share, like {{after: 2, keep: 0.5}}.")
    if sampler == "tpe":
        raise ValueError("search: prune: TPE chooses one trial after the other. Use sampler: random or sobol.")
    return after, max(1, round(keep * trials))


def _parse_values(key: str, value: Any) -> Any:
    if isinstance(value, list) and len(value) > 1:
        return value
    if isinstance(value, dict):
        refuse_unknown(value, ("from", "to", "log"), f"key of `search: space: {key}`")
        low, high, log = value.get("from", "absent"), value.get("to", "absent"), value.get("log", True)
        numbers = type(low) in (int, float) and type(high) in (int, float)
        if numbers and low < high and type(log) is bool and (low > 0 or not log):
            return {"from": low, "to": high, "log": log}
    raise ValueError(
        f"search: space: {key}: {as_yaml(value)}. Expected a list of values, or {{from: 1.0e-4, to: 1.0e-2}} with "
        "numbers above 0 (or log: false)."
    )
