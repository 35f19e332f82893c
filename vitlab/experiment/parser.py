"""The command line: LightningCLI with its silent traps closed, and the commands that need no Trainer.

A run's configuration is one file, put together in this order, later beating earlier: each `--config`, then the command
line. Where a later one names another class, data set and objective keep the arguments that the new class takes too, and
all others keep nothing (`vitlab.config.merge`). What the data dictate
(number of classes, channels, image size) is filled into the backbone, unless the file says otherwise, which is refused.
"""

import json
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from inspect import isfunction
from pathlib import Path
from typing import Any, Literal

os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")  # Lightning's own calls, not ours

import torch
import yaml
from jsonargparse import Namespace
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint, ProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import Logger
from lightning.pytorch.plugins.environments import SLURMEnvironment, TorchElasticEnvironment
from lightning.pytorch.utilities.model_helpers import is_overridden

from vitlab import models
from vitlab.atomic_files import flaw
from vitlab.config import Config, changes, conflicts, flatten, gather, load_yaml, pairs, short, split
from vitlab.data import ImageDataModule
from vitlab.evaluation.flops import choose_tf32
from vitlab.experiment.class_names import settable, spell_out, spell_out_arguments
from vitlab.experiment.errors import explain, nearest
from vitlab.experiment.run_directory import config_file, directory_of, placed, run_of, stored_directory
from vitlab.experiment.trainer_options import check_precision, check_trainer, unfinished
from vitlab.internals import actions_of, options_of, tell_one_batch_from_all
from vitlab.objectives import Objective
from vitlab.objectives.objective import Monitor
from vitlab.runs.checkpoints import AtomicCheckpointIO, Checkpointing, RunCheckpoints, newest_state
from vitlab.runs.finite_steps import FiniteSteps
from vitlab.runs.lock import held
from vitlab.runs.metrics_csv import MetricsFile
from vitlab.runs.progress_bar import RunProgress
from vitlab.runs.record import RunRecord
from vitlab.runs.resume import EpochMeans, RandomState
from vitlab.runs.utilization import Utilization
from vitlab.runs.wandb import UnbreakableWandbLogger, Wandb

log = logging.getLogger("vitlab")

DATA_ROOT = "data.init_args.root"
TOP_LEVEL = ("seed_everything", "run", "model", "data", "trainer", "ckpt_path")

tell_one_batch_from_all()

# What models must take from the data: argument of the factory -> property of the data module. A teacher may see the
# images at a size of its own.
FROM_DATA = {
    "backbone": {"num_classes": "num_classes", "in_chans": "in_chans", "img_size": "image_size"},
    "teacher.model": {"num_classes": "num_classes", "in_chans": "in_chans"},
}


@dataclass
class Run:
    """The run directory `root/name/seed-<seed>` and what is kept of the run.

    Args:
        name: Name of the run; None for the name of the configuration file.
        root: Where runs lie.
        overwrite: Begin again although the run is finished, or differs from what is asked now.
        test: Evaluate the last weights on the test images after training.
        checkpoint: When the state is written from which the same command continues.
        compile: Compile the blocks of backbones with torch.compile. The first step takes a minute or more, the others
            less than without. Equal to the bit only to runs that are compiled too.
        not_finite: What a loss or gradient that is not finite does, after its step was left out.
        wandb: Weights & Biases.
    """

    name: str | None = None
    root: str = "runs"
    overwrite: bool = False
    test: bool = True
    checkpoint: Checkpointing = field(default_factory=Checkpointing)
    compile: bool = False
    not_finite: Literal["stop", "skip"] = "stop"
    wandb: Wandb = field(default_factory=Wandb)


