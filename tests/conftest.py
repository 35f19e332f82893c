"""Shared by all tests: no network, no W&B, few threads, and scikit-learn's digits as a small experiment."""

import gc
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ["WANDB_MODE"] = "disabled"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["JSONARGPARSE_DEPRECATION_WARNINGS"] = "off"
# Configurations of the tests name classes of these modules, and of the tests' own.
os.environ["VITLAB_IMPORT"] = (
    "tests,examples,benchmarks,mine,fit_each,own_shifted,by_confidence,wrong_values,fake,gone,"
)
os.environ["VITLAB_IMPORT"] += ",".join(path.stem for path in Path(__file__).parent.rglob("test_*.py"))
# A process tests on each core, and the commands that it starts are as narrow; VITLAB_TEST_THREADS asks for more.
THREADS = os.environ["OMP_NUM_THREADS"] = os.environ.get("VITLAB_TEST_THREADS", "1")
os.environ["MAKEFLAGS"] = ""  # else a `make` that runs the tests speaks to those that they run
os.environ["MAKELEVEL"] = "0"
os.environ.pop("ARGS", None)  # of that `make`; theirs would hold it too

import pytest
import torch

from vitlab.config import Config, merge

EDGE = pytest.mark.slow(edge=True)
EXPERIMENTS = Path(__file__).parent.parent / "experiments"

# A ViT small enough that an epoch over the digits takes less than a second.
TINY: Config = {
    "model": {
        "class_path": "vitlab.objectives.Supervised",
        "init_args": {
            "backbone": {
                "class_path": "vitlab.models.VisionTransformer",
                "init_args": {"patch_size": 4, "embed_dim": 16, "depth": 2, "num_heads": 2},
            },
            "optimizer": {"class_path": "vitlab.optim.AdamW", "init_args": {"lr": 1.0e-3, "weight_decay": 0.3}},
            "schedule": {"class_path": "vitlab.optim.WarmupCosine", "init_args": {"warmup_epochs": 0.5}},
        },
    },
    "data": {"class_path": "vitlab.data.Digits", "init_args": {"batch_size": 64}},
    "trainer": {"max_epochs": 1, "accelerator": "cpu"},
}


def edges(*cases: Any) -> list[Any]:
    """Return cases of a parametrized test as edges: of a second or two each, after the quick tests in CI."""
    return [pytest.param(*(case if type(case) is tuple else (case,)), marks=EDGE) for case in cases]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave benchmarks out unless `-m` names them; an `-m` in pyproject.toml would give way to `-m 'not slow'`.

    Files with slow tests come first, so that two processes that share out the files end together.
    """
    if "benchmarks" not in config.option.markexpr:
        items[:] = [item for item in items if item.get_closest_marker("benchmarks") is None]
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(autouse=True, scope="session")
def _signals() -> None:
    """Heed the signals that are ignored where the tests run behind a shell or by nohup; runs inherit that."""
    for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGUSR1):
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True, scope="session")
def _threads() -> None:
    torch.set_num_threads(int(THREADS))  # models are tiny; threads that wait for each other on a busy machine lose time


@pytest.fixture(autouse=True, scope="session")
def _imported() -> Iterator[None]:
    """Leave what was imported out of the search of each run for its tensors, and of each collection of garbage."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture
def forked_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Train the runs of a study in forks of this process, which import nothing again."""
    if not hasattr(os, "fork"):
        pytest.skip("runs are forks of this process")
    from tests.kills import forked, last_words
    from vitlab.atomic_files import write_text
    from vitlab.config import dump_yaml
    from vitlab.studies.file.registration import Outcome
    from vitlab.studies.file.runs import Run

    def run_all(runs: list[Run], *args: object) -> list[Outcome]:
        for run in runs:
            write_text(run.config_path, dump_yaml(run.config))
            assert forked(["--config", str(run.config_path)]) == 0, last_words()
        return [Outcome(run, None) for run in runs]

    monkeypatch.setattr("vitlab.studies.compare.run_all", run_all)


@pytest.fixture
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the charts of a report empty, for tests of its text."""
    from referee.report import drawing

    monkeypatch.setattr(drawing, "draw", lambda chart, results, folder: drawing.Drawing(chart, "", ""))


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Work in an empty directory; return a function that writes the tiny experiment, with changes, as a file."""
    monkeypatch.chdir(tmp_path)

    def write(changes: Config | None = None, name: str = "tiny") -> Path:
        import yaml

        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(merge(TINY, changes or {})))
        return path

    return write


@pytest.fixture(scope="session")
def _short_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the tiny experiment, cut to two steps, and its finished run."""
    import yaml

    from vitlab.commands.dispatch import run

    folder = tmp_path_factory.mktemp("short_run")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        Path("tiny.yaml").write_text(yaml.safe_dump(merge(TINY, {"trainer": {"limit_train_batches": 2}})))
        assert run("fit", ["--config", "tiny.yaml"]) == 0
    return folder


@pytest.fixture
def finished(_short_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in a copy of that folder; return the run's directory."""
    shutil.copytree(_short_run, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return Path("runs/tiny/seed-0")
