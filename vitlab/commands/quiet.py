"""Let vitlab's own lines through, and silence what other packages print at each start."""

import logging
import sys
import warnings

from lightning.pytorch.utilities.rank_zero import rank_zero_only

from vitlab import log

SILENCED = (
    # In-memory data is read by the main process on purpose; epochs shorter than the logging interval are logged whole.
    ".*does not have many workers.*",
    ".*smaller than the logging interval.*",
    # DINO and MSN have no loss to validate by; `val/knn` comes from a callback.
    ".*but have no `validation_step`.*",
    # Both report that a run is continued or trained further, which is intended.
    ".*Checkpoint directory .* exists and is not empty.*",
    ".*The dirpath has changed from.*",
    # True of every run on a login node of a cluster.
    ".*`srun` command is available.*",
    # What the first process logs for all: speed, k-NN.
    r".*use `self.log\('(images_per_second|data_wait|tflops|mfu|val/(knn|rank|std))'.*",
    # Lightning 2.6 calls torch's pytree in a way that torch 2.15 has deprecated.
    ".*treespec, LeafSpec.*",
)


def quiet() -> None:
    """Print vitlab's log to stderr, and of Lightning only what the user turned on: a profiler, a model summary."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    log.handlers, log.propagate = [handler], False
    log.setLevel(logging.INFO if rank_zero_only.rank == 0 else logging.WARNING)  # type: ignore[attr-defined]
    for name in ("lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for name in ("profilers.profiler", "callbacks.model_summary"):
        logger = logging.getLogger(f"lightning.pytorch.{name}")
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(log.level)
    for message in SILENCED:
        warnings.filterwarnings("ignore", message=message)