class VitlabParser(LightningArgumentParser):
    """Says in a few lines what is wrong, and prints help that fits on two screens."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # argparse takes any prefix of an option for the option. jsonargparse makes a parser of this class for each
        # nested class too, so it has to be said here.
        super().__init__(*args, **{**kwargs, "allow_abbrev": False})
        self.options_below: list[str] = []  # of the subcommand and of the classes that the configuration names

    def error(self, message: str, ex: Exception | None = None) -> Any:
        raise ValueError(explain(message, [*options_of(self), *self.options_below]))

    def format_help(self, formatter: Any = None) -> str:
        options = {min(a.option_strings, key=len): a for a in actions_of(self) if a.option_strings}
        lines = []
        for title, prefixes in HELP_GROUPS.items():
            names = [name for name in options if name.removeprefix("--").partition(".")[0] in prefixes]
            shown = [
                n for n in names if not n.endswith((".help", "+")) and n not in {"--run", "--trainer", "--run.wandb"}
            ]
            if shown:
                lines += [title, *(_help_line(name, options[name]) for name in shown)]
        return "\n".join([*lines, HELP_END])


HELP_GROUPS = {
    "What is run": ("-c", "config", "seed_everything", "model", "data", "ckpt_path", "print_config"),
    "The run directory": ("run",),
    "Lightning's Trainer": ("trainer",),
}
HELP_END = """
--model.help Supervised lists the arguments of a class, --data.help CIFAR10 likewise; each can be given as a key:
--model.optimizer.lr 3e-4, --data.batch_size 64. --print_config prints everything that would run, as a file.
"""


def _help_line(name: str, action: Any) -> str:
    text = " ".join((action.help or "").replace("``", "").split()).split(". ")[0].rstrip(".")
    default = "" if action.default in (None, [], "==SUPPRESS==") else f" [{action.default}]"
    room = 78 - len(default)
    return f"  {name:<39} {text if len(text) <= room else text[: room - 1] + '…'}{default}"


def show_named_size(arguments: Sequence[str]) -> None:
    """Answer `--model.backbone.help swin_tiny_patch4_window7_224`, and end; jsonargparse lists arguments of classes."""
    for key, value in pairs(arguments):
        function = vars(models).get(str(value).removeprefix("vitlab.models."))
        if key.endswith(".help") and isfunction(function):
            parser = VitlabParser()
            parser.add_function_arguments(function, key.removesuffix(".help"))
            print(parser.format_help())
            raise SystemExit(0)


class VitlabCLI(LightningCLI):
    """One run of an experiment.

    Args:
        command: fit, validate, test or predict.
        given: What the configuration files say, merged.
        rest: The other arguments of the command line.
        name: What the run is called if the configuration does not say.
        start: Do it; False only builds the model, the data and the trainer, and the complete configuration `resolved`.
        run: The directory of the run whose configuration is among the files. It is this command's run, wherever it
            lies, unless another root, name or seed is given.
        images: The command reads the run's images; False: what the run recorded of them answers for them.
        print_only: Print the complete configuration as a file, which runs the same, and end there.
    """

    def __init__(
        self,
        command: str,
        given: Config,
        rest: Sequence[str] = (),
        name: str = "run",
        start: bool = True,
        run: Path | None = None,
        images: bool = True,
        print_only: bool = False,
    ) -> None:
        given = spell_out(given)
        for key in given:
            if key not in TOP_LEVEL:
                raise ValueError(
                    f"The configuration has no key {key}.{nearest(key, TOP_LEVEL)} Keys: {', '.join(TOP_LEVEL)}."
                )
        show_named_size(rest)
        self._settable = list(settable(given))
        self.given_keys = {short(key) for key in flatten(given)} | {key for key, _ in pairs(rest)}
        self.default_name = name
        self.command = command
        self.start = start
        self.run, self.images, self.print_only = run, images, print_only
        super().__init__(
            Objective,
            ImageDataModule,
            save_config_callback=None,
            seed_everything_default=0,
            parser_class=VitlabParser,
            subclass_mode_model=True,
            subclass_mode_data=True,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
            trainer_defaults={
                "num_sanity_val_steps": 0,
                "use_distributed_sampler": False,
                "enable_model_summary": False,
            },
            args=[command, "--config", yaml.safe_dump(given), *rest],
        )

    # ---- parsing

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]
        """Only the command that was asked for: each costs half a second to describe."""
        skip = {"model", "dataloaders", "train_dataloaders", "val_dataloaders", "datamodule"}
        return {self.command: skip | {"verbose", "return_predictions", "weights_only"}}

    def add_default_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        # An int and nothing else: LightningCLI's `true` silently means 0.
        parser.add_argument(
            "--seed_everything", type=int, default=0, help="Seed of weights, data order and augmentation."
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_class_arguments(Run, "run")
        parser.link_arguments("seed_everything", "data.init_args.seed")

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        assert isinstance(parser, VitlabParser)
        below = self._parser(self.command)
        assert isinstance(below, VitlabParser)
        below.options_below = self._settable
        parser.options_below = [*options_of(below), *self._settable]
        self.config = parser.parse_args(args)

    def _parse_ckpt_path(self) -> None:
        """Do nothing: Lightning merges the checkpoint's hyper-parameters over the command line here, silently."""

    # ---- between parsing and building

    def before_instantiate_classes(self) -> None:
        config = self.config[self.command]
        config.run.name = config.run.name or self.default_name
        asked = {"run": {"root": config.run.root, "name": config.run.name}, "seed_everything": config.seed_everything}
        self.directory = directory_of(asked)
        moved = self.run if self.run is not None and stored_directory(self.run) == self.directory else None
        if moved is not None:
            self.directory = moved
            self._find_data(config)
        self.data_for_model = self._recalled(build_data(config.data))
        self._fill_from_data(config)
        self.resolved = self._dump(config)
        if moved is not None:
            self.resolved = placed(self.resolved, self.directory)
        if self.print_only:
            print(yaml.safe_dump(self.resolved, sort_keys=False, allow_unicode=True), end="")
            raise SystemExit(0)

    def _find_data(self, config: Namespace) -> None:
        """Take a relative `data.root` from where the run was started, if there is nothing of that name here."""
        root, began = config.data.init_args.get("root"), _read_json(self.directory / "environment.json").get("folder")
        if root is None or began is None or Path(root).exists() or not (Path(began) / root).exists():
            return
        config.data.init_args.root = str(Path(began) / root)
        log.info("data.root: %s, where the run was started.", config.data.init_args.root)

    def _recalled(self, data: ImageDataModule) -> ImageDataModule:
        facts = {} if self.images else _read_json(self.directory / "data.json")
        if facts:
            data.recall(facts)
        return data

    def _fill_from_data(self, config: Namespace) -> None:
        for name, facts in FROM_DATA.items():
            model = config.model.init_args.get(name)
            for argument, fact in facts.items():
                arguments = model.get("init_args") if model else None
                if arguments is not None and argument not in arguments:
                    raise ValueError(
                        f"model.{name}: {model.class_path} takes no {argument}. Its __init__ needs the typed arguments "
                        f"{', '.join(facts)} with defaults; the data set fills them in."
                    )
                if arguments is None or arguments.get(argument) is None:
                    continue
                key = f"model.{name}.{argument}"
                wanted = _fact(self.data_for_model, fact)
                if key not in self.given_keys:
                    arguments[argument] = wanted
                elif not _same_size(arguments[argument], wanted):
                    raise ValueError(
                        f"{key} is {arguments[argument]}, but {config.data.class_path} has {fact} {wanted}.\n"
                        f"Remove {argument} from the {name.partition('.')[0]}'s init_args to take it from the data."
                    )

    def _dump(self, config: Namespace) -> Config:
        """Return the complete configuration as plain values; as a file, it runs this again with any command."""
        parser = self._parser(self.command)
        dumped: Config = yaml.safe_load(parser.dump(config, skip_none=False, skip_link_targets=True))
        for key in ("config", "ckpt_path"):
            dumped.pop(key, None)
        return dumped

    def checkpoint(self) -> Path | None:
        """Return the checkpoint that this command begins with, after making sure that it belongs to it."""
        config = self.config[self.command]
        asked = config.get("ckpt_path")
        if self.command == "fit" and asked is None:
            return self._continue(config.run.overwrite)
        if asked == "none":
            return None
        if asked in (None, "last", "best"):
            path = self.directory / "checkpoints" / f"{asked or 'last'}.ckpt"
            remedy = "train first, or give --ckpt_path FILE (`none` evaluates the weights as they are built)."
        else:
            path, remedy = Path(asked), "give --ckpt_path the path of a .ckpt file, `last` or `best`."
        whole = newest_state(self.directory) if asked in (None, "last") else None
        path = whole or path
        if not path.is_file():
            raise FileNotFoundError(f"No checkpoint {path}; {remedy}")
        if whole is None and (wrong := flaw(path)):
            raise ValueError(f"{path} is damaged ({wrong}); {remedy}")
        self._compare_with_checkpoint(path)
        log.info("Weights: %s", path)
        return path

    def _continue(self, overwrite: bool) -> Path | None:
        stored = self.directory / "config.yaml"
        finished = (self.directory / "summary.json").is_file()
        state = None if overwrite or finished else newest_state(self.directory)
        if overwrite or not (finished or state):
            return None
        changed = conflicts(load_yaml(stored), self.resolved)
        if any(key == DATA_ROOT for key, _, _ in changed) and self._same_images():
            changed = [each for each in changed if each[0] != DATA_ROOT]
        if changed:
            first = _listed((f"{key}: {old} there, {new} now" for key, old, new in changed), most=3)
            count = "1 difference" if len(changed) == 1 else f"{len(changed)} differences"
            raise ValueError(
                f"{self.directory} holds a run with another configuration ({count}):\n"
                f"{first}\nGive this run another --run.name, or replace that one with --run.overwrite true."
            )
        if finished:
            log.info(
                "%s is finished; nothing to do (--run.overwrite true trains it again). "
                "To start a new run from its weights: --run.name NEW --model.init_from %s",
                *(self.directory, self.directory),
            )
            raise SystemExit(0)
        return state

    def _same_images(self) -> bool:
        """Say whether the data at hand are those that the run recorded, image by image."""
        facts = _read_json(self.directory / "data.json")
        return bool(facts) and facts == json.loads(json.dumps(self.data_for_model.facts()))

    def _compare_with_checkpoint(self, path: Path) -> None:
        """Refuse a checkpoint of another backbone; say what else differs. The command's values are the ones used."""
        trained = torch.load(path, map_location="cpu", weights_only=True, mmap=True).get("vitlab_config")
        if trained is None:
            return
        changed = changes(trained["model"], self.resolved["model"])
        architecture = [d for d in changed if d[0].startswith("init_args.backbone")]
        if architecture:
            first = _listed((f"model.{key}: {old} in the checkpoint, {new} asked" for key, old, new in architecture), 3)
            raise ValueError(f"{path} holds another backbone than was asked for:\n{first}")
        for key, old, new in changed:
            log.info("model.%s: the checkpoint was trained with %s; this command uses %s.", key, old, new)

    # ---- building

    def instantiate_classes(self) -> None:
        super().instantiate_classes()
        self._recalled(self.datamodule)
        if self.start and self.config[self.command].run.compile:
            self.model.compile_parts()

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        self.record = RunRecord(self.directory, self.resolved)
        chosen = self.config_init[self.command].trainer
        run: Run = self.config_init[self.command].run
        given = chosen.get("callbacks") or []
        given = given if isinstance(given, list) else [given]
        check_trainer(chosen, given, self.model)
        bar = any(isinstance(each, ProgressBar) for each in given)
        utilization = Utilization()
        callbacks = [
            self.record,
            FiniteSteps(self.directory, run.not_finite),
            RandomState(),
            EpochMeans(),
            utilization,
            RunProgress(utilization, shown=chosen.enable_progress_bar is not False and not bar),
            *(self._checkpoints(run.checkpoint) if chosen.enable_checkpointing is not False else []),
        ]
        own_loggers = self._loggers() if self.start and not chosen.fast_dev_run else []
        trainer = super().instantiate_trainer(
            callbacks=[*given, *callbacks],
            logger=[*own_loggers, *_as_loggers(chosen.get("logger"))],
            plugins=[*_slurm(), *(chosen.get("plugins") or []), AtomicCheckpointIO(run.checkpoint.on_failure)],
            precision=chosen.get("precision") or ("bf16-mixed" if torch.cuda.is_available() else "32-true"),
            enable_progress_bar=bar,  # Lightning's own would come beside ours
            **kwargs,
        )
        if self.start and self.command == "fit" and chosen.enable_checkpointing is False:
            log.warning("enable_checkpointing is off: this run can neither be continued nor tested again.")
        if trainer.strategy.root_device.type == "cuda":
            choose_tf32(str(trainer.precision))
        return trainer

    def _checkpoints(self, settings: Checkpointing) -> list[Checkpoint]:
        folder = self.directory / "checkpoints"
        monitor: Monitor | None = self.model.monitor
        last = RunCheckpoints(folder, settings)
        if monitor is None or self.config_init[self.command].trainer.limit_val_batches == 0:
            return [last]
        best = ModelCheckpoint(
            dirpath=folder,
            filename="best",
            monitor=monitor.metric,
            mode=monitor.mode,
            save_on_train_epoch_end=True,  # with every metric of the epoch
            # Other epochs lack the metric.
            every_n_epochs=self.config_init[self.command].trainer.check_val_every_n_epoch or 1,
            enable_version_counter=False,
        )
        return [best, last]  # in this order: the last state knows which epoch was best

    def _loggers(self) -> list[Logger]:
        if self.command != "fit":
            return []
        loggers: list[Logger] = [MetricsFile(self.directory / "metrics.csv")]
        settings: Wandb = self.config_init[self.command].run.wandb
        if settings.enabled:
            name = f"{self.directory.parent.name}-{self.directory.name}"
            loggers.append(UnbreakableWandbLogger(settings, self.directory, name, self.resolved))
        return loggers

    # ---- running

    def _run_subcommand(self, subcommand: str) -> None:
        if not self.start:
            return
        if subcommand in ("test", "predict") and not is_overridden(f"{subcommand}_step", self.model):
            raise ValueError(
                f"{type(self.model).__name__} learns no classes, so there is nothing to {subcommand}; `probe` measures "
                f"its features.\nTo classify, fine-tune what it learned: --model.init_from {self.directory}"
            )
        if subcommand == "validate" and self.model.monitor is None:
            raise ValueError(
                f"{type(self.model).__name__} has no loss that two checkpoints could be compared by; `probe` measures "
                "their features."
            )
        writes = subcommand == "fit" and self.trainer.is_global_zero
        work = {"fit": self.fit, "validate": self.evaluate, "test": self.evaluate, "predict": self.predict}
        with held(self.directory) if writes else nullcontext():
            self.resume = self.checkpoint()
            work[subcommand]()

    def fit(self) -> None:
        """Train, then test the last weights, if they are a classifier's, and write the summary."""
        check_precision(str(self.trainer.precision), self.model)
        self.trainer.fit(self.model, datamodule=self.datamodule, ckpt_path=self.resume)
        if self.trainer.interrupted or self.resolved["trainer"]["fast_dev_run"]:
            return
        metrics = {k: float(v) for k, v in self.trainer.callback_metrics.items()}
        partial = unfinished(self.trainer)
        if self.config[self.command].run.test and is_overridden("test_step", self.model):
            self.record.keep_rows(self.trainer)  # of an earlier start that was killed while testing
            (results,) = self.trainer.test(self.model, datamodule=self.datamodule, verbose=False)
            metrics |= results
            partial += self._left_out("test")
        self.record.finish(self.trainer, self.model, metrics, partial)
        shown = ("val", "test") if self.model.monitor else ("val", "train")
        self._show({k: v for k, v in metrics.items() if k.startswith(shown)}, partial)
        log.info("%s: done in %.0f s of training", self.directory, self.record.seconds)

    def evaluate(self) -> None:
        """Measure a checkpoint on the validation or test images."""
        split: Literal["val", "test"] = "val" if self.command == "validate" else "test"
        do = self.trainer.validate if split == "val" else self.trainer.test
        (results,) = do(self.model, datamodule=self.datamodule, ckpt_path=self.resume, verbose=False)
        self._show(results, self._left_out(split))

    def _left_out(self, split: Literal["val", "test"]) -> list[str]:
        """Return, in words, that a limit of Trainer's kept images from being evaluated; nothing where all were."""
        batches = self.trainer.num_val_batches if split == "val" else self.trainer.num_test_batches
        seen, classes = self.datamodule.first_batches(split, int(sum(batches)))
        images = len(self.datamodule.labels(split))
        if seen == images:
            return []
        done = "validated" if split == "val" else "tested"
        return [f"{done} on {seen} of {images} images, of {classes} of {self.datamodule.num_classes} classes"]

    def _show(self, metrics: Mapping[str, float], partial: Sequence[str]) -> None:
        if partial:
            log.warning("Not a result: %s.", "; ".join(partial))
        few = self.model.backbone.num_classes <= 5  # then top-5 is 1 whatever the model says
        log.info("%s", _table({k: v for k, v in metrics.items() if not (few and k.endswith("/top5"))}))

    def predict(self) -> None:
        """Write predictions.parquet: name, label and logits of every test image."""
        self.trainer.predict(self.model, datamodule=self.datamodule, ckpt_path=self.resume, return_predictions=False)
        log.info("%s", self.directory / "predictions.parquet")


