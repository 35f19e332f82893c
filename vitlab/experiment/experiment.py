"""An experiment in Python: a configuration, and the objective, data and Trainer that it describes.

A configuration is merged in this order, later values winning: each file or mapping, then each `key=value`. Where a
later one names another class, a new data set or objective inherits the arguments that it shares with the old one, an
objective only those of the same default in both; any other new class starts from its defaults (`vitlab.config.merge`).
The model takes the number of classes, the channels and the image size from the data; a configuration that contradicts
them is rejected.
"""

import copy
import re
import time
from collections.abc import Sequence
from contextlib import nullcontext
from functools import cached_property, reduce
from inspect import Parameter, signature
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal, Self

import torch
from lightning.fabric.utilities.seed import seed_everything
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import (
    EarlyStopping,
    GradientAccumulationScheduler,
    LearningRateFinder,
    StochasticWeightAveraging,
    WeightAveraging,
)
from lightning.pytorch.utilities.model_helpers import is_overridden

from vitlab import log, models
from vitlab.atomic_files import flaw
from vitlab.config import (
    ABSENT,
    ROOTS,
    Config,
    changes,
    conflicts,
    dump_yaml,
    expanded,
    flatten,
    gather,
    modernize,
    named,
    pairs,
    rows_by_name,
    short,
    split,
    weights_of,
)
from vitlab.data import ImageDataModule
from vitlab.evaluation.cost import device_for, hold_freed_memory
from vitlab.evaluation.features import require_classes
from vitlab.experiment.chain import TAKEN_FROM, Source, directory_of
from vitlab.experiment.class_paths import spell_out, spell_out_arguments
from vitlab.experiment.errors import refuse_variant
from vitlab.experiment.parser import Settings
from vitlab.experiment.results import FEATURES, Metrics, batches_left_out, classify_by_features, show, unfinished
from vitlab.experiment.same_images import OTHER, departures, known_test_images, other_images, warn_of_normalization
from vitlab.internals import count_last_epoch
from vitlab.models import ImageModel
from vitlab.models.layers import pair
from vitlab.models.stored import stored_facts
from vitlab.models.weights import load_weights
from vitlab.objectives import Objective
from vitlab.objectives.objective import weights_path
from vitlab.objectives.sharding import FSDP
from vitlab.runs.directory import RunDirectory, config_file, run_of
from vitlab.runs.exactness import generators, set_generators
from vitlab.runs.knn_monitor import KnnMonitor
from vitlab.runs.lock import Busy, refuse_links, run_lock
from vitlab.runs.loggers import MetricsFile
from vitlab.runs.trainer import Run, as_list, build_trainer, run_loggers

OTHER_IMAGES = "%s was trained on other images than these (%s)."
SETTING = re.compile(r"[\w.]+\+?=")  # in place of a file
SECONDS_BETWEEN_TRIES = 5.0  # to train what another process is training
SETTINGS_FOR: dict[type[Callback], str] = {  # in place of callbacks that average weights, or change rate or batch
    GradientAccumulationScheduler: "trainer.accumulate_grad_batches",
    LearningRateFinder: "model.optimizer.lr, which the schedule changes; `tune` in a study finds one",
    StochasticWeightAveraging: "model.init_args.ema, which is tested too",
    WeightAveraging: "model.init_args.ema, which is tested too",
}

# What models take from the data: argument of the model -> property of the data module. A teacher has a size of its own.
FROM_DATA = {
    "backbone": {"num_classes": "num_classes", "in_chans": "in_chans", "img_size": "image_size"},
    "teacher.model": {"num_classes": "num_classes", "in_chans": "in_chans"},
}


