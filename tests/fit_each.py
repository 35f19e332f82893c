"""`torchrun tests/fit_each.py a.yaml b.yaml`: `python -m vitlab fit --config` of one file after the other.

The packages are imported once for all of them, which takes longer than the runs.
"""

import json
import sys

from lightning.pytorch import Callback, LightningModule, Trainer
from torch.distributed.tensor import DTensor

from vitlab.commands.dispatch import run


class Parts(Callback):
    """Notes how many values of all parameters a process holds, and how many belong to blocks."""

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        named = dict(pl_module.named_parameters())
        own = sum(p.to_local().numel() if isinstance(p, DTensor) else p.numel() for p in named.values())
        blocks = sum(p.numel() for name, p in named.items() if ".blocks." in name)
        record = next(callback for callback in trainer.callbacks if type(callback).__name__ == "RunRecord")
        path = record.directory / f"parts-{trainer.global_rank}.json"
        path.write_text(json.dumps({"own": own, "all": sum(p.numel() for p in named.values()), "by_block": blocks}))


if __name__ == "__main__":
    sys.exit(max(run("fit", ["--config", path]) for path in sys.argv[1:]))
