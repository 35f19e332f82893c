"""Metrics in trackio: a dashboard with the interface of W&B, in local files, without an account.

    pip install trackio
    python -m vitlab fit --config experiments/vit_cifar10.yaml --trainer.logger examples.tracker.TrackioLogger
    trackio show

A logger of any other tracker looks the same; MLflow's and TensorBoard's are Lightning's own.
"""

from argparse import Namespace
from collections.abc import Mapping
from typing import Any

import trackio
from lightning.pytorch.loggers.logger import Logger, rank_zero_experiment
from lightning.pytorch.utilities import rank_zero_only


class TrackioLogger(Logger):
    """One run of a project, which a continued training extends where it has a name."""

    def __init__(self, project: str = "vitlab", run: str | None = None) -> None:
        super().__init__()
        self.project, self.run, self._run = project, run, None

    @property
    def name(self) -> str:
        return self.project

    @property
    def version(self) -> str | None:
        return self.run

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        if self._run is None:
            self._run = trackio.init(self.project, name=self.run, resume="allow", auto_log_gpu=False)
        return self._run

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace) -> None:
        self.experiment.config.update(params if isinstance(params, dict) else vars(params))

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self.experiment.log(dict(metrics), step=step)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        if self._run is not None:
            self._run.finish()