class Experiment:
    """One training: `Experiment("experiments/vit_cifar10.yaml", "data.batch_size=64").fit()`.

    The configuration is completed and checked at once; data, objective and Trainer are built when first used.

    Args:
        sources: YAML files, run directories, mappings, and settings like `"data.batch_size=64"`.
        arguments: settings as the command line has them, like `["--data.batch_size", "64"]`.
        images: Whether the images must exist; False: use what the run recorded about them.

    Raises:
        ValueError: a mistake in the configuration.
    """

    config: Config
    """The complete configuration, which the run writes to config.yaml."""

    directory: Path
    """The run directory, `root/name/seed-<seed>`."""

    def __init__(self, *sources: str | Path | Config, arguments: Sequence[str] = (), images: bool = True) -> None:
        texts = [each for each in sources if isinstance(each, str) and not Path(each).exists()]
        settings = [text for text in texts if SETTING.match(text)]
        configs = [each if isinstance(each, dict) else config_file(each) for each in sources if each not in settings]
        files = [config for config in configs if isinstance(config, Path)]
        arguments = [*arguments, *(f"--{setting}" for setting in settings)]
        replaced: list[str] = []
        named = spell_out(gather(configs, arguments, replaced.append))
        arguments = spell_out_arguments(arguments)
        if "model" not in dict(pairs(arguments)):
            refuse_variant(named, *files[-1:])
        self._settings = Settings(named, arguments)
        for line in replaced:  # by classes whose names are right
            log.info(line)
        self._given_keys = {short(key) for key in flatten(named)} | {key for key, _ in pairs(arguments)}
        self._restoring = False  # weights that the model would begin with are about to be replaced
        self._used = False  # what is built has other weights, counters or signals than at the start
        self._values = self._settings.values
        for key in ("run.root", "ckpt_path", "model.init_args.init_from"):
            if value := self._values.get(key):
                self._values[key] = expanded(value)
        if self._values.run.name is None:
            self._values.run.name = "-".join(file.stem for file in files) or "run"
        self.seed = int(self._values.seed_everything)
        self.directory = directory_of({"run": self._values.run, "seed_everything": self.seed})
        run = run_of(files)
        if run is not None and directory_of(RunDirectory(run).config) == self.directory:
            self.directory = run  # wherever it lies now
            places, began = self._values.data.init_args, RunDirectory(run).environment.get("folder")
            for name in ("root", "table"):
                if (path := places.get(name)) and began and not Path(path).exists() and (Path(began) / path).exists():
                    places[name] = str(Path(began) / path)
                    log.info("data.%s: %s, where the run was started.", name, places[name])
        self.data: ImageDataModule = self._settings.build("data")
        if not images and (facts := RunDirectory(self.directory).data):
            self.data.recall(facts)
        self._fill_from_data()
        for key, source in self._sources().items():
            self._values[key] = str(source if source.digest else source.stamped())
        self.config = self._settings.as_config()

    @classmethod
    def from_arguments(cls, arguments: Sequence[str], images: bool = True) -> Self:
        """Return the experiment that a command line describes; `--print_config` prints its configuration and exits."""
        files, rest = split(arguments)
        others = [argument for argument in rest if argument.partition("=")[0] != "--print_config"]
        experiment = cls(*map(Path, files), arguments=others, images=images)
        if len(others) < len(rest):
            print(dump_yaml(experiment.config), end="")
            raise SystemExit(0)
        return experiment

    @classmethod
    def load(cls, run: str | Path, *sources: str | Path | Config, images: bool = True) -> Self:
        """Return the experiment of a run directory, its objective with the trained weights."""
        experiment = cls(run, *sources, images=images)
        experiment.restore()
        return experiment

    # ---- what the configuration describes

    @cached_property
    def objective(self) -> Objective:
        """The LightningModule that is trained, with the initial weights of the seed.

        What it draws in training, such as dropout and masks, continues the generator that drew the weights.
        """
        init_seed = self._values.init_seed
        seed_everything(self.seed if init_seed is None else init_seed, workers=True, verbose=False)
        objective: Objective = self._settings.build("model", weights=not self._restoring)
        self._random_state = generators()
        return objective

    @property
    def model(self) -> ImageModel:
        """The network that is evaluated and exported: the average of the weights where one is kept."""
        return self.objective.encoder

    @cached_property
    def trainer(self) -> Trainer:
        """The Trainer of this run, which writes into the run directory as soon as it trains; compiles the objective."""
        chosen, settings = self._values.trainer, dict(self._settings.build("trainer"))
        if device_for(chosen.accelerator).type == "cpu" and not re.fullmatch(r"auto|[1-9]\d*", str(chosen.devices)):
            raise ValueError(f"trainer.devices is {chosen.devices}; on a CPU give a number of processes, or auto.")
        callbacks, objective = as_list(settings["callbacks"]), self.objective
        monitored = KnnMonitor.LOGGED if any(isinstance(each, KnnMonitor) for each in callbacks) else ()
        own = type(objective).__module__.startswith("vitlab.")  # what others log is unknown
        known = [*objective.epoch_metrics, *monitored] if own else []
        for each in callbacks:
            name = type(each).__name__
            if setting := next((setting for kind, setting in SETTINGS_FOR.items() if isinstance(each, kind)), None):
                raise ValueError(f"trainer.callbacks: in place of {name}, set {setting}.")
            if isinstance(each, EarlyStopping) and known and each.monitor not in known:
                raise ValueError(f"trainer.callbacks: {name}: there is no {each.monitor}, but {', '.join(known)}.")
        if self.run.compile:
            objective.compile_parts(whole=self.run.compile == "whole")
        set_generators(self._random_state)
        trainer, self.record = build_trainer(settings, self.run, self.directory, self.config, objective)
        return trainer

    @cached_property
    def run(self) -> Run:
        """What is kept of the run, and where."""
        return self._settings.build("run")

    @property
    def frozen(self) -> bool:
        """Whether no step is taken, and the features of the weights as they are given are classified."""
        return self.run.probe is not None and self._values.trainer.max_epochs == 0

    def _fill_from_data(self) -> None:
        for name, parameter in signature(named(self._values.model.class_path)).parameters.items():
            if name in ("backbone", "optimizer", "schedule") and parameter.annotation is Parameter.empty:
                what = f"model: {self._values.model.class_path}.__init__ gives {name} no type"
                raise ValueError(f"{what}, by which a configuration becomes an object; examples/labeled.py has them.")
        facts = {name: getattr(self.data, name) for name in ("num_classes", "in_chans", "image_size")}
        for name, taken in FROM_DATA.items():
            model = self._values.model.init_args.get(name)
            arguments = model.get("init_args") if model else None
            for argument, fact in taken.items():
                if arguments is not None and argument not in arguments:
                    raise ValueError(f"model.{name}: {model.class_path} needs the arguments {', '.join(taken)}.")
                if arguments is None or arguments.get(argument) is None:
                    continue
                key = f"model.{name}.{argument}"
                if key not in self._given_keys:
                    arguments[argument] = facts[fact]
                elif pair(arguments[argument]) != pair(facts[fact]):
                    if argument == "num_classes" and (trained := RunDirectory(self.directory).newest_checkpoint()):
                        self._refuse_other_classes(trained)
                    raise ValueError(
                        f"{key} is {arguments[argument]}, but {self._values.data.class_path} has {fact} "
                        f"{facts[fact]}.\nRemove {key}, to take it from the data."
                    )

    # ---- weights

    def checkpoint(self) -> Path | None:
        """Return the trained weights that `ckpt_path` means, after checking that they belong to this experiment.

        `last`, the default, and `best` are files of the run; `none` means the initial weights. A checkpoint of another
        model is refused, and other differences are logged: the experiment's values are used.
        """
        chosen, run = self._values.ckpt_path, RunDirectory(self.directory)
        finished = run.is_finished
        if chosen == "none":
            return None
        path = run.checkpoints / f"{chosen or 'last'}.ckpt" if chosen in (None, "last", "best") else Path(chosen)
        again = "again with --run.overwrite true" if finished else "first"
        remedy = f"train {again}, or give --ckpt_path FILE (`none` evaluates the initial weights)."
        if self.frozen:
            remedy = "of the probes of a frozen encoder, `run.probe: linear` alone gives a network."
        if chosen == "best":
            remedy = "a run keeps it with --run.checkpoint.best true."
        # The results of a finished run are of these weights, not of previous.ckpt.
        intact = run.newest_checkpoint() if chosen in (None, "last") and not finished else None
        path = intact or path
        if not path.is_file():
            raise FileNotFoundError(f"No checkpoint {path}; {remedy}")
        if intact is None and (wrong := flaw(path)):
            raise ValueError(f"{path} is damaged ({wrong}); {remedy}")
        if "objective" not in vars(self):
            self._restoring = self._used = True
        stored = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        if not isinstance(stored, dict) or "state_dict" not in stored:
            raise ValueError(f"{path} is not a run's checkpoint; load weights alone with --model.init_from.")
        model = stored.get("vitlab_config", self.config)["model"]
        changed = changes(modernize(model), self.config["model"])
        if architecture := [change for change in changed if change[0].startswith("init_args.backbone")]:
            lines = [f"model.{key}: {old} in the checkpoint, {new} requested" for key, old, new in architecture]
            raise ValueError(f"{path} has weights of another backbone:\n{_listed(lines)}")
        there, here = (
            {key: tuple(getattr(value, "shape", ())) for key, value in weights.items()}
            for weights in (stored["state_dict"], self.objective.state_dict())
        )
        name = next((key for key in there | here if there.get(key) != here.get(key)), None)
        if self.objective.strict_loading and name is not None:
            raise ValueError(
                f"{path} does not fit this {type(self.objective).__name__}: {name} is {there.get(name, ABSENT)} there, "
                f"{here.get(name, ABSENT)} here.\nGive the settings of the run that wrote it, or its encoder alone: "
                f"--model.init_from {path}"
            )
        for key, old, new in changed:
            log.info("model.%s: the checkpoint was trained with %s; this command uses %s.", key, old, new)
        log.info("Weights: %s", path)
        return path

    def restore(self) -> Path | None:
        """Load the weights of `checkpoint()` into the objective, and return that path."""
        path = self.checkpoint()
        if path is not None:
            self._used = True
            self.objective.load_state_dict(torch.load(path, map_location="cpu", weights_only=True)["state_dict"])
        else:
            self._begin()
        return path

    def _begin(self) -> None:
        """Load what `init_from` names into the objective, as a training does before its first step."""
        if self.objective.init_from is not None:
            self._take_weights({key: run.directory for key, run in self.before().items()})
            self.objective.load_backbone(weights_path(self.objective.init_from))

    def _state_to_continue(self) -> Path | None:
        """Return the state from which the training continues; None to begin."""
        own = None if self.run.overwrite else RunDirectory(self.directory).newest_checkpoint()
        state = own if self._values.ckpt_path is None else self.checkpoint()
        if own is not None:
            self._refuse_another_run()
            if state is None or not state.resolve().is_relative_to(own.resolve().parent):
                raise ValueError(f"{self.directory} has begun. Leave out --ckpt_path, or give another --run.name.")
        elif state is not None and not self.run.overwrite:
            self._compare_images()
        return state

    def _refuse_another_run(self, finished: bool = False) -> None:
        """Refuse a directory whose run has another configuration, or, unless it is finished, other images."""
        changed = conflicts(RunDirectory(self.directory).config, self.config)
        if all(key in ROOTS for key, _, _ in changed) and self._compare_images(finished):
            changed = []
        if changed:
            remedy, last = "Give this run another --run.name", RunDirectory(self.directory).last_checkpoint
            longer = [key for key, old, new in changed if type(old) is type(new) is int and new > old]
            if len(longer) == len(changed) and longer[0].startswith("trainer.max_") and last.is_file():
                remedy = f"Train on from its last state: --run.name NEW --ckpt_path {last}"
            raise ValueError(
                f"{self.directory} is a run with another configuration:\n"
                + _listed([f"{key}: {old} there, {new} now" for key, old, new in changed])
                + f"\n{remedy}; or replace that one with --run.overwrite true."
            )

    def _compare_images(self, finished: bool = False) -> bool:
        """Return whether the images are known to be those of the run's start; warn of others where it is finished."""
        if not (finished or self.trainer.is_global_zero):
            return True  # the first process decides for all
        try:
            others = other_images(self.directory, self.data)
        except (OSError, ValueError) as error:
            if not finished:
                raise
            others = [str(error).partition("\n")[0]]
        if others and finished:
            log.warning(OTHER_IMAGES, self.directory, "; ".join(others))
        elif others:
            raise ValueError(
                f"{self.directory} began with other images ({'; '.join(others)}); on these it would be another run, "
                "which may test on images that it has trained on.\n"
                "Restore the images, or train on these: --run.name NEW, or --run.overwrite true."
            )
        return others == []

    # ---- the runs that this one starts from

    def _sources(self) -> dict[str, Source]:
        sources = {key: Source.parse(self._values.get(key)) for key in TAKEN_FROM}
        return {key: source for key, source in sources.items() if source}

    @property
    def root(self) -> Path:
        """`run.root`, or that of a run that was moved."""
        above = [*self.directory.parents] or [self.directory / ".."]
        return above[min(len(Path(self._values.run.name).parts), len(above) - 1)]

    def check(self) -> None:
        """Read the data and raise ValueError for what `fit` refuses before the first step, as far as it is known."""
        self.data.trainer = self.trainer
        self.data.setup("fit")
        check_precision(str(self.trainer.precision), self.objective)

    def before(self) -> dict[str, "Experiment"]:
        """Return, by setting, the experiments that this one takes weights from, with its seed; see `chain`."""
        runs = {}
        alike = {"trainer": {"fast_dev_run": self._values.trainer.fast_dev_run}}
        for key, source in self._sources().items():
            if source.stamped() != source:
                raise ValueError(
                    f"{key}: {source.file} has changed since this configuration was written ({source}).\n"
                    f"Give --{short(key)} {source.file} again, and the run another --run.name or --run.overwrite true."
                )
            runs[key] = Experiment(source.file, *source.settings, source.place(self.root, self.seed), alike)
        return runs

    def find_weights(self) -> None:
        """Raise OSError or ValueError for weights that are neither here nor on the hub, also of runs before it."""
        for key, source in weights_of(self.config).items():
            if key in TAKEN_FROM and not Source.parse(source):
                weights_path(source, short(key).removeprefix("model."))
        for first in self.before().values():
            if not RunDirectory(first.directory).is_finished:
                first.find_weights()

    def _train_before(self) -> dict[str, Path]:
        """Train what this run takes weights from, and return the run directories by setting."""
        runs = self.before()
        for first in runs.values():
            while True:
                try:
                    first._fit()
                    if "trainer" in vars(first):  # every process looks for the summary, which the first one writes
                        first.trainer.strategy.barrier()
                    break
                except Busy as busy:  # a run that starts from the same one
                    writer = str(busy).partition("\n")[0]
                    place = getattr(first.trainer.strategy, "cluster_environment", None)
                    if first.trainer.world_size > 1 and (place is None or place.creates_processes_externally):
                        # The other processes are there, and training it already.
                        raise ValueError(f"{writer}\nOne process would wait; start several when it is done.") from None
                    log.info("Waiting: %s", writer)
                    time.sleep(SECONDS_BETWEEN_TRIES)
        return {key: first.directory for key, first in runs.items()}

    # ---- running

    def fit(self, began: float | None = None) -> Metrics:
        """Train, or continue the training; then test the last weights, and write the summary. Return its metrics.

        With `trainer.fast_dev_run` nothing is kept, neither of this run nor of those that it starts from.

        Args:
            began: When the command started, by `time.perf_counter()`; None: now.
        """
        if not self._values.trainer.fast_dev_run:
            return self._fit(began)
        given = self._values.ckpt_path and str(self.checkpoint() or "none")
        with TemporaryDirectory() as root:
            return Experiment(self.config, {"run": {"root": root}, "ckpt_path": given})._fit(began)

    def _fit(self, began: float | None = None) -> Metrics:
        began = time.perf_counter() if began is None else began
        run = RunDirectory(self.directory)
        if run.is_finished and not self.run.overwrite:
            metrics = run.metrics  # a damaged summary is named first
            self._refuse_another_run(finished=True)
            log.info(
                "%s is finished; nothing to do (--run.overwrite true trains it again). "
                "To start a new run from its weights: --run.name NEW --model.init_from %s",
                *(self.directory, self.directory),
            )
            return metrics
        if self._used:  # by an earlier training or test of this object
            for name in ("objective", "trainer", "run"):
                vars(self).pop(name, None)
            self.data = self._settings.build("data")
        if "objective" not in vars(self):
            # Weights that the backbone asks for are not loaded where those of the run's state replace them.
            asks = any(key.startswith("model.init_args.backbone.") for key in weights_of(self.config))
            own = self._values.ckpt_path is None and not self.run.overwrite and self.run.probe is None
            self._restoring = self._used = asks and own and run.newest_checkpoint() is not None
        before = self._train_before()
        fast = self._values.trainer.fast_dev_run
        if not fast and not all(RunDirectory(directory).is_finished for directory in before.values()):
            return {}  # interrupted
        trainer = self.trainer
        self.record.began, self.record.before, self.record.overwrite = began, before, self.run.overwrite
        self._take_weights(before)
        self._check_training()
        if not fast and not any(isinstance(each, MetricsFile) for each in trainer.loggers):  # of a try that met a lock
            trainer.loggers = [*run_loggers(self.run, self.directory, self.config), *trainer.loggers]
        refuse_links(self.directory, self.root)
        with run_lock(self.directory) if trainer.is_global_zero else nullcontext():
            state = self._state_to_continue()
            if state is not None:
                self._refuse_other_classes(state)
            set_generators(self._random_state)
            hold_freed_memory()
            self._used = True
            probes = self.run.test and self.run.probe is not None and trainer.is_global_zero
            untrained = copy.deepcopy(self.model) if probes and not self.frozen else None
            if untrained is not None and self.objective.init_from is not None:
                path = weights_path(self.objective.init_from)
                load_weights(untrained, path, self.objective.prefix_in(path))
            trainer.fit(self.objective, datamodule=self.data, ckpt_path=state)
            count_last_epoch(trainer)
            if trainer.interrupted or fast:
                return {}
            return self._finish(untrained)

    def _take_weights(self, before: dict[str, Path]) -> None:
        """Give the objective, by setting, the runs that it takes weights from."""
        for key, directory in before.items():
            *path, name = [part for part in key.split(".")[1:] if part != "init_args"]
            setattr(reduce(getattr, path, self.objective), name, str(directory))

    def _check_training(self) -> None:
        """Refuse or warn of what would be regretted after the training."""
        if self.frozen and (self.trainer.world_size > 1 or not self.run.test):
            raise ValueError("run.probe of frozen weights needs trainer.devices: 1 and run.test: true.")
        for known in known_test_images(self) if self.run.test else ():
            log.warning("%s, so this run tests on images that are not new. Give both the same split_seed.", known)
        check_precision(str(self.trainer.precision), self.objective)
        warn_of_normalization(self.config, self.data)
        if self.run.probe is not None and isinstance(self.trainer.strategy, FSDP):
            raise ValueError(f"run.probe: {self.run.probe} needs the full encoder, which fsdp2 shards. Set it null.")
        if self.run.probe is not None and self.run.test:
            require_classes(torch.from_numpy(self.data.labels("test")))
        if self._values.trainer.enable_checkpointing is False:
            log.warning("enable_checkpointing is off: this run can neither be continued nor tested again.")

    def _finish(self, untrained: ImageModel | None) -> Metrics:
        trainer = self.trainer
        metrics = self.record.metrics | {name: float(value) for name, value in trainer.callback_metrics.items()}
        partial = [] if self.frozen else unfinished(trainer)
        if self.run.test and self.run.probe is not None:
            if trainer.is_global_zero:
                device, began = trainer.strategy.root_device, time.perf_counter()
                cache = Path(self.run.root) / FEATURES if self.frozen else None
                how = self.model, untrained, self.data, self.run.probe, device, self.directory, cache
                metrics |= (found := classify_by_features(*how))
                if self.frozen:
                    self.record.classified(trainer, found, time.perf_counter() - began)
                if self.frozen and self.run.probe == "linear":
                    trainer.save_checkpoint(RunDirectory(self.directory).last_checkpoint)
        elif self.run.test and is_overridden("test_step", self.objective):
            self.record.drop_rows_ahead(trainer)  # of an earlier start that was killed while testing
            results = next(iter(trainer.test(self.objective, datamodule=self.data, verbose=False)), {})  # of no batches
            metrics |= {**results, **self.record.computed}
            partial += batches_left_out(trainer, "test")
        self.record.finish(trainer, self.objective, metrics, partial)
        splits = ("val", "test") if self.objective.monitor else ("val", "train")
        show({name: value for name, value in metrics.items() if name.startswith(splits)}, partial, self.data)
        if self.record.best is not None and trainer.current_epoch > 1:
            (_, epoch), (name, value) = self.record.best.items()
            log.info("best of %d epochs: %s %.4f in epoch %d", trainer.current_epoch, name, value, epoch)
        log.info("%s: done in %.0f s of training", self.directory, self.record.seconds)
        return metrics

    def validate(self) -> Metrics:
        """Return the metrics of the trained weights on the validation images."""
        weights = self.checkpoint()
        if self.objective.monitor is None:
            raise ValueError(f"{type(self.objective).__name__} has no validation loss; `probe` measures its features.")
        return self._evaluate("val", weights)

    def test(self) -> Metrics:
        """Return the metrics of the trained weights on the test images, and write predictions.parquet.

        A finished run keeps its own: of other weights, settings or images it is written into the folder `other_test`.
        """
        weights = self.checkpoint()
        if not is_overridden("test_step", self.objective):
            raise ValueError(f"{type(self.objective).__name__} learns no classes; `probe` measures its features.")
        return {**self._evaluate("test", weights), **self.record.computed}

    def _evaluate(self, split: Literal["val", "test"], weights: Path | None) -> Metrics:
        refuse_links(self.directory, self.root)
        trainer, self._used = self.trainer, True
        if weights is None:
            self._begin()
        else:
            self._refuse_other_classes(weights)
        if split == "test":  # what is of other weights, settings or images than a finished run's results lies elsewhere
            finished = trainer.is_global_zero and RunDirectory(self.directory).is_finished
            reasons = departures(self.directory, weights, self.config, self.data) if finished else []
            self.record.results = self.directory / OTHER if reasons else self.directory
            if reasons:
                log.warning("Not the run's own test; its files are in %s:\n%s", self.record.results, _listed(reasons))
        else:
            self.warn_of_other_images()
        evaluate = trainer.validate if split == "val" else trainer.test
        results = next(iter(evaluate(self.objective, datamodule=self.data, ckpt_path=weights, verbose=False)), {})
        show(results, batches_left_out(trainer, split), self.data)
        return dict(results)

    def _refuse_other_classes(self, weights: Path) -> None:
        """Refuse images whose classes are not those of a checkpoint: labels would mean others."""
        trained, names = stored_facts(weights).get("class_names") or [], self.data.class_names
        if not trained or rows_by_name(trained, names) == [*range(len(trained))] or self.objective.task is None:
            return
        here, there = (", ".join(map(str, each[:20])) for each in (names, trained))
        raise ValueError(
            f"{weights} was trained on the classes {there}; this data set has {here}.\n"
            "Name the folders of the classes as in the training. For other classes, train from these weights: "
            f"--run.name NEW --model.init_from {weights}."
        )

    def warn_of_other_images(self) -> None:
        """Say so where a run's images are others than those of its start."""
        if others := other_images(self.directory, self.data):
            log.warning(OTHER_IMAGES, self.directory, "; ".join(others))


def _listed(lines: Sequence[str]) -> str:
    """Return three lines indented, the last of them with the number of those left out."""
    if len(lines) > 3:
        lines = [*lines[:2], f"… and {len(lines) - 2} more"]
    return "\n".join(f"  {line}" for line in lines)


def check_precision(precision: str, objective: Objective) -> None:
    """Refuse weights that are not in float32; warn of activations in float16 where they are known to leave its range.

    In pure float16 AdamW's ε of 1e-8 is zero, and small updates vanish.
    """
    if precision.endswith("-true") and precision != "32-true":
        raise ValueError(f"trainer.precision is {precision}, but weights are in float32; set bf16-mixed, or 32-true.")
    if precision == "16-mixed" and isinstance(objective.backbone, models.SwinTransformer | models.SwinTransformerV2):
        log.warning("trainer.precision: activations of large Swins exceed 16-mixed's 65,504; bf16-mixed has room.")