def _listed(lines: Iterable[str], most: int) -> str:
    """Return lines indented, the last of them saying how many more there are."""
    given = list(lines)
    if len(given) > most:
        given = [*given[: most - 1], f"… and {len(given) - most + 1} more"]
    return "\n".join(f"  {line}" for line in given)


def _read_json(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}


def _table(metrics: Mapping[str, float]) -> str:
    return "  ".join(f"{name} {value:.4f}" for name, value in sorted(metrics.items()))


def _slurm() -> list[SLURMEnvironment]:
    """Keep Lightning from requeuing a SLURM job itself, with a checkpoint of its own that no run continues from."""
    by_torchrun = TorchElasticEnvironment.detect()
    return [SLURMEnvironment(auto_requeue=False)] if not by_torchrun and SLURMEnvironment.detect() else []


def _as_loggers(given: Any) -> list[Logger]:
    if isinstance(given, Logger):
        return [given]
    return given if isinstance(given, list) else []


def _fact(data: ImageDataModule, name: str) -> int:
    return {"num_classes": data.num_classes, "in_chans": data.in_chans, "image_size": data.image_size}[name]


def _same_size(given: Any, wanted: int) -> bool:
    sides = given if isinstance(given, (list, tuple)) else [given]
    return all(side == wanted for side in sides)


def build_data(config: Namespace) -> ImageDataModule:
    """Construct the data module alone, to ask it for its number of classes, channels and image size."""
    parser = VitlabParser()
    parser.add_subclass_arguments(ImageDataModule, "data")
    data: ImageDataModule = parser.instantiate_classes(Namespace(data=config.clone())).data
    return data


def build(command: str, arguments: Sequence[str], start: bool, images: bool = True) -> VitlabCLI:
    """Put the configuration together, build what it names and, if asked, start it.

    Args:
        images: see `VitlabCLI`.
    """
    given, rest = split(arguments)
    files, rest = [config_file(file) for file in given], spell_out_arguments(rest)
    others = [argument for argument in rest if argument.partition("=")[0] != "--print_config"]
    name, print_only = "-".join(file.stem for file in files) or "run", len(others) < len(rest)
    config = gather(files, others, log.info)
    return VitlabCLI(command, config, others, name, start, run_of(files), images, print_only)
