"""Thirty-two faults, each of which `make test` must notice: `make mutants`, or `python -m tests.mutants NAME …`.

The list was written before the tests were divided into tiers, so that the division loses none of them. A fault is one
replacement in one file of a copy of the project; the test files named with it run there, without the slow tests, and at
least one test must fail.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
COPIED = [
    "vitlab",
    "referee",
    "tests",
    "experiments",
    "docs",
    "README.md",
    "Makefile",
    "maintainers.mk",
    "pyproject.toml",
]
QUICK = "not slow and not release"  # the tests of `make test`


class Mutant(NamedTuple):
    """A fault: `old` becomes `new`, once, in `file`."""

    name: str
    file: str
    old: str
    new: str
    tests: str


MUTANTS = [
    # Objectives
    Mutant(
        "supervised: no label smoothing",
        "vitlab/objectives/classification.py",
        "label_smoothing=self.label_smoothing)",
        "label_smoothing=0.0)",
        "tests/objectives/test_supervised.py",
    ),
    Mutant(
        "distillation: the halves of the loss are swapped",
        "vitlab/objectives/distillation.py",
        "return (1 - self.alpha) * self.label_loss(cls, labels) + self.alpha * self",
        "return self.alpha * self.label_loss(cls, labels) + (1 - self.alpha) * self",
        "tests/objectives/test_distillation.py",
    ),
    Mutant(
        "distillation: the divergence of the teacher from the student",
        "vitlab/objectives/distillation.py",
        "F.kl_div(log_q, log_p,",
        "F.kl_div(log_p, log_q,",
        "tests/objectives/test_distillation.py",
    ),
    Mutant(
        "SimMIM: the loss on visible pixels",
        "vitlab/objectives/simmim.py",
        'mask = mask if self.loss_on == "masked"',
        'mask = ~mask if self.loss_on == "masked"',
        "tests/objectives/test_simmim.py",
    ),
    Mutant(
        "MAE: the biased variance of a patch",
        "vitlab/objectives/mae.py",
        "torch.var_mean(patches, dim=-1, keepdim=True)",
        "torch.var_mean(patches, dim=-1, keepdim=True, correction=0)",
        "tests/objectives/test_mae.py",
    ),
    Mutant(
        "masking: too few patches are hidden",
        "vitlab/objectives/masking.py",
        "keep = order[:, hidden:]",
        "keep = order[:, hidden - 1 :]",
        "tests/objectives/test_masking.py",
    ),
    Mutant(
        "DINO: the center is added",
        "vitlab/objectives/dino.py",
        "(teacher - center) / (sharp",
        "(teacher + center) / (sharp",
        "tests/objectives/test_dino.py",
    ),
    Mutant(
        "DINO: a view is compared with itself",
        "vitlab/objectives/dino.py",
        "        if i != j\n",
        "",
        "tests/objectives/test_dino.py",
    ),
    Mutant(
        "iBOT: visible patches count",
        "vitlab/objectives/ibot.py",
        ".sum(dim=-1) * mask\n",
        ".sum(dim=-1)\n",
        "tests/objectives/test_ibot.py",
    ),
    Mutant(
        "EsViT: a region is matched with the least similar one",
        "vitlab/objectives/esvit.py",
        "similarity.argmax(",
        "similarity.argmin(",
        "tests/objectives/test_esvit.py",
    ),
    Mutant(
        "data2vec: the teacher's first blocks",
        "vitlab/objectives/data2vec.py",
        "list(backbone.blocks)[-self.target_layers :]",
        "list(backbone.blocks)[: self.target_layers]",
        "tests/objectives/test_data2vec.py",
    ),
    Mutant(
        "UM-MAE: what is hidden again is seen",
        "vitlab/objectives/um_mae.py",
        "embed_hiding(self.backbone, images, hidden, fill)",
        "embed_hiding(self.backbone, images, hidden & False, fill)",
        "tests/objectives/test_um_mae.py",
    ),
    Mutant(
        "LeJEPA: each view's embeddings are compared with all views'",
        "vitlab/objectives/lejepa.py",
        "z[: self.global_views].mean(dim=0)",
        "z.mean(dim=0)",
        "tests/objectives/test_lejepa.py",
    ),
    Mutant(
        "LeJEPA: the ends of the integral count whole",
        "vitlab/objectives/lejepa.py",
        "    weights[[0, -1]] /= 2\n",
        "",
        "tests/objectives/test_lejepa.py",
    ),
    Mutant(
        "MSN: the entropy of the mean is lowered",
        "vitlab/objectives/msn.py",
        "cross_entropy + self.me_max_weight * me_max",
        "cross_entropy - self.me_max_weight * me_max",
        "tests/objectives/test_msn.py",
    ),
    Mutant(
        "EMA: the shares of average and weights are swapped",
        "vitlab/objectives/ema.py",
        "get_ema_multi_avg_fn(decay)(",
        "get_ema_multi_avg_fn(1 - decay)(",
        "tests/objectives/test_ema.py",
    ),
    # Models
    Mutant(
        "windows: rolled the other way",
        "vitlab/models/windows.py",
        "torch.roll(x, (-shift[0], -shift[1]), dims=(1, 2))",
        "torch.roll(x, (shift[0], shift[1]), dims=(1, 2))",
        "tests/models/test_windows.py",
    ),
    Mutant(
        "windows: the mask of a shift is one token off",
        "vitlab/models/windows.py",
        "(position >= side - shift[axis]).float()",
        "(position > side - shift[axis]).float()",
        "tests/models/test_windows.py",
    ),
    Mutant(
        "position bias: rows of the table overlap",
        "vitlab/models/windows.py",
        "row_offset * (2 * window[1] - 1) + column_offset",
        "row_offset * (2 * window[1] - 2) + column_offset",
        "tests/models/test_parity.py",
    ),
    # Optimizers
    Mutant(
        "layer decay: the head counts as a layer",
        "vitlab/optim/groups.py",
        "(optimizer.layer_decay or 1.0) ** below_head",
        "(optimizer.layer_decay or 1.0) ** (below_head + 1)",
        "tests/test_optim.py",
    ),
    Mutant(
        "weight decay: of biases and norms too",
        "vitlab/optim/groups.py",
        "decay = 0.0 if excluded else float(optimizer.weight_decay)",
        "decay = optimizer.weight_decay",
        "tests/test_optim.py",
    ),
    Mutant(
        "schedule: one step late",
        "vitlab/optim/schedules.py",
        "return cosine(peak, self.min_lr, (step - start) /",
        "return cosine(peak, self.min_lr, (step - 1 - start) /",
        "tests/test_optim.py",
    ),
    Mutant(
        "Muon: qkv is one matrix",
        "vitlab/optim/muon.py",
        '3 if name.endswith("qkv.weight") else 1',
        "1",
        "tests/test_muon.py",
    ),
    # Data
    Mutant(
        "mixup: labels keep the partner's share",
        "vitlab/data/mixup.py",
        "    return lam * one_hot + (1 - lam) * one_hot.flip(0)\n",
        "    return (1 - lam) * one_hot + lam * one_hot.flip(0)\n",
        "tests/data/test_mixup.py",
    ),
    Mutant(
        "sampler: the same order in every epoch",
        "vitlab/data/sampler.py",
        "images = permutation(self.size, self.seed, epoch)",
        "images = permutation(self.size, self.seed, 0)",
        "tests/data/test_sampler.py",
    ),
    Mutant(
        "split: held-out images are trained on",
        "vitlab/data/folds.py",
        "return np.setdiff1d(np.arange(len(labels)), chosen), chosen",
        "return np.arange(len(labels)), chosen",
        "tests/data",
    ),
    Mutant(
        "folds: a group is divided",
        "vitlab/data/folds.py",
        "StratifiedGroupKFold(folds, shuffle=True, random_state=seed).split(classes, classes, groups)",
        "StratifiedGroupKFold(folds, shuffle=True, random_state=seed).split(classes, classes, np.arange(len(classes)))",
        "tests/data/test_partition.py",
    ),
    # Restarts
    Mutant(
        "restart: one batch too far",
        "vitlab/data/datamodule.py",
        "            sampler.start = done * self.batch_size\n",
        "            sampler.start = (done + 1) * self.batch_size\n",
        "tests/runs/test_kills.py tests/data/test_data_resume.py",
    ),
    Mutant(
        "restart: dropout draws anew",
        "vitlab/runs/exactness.py",
        '    torch.set_rng_state(state["torch"].cpu())\n',
        "",
        "tests/runs/test_kills.py",
    ),
    Mutant(
        "restart: an epoch's mean starts from zero",
        "vitlab/runs/exactness.py",
        "            mean.value = mean.value + value.to(mean.value.device)\n",
        "",
        "tests/runs/test_kills.py",
    ),
    Mutant(
        "checkpoints: kept one step late",
        "vitlab/runs/checkpoints.py",
        "if due or self._step in self.settings.keep or",
        "if due or self._step - 1 in self.settings.keep or",
        "tests/runs/test_checkpoints.py tests/studies/test_branching.py",
    ),
    # Evaluation
    Mutant(
        "k-NN: the farthest neighbors vote most",
        "vitlab/evaluation/classifiers.py",
        "(similarity / temperature).exp()",
        "(-similarity / temperature).exp()",
        "tests/evaluation/test_features.py",
    ),
    Mutant(
        "k-NN on pixels: of several splits, the first alone votes",
        "vitlab/evaluation/classifiers.py",
        "for each in bank]",
        "for each in bank[:1]]",
        "tests/evaluation/test_features.py",
    ),
    # Statistics
    Mutant(
        "rule: one-sided where two-sided is said",
        "referee/src/referee/statistics/contrast.py",
        "special.stdtrit(seed_df, alpha / 2)",
        "special.stdtrit(seed_df, alpha)",
        "referee/tests",
    ),
    Mutant(
        "rule: equality by half of the needed error",
        "referee/src/referee/statistics/contrast.py",
        "self.interval_at(2 * self.level / self.pairs)",
        "self.interval_at(4 * self.level / self.pairs)",
        "referee/tests",
    ),
    Mutant(
        "looks: each has the level of a single one",
        "referee/src/referee/statistics/sequential.py",
        "    if len(looks) == 1:\n        return (LEVEL,)\n    shape =",
        "    if len(looks) >= 1:\n        return (LEVEL,) * len(looks)\n    shape =",
        "referee/tests",
    ),
    Mutant(
        "planner: power without the spread of the images",
        "referee/src/referee/statistics/power.py",
        "of_power * math.sqrt(seeds + images)",
        "of_power * math.sqrt(seeds)",
        "referee/tests tests/studies/test_power.py",
    ),
    Mutant(
        "folds: images of one model count as independent",
        "referee/src/referee/statistics/contrast.py",
        "over_images = self.dependence.overlap * max(0.0, between) / self.images",
        "over_images = max(0.0, between) / self.images",
        "referee/tests tests/studies/test_folds.py",
    ),
]


def survives(mutant: Mutant) -> bool:
    """Return whether no quick test of the mutant's files fails."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for name in COPIED:
            source = ROOT / name
            (shutil.copytree if source.is_dir() else shutil.copy)(source, copy / name)
        file = copy / mutant.file
        text = file.read_text()
        assert text.count(mutant.old) == 1, f"{mutant.name}: {mutant.file} has it {text.count(mutant.old)} times"
        file.write_text(text.replace(mutant.old, mutant.new))
        paths = os.pathsep.join([str(copy), str(copy / "referee/src")])
        command = [sys.executable, "-m", "pytest", "-p", "no:xdist", "-qx", "-m", QUICK, *mutant.tests.split()]
        tests = subprocess.run(
            command, cwd=copy, env=os.environ | {"PYTHONPATH": paths}, capture_output=True, text=True
        )
    assert tests.returncode in (0, 1), f"{mutant.name}: {tests.stdout[-2000:]}"
    return tests.returncode == 0


def main(names: list[str]) -> int:
    """Try all mutants, or those whose names contain one of these words; return 1 if a mutant survives."""
    alive = []
    for mutant in MUTANTS:
        if not names or any(name in mutant.name for name in names):
            if survives(mutant):
                alive.append(mutant.name)
            print(f"{'SURVIVES' if mutant.name in alive else 'caught':<9} {mutant.name}", flush=True)
    return 1 if alive else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
