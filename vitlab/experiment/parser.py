"""The parser of configurations, with the options of LightningCLI: it checks, and `Experiment` builds what they name."""

import json
import os
import re
import textwrap
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from importlib import import_module
from typing import Any

os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")  # Lightning's own calls, not ours

import yaml
from jsonargparse import ActionConfigFile, Namespace, get_loader, set_dumper, set_loader
from jsonargparse.typing import restricted_number_type
from lightning.pytorch import Trainer
from lightning.pytorch.cli import LightningArgumentParser

from vitlab import data
from vitlab.config import TRAINER_DEFAULTS, Config, dump_yaml, import_only_known, refuse_code
from vitlab.data import ImageDataModule
from vitlab.experiment.class_paths import KINDS, names_of, settable
from vitlab.experiment.errors import call_of_user_code, explain, readable
from vitlab.internals import narrow_options_of_the_trainer, options_of
from vitlab.models.stored import TIMMS_WEIGHTS
from vitlab.objectives import Objective
from vitlab.runs.trainer import Run

narrow_options_of_the_trainer()
# jsonargparse knows what is imported.
for _module in ("analysis.image_logging", "analysis.measures", "runs.knn_monitor", "runs.measures"):
    import_module(f"vitlab.{_module}")
for _name in data.__all__:
    getattr(data, _name)

# jsonargparse 4.53 gives a null for an argument of a class within a class (--model.teacher.weights null) on as "None".
_load = get_loader("yaml")
set_loader("yaml", lambda text: None if text.strip() == "None" else _load(text), (yaml.YAMLError,))
set_dumper("yaml", dump_yaml)  # or a folder 1e3 becomes a number

Seed = restricted_number_type("Seed", int, [(">=", 0), ("<=", 2**32 - 1)])  # numpy's
GROUPS = r"One or more arguments specifying.*|Path to a configuration file\."  # texts of what has options below
END = """
A backbone may also be a size under timm's name (vit_…, deit_…, deit3_…, swin_…, swinv2_…), such as
--model.backbone swin_tiny_patch4_window7_224, or a small ResNet or ConvNeXt: resnet_mini_32, resnet_micro_16,
convnext_mini_32, convnext_micro_16. A class of your own is given by its import path. --model.help Supervised,
--data.help CIFAR10 and, after --config FILE, --model.backbone.help SwinTransformer list the arguments of a class; each
is a key: --model.optimizer.lr 3e-4, --data.batch_size 64.
"""


class VitlabParser(LightningArgumentParser):
    """Answers a mistake with a message of a few lines."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # argparse accepts any prefix of an option for the option. jsonargparse makes a parser of this class for each
        # nested class too, so it has to be set here.
        super().__init__(*args, **{**kwargs, "allow_abbrev": False})
        self.named: Config = {}  # the configuration, whose classes take further options

    def format_help(self, formatter: Any = None) -> str:
        """Return one line for each argument of a class: `--model.help Supervised`."""
        options = {min(action.option_strings, key=len): action for action in options_of(self).values()}
        hidden = ("-h", "--help", "--print_shtab")
        shown = [name for name in options if name not in hidden and not name.endswith((".help", "+"))]
        shown = [name for name in shown if not re.fullmatch(GROUPS, str(options[name].help), re.DOTALL)]
        lines = []
        for name, action in ((name, options[name]) for name in shown):
            text = " ".join((action.help or "").replace("``", "").split()).split(". ")[0].rstrip(".")
            default = "" if action.default in (None, [], "==SUPPRESS==") else f" [{action.default}]"
            room = 78 - len(default)
            lines.append(f"  {name:<39} {text if len(text) <= room else text[: room - 1] + '…'}{default}\n")
        return "".join(lines)

    def error(self, message: str, ex: Exception | None = None) -> Any:
        raise ValueError(explain(message, [*options_of(self), *settable(self.named)]))


@cache
def configuration_parser() -> VitlabParser:
    """Return the parser of all keys of a configuration, which is built once in a process."""
    parser = VitlabParser()
    file = "Path to a configuration file in json or yaml format."
    parser.add_argument("-c", "--config", action=ActionConfigFile, help=file)
    # An int and nothing else: LightningCLI's `true` silently means 0.
    seeds = "Seed of weights, data order and augmentation", "Of weights, dropout and masks alone; null: the same"
    parser.add_argument("--seed_everything", type=Seed, default=0, help=seeds[0])
    parser.add_argument("--init_seed", type=Seed | None, default=None, help=seeds[1])
    parser.add_lightning_class_args(Trainer, "trainer")
    parser.set_defaults({f"trainer.{name}": value for name, value in TRAINER_DEFAULTS.items()})
    parser.add_lightning_class_args(Objective, "model", subclass_mode=True)
    parser.add_lightning_class_args(ImageDataModule, "data", subclass_mode=True)
    parser.add_class_arguments(Run, "run")
    which = "Checkpoint to continue from or to evaluate: a file, last, best or none"
    parser.add_argument("--ckpt_path", type=str | None, default=None, help=which)
    parser.link_arguments("seed_everything", "data.init_args.seed", compute_fn=int)  # no `Seed` in a checkpoint
    return parser


class Settings:
    """A configuration that was parsed: complete, checked, and able to build its parts.

    Args:
        named: the configuration files, merged, with the import path of each class.
        arguments: what the command line changes of them, in the same form.
    """

    def __init__(self, named: Config, arguments: Sequence[str]) -> None:
        import_only_known()
        self._parser = configuration_parser()
        self._parser.named = named
        try:
            self.values: Namespace = self._parser.parse_args(["--config", dump_yaml(named), *arguments])
        except ValueError as error:  # one message of at most five lines
            raise ValueError(readable(error)) from None
        refuse_code(self.values)

    def build(self, section: str, weights: bool = True) -> Any:
        """Return what a section describes, with an object for each `class_path`; without the backbone's `weights`."""
        values = self.values[section].clone()
        for key, off in TIMMS_WEIGHTS.items() if not weights else ():
            if values.get(f"init_args.backbone.init_args.{key}"):
                values[f"init_args.backbone.init_args.{key}"] = off
        try:
            return self._parser.instantiate(Namespace({section: values}))[section]
        except ValueError as error:
            cause: BaseException = error
            while cause.__cause__:  # jsonargparse chains what a constructor raises
                cause = cause.__cause__
            if call_of_user_code(cause):
                raise cause from None
            raise ValueError(readable(error)) from None

    def as_config(self) -> Config:
        """Return the complete configuration as plain values; as a file, it describes the same run to any command."""
        text = self._parser.dump(self.values, format="json", skip_unset=False, skip_validation=True)
        dumped: Config = json.loads(text)
        dumped["run"]["overwrite"] = False  # of one command: whoever repeats the run would replace it
        return {key: value for key, value in dumped.items() if key not in ("config", "ckpt_path")}


def print_help_of_run() -> None:
    """Print a line for each option of `fit`, and the classes that can be given by their names."""
    for key, kind in KINDS.items():
        if kind.startswith("vitlab."):
            names = [name for name in names_of(key) if not name.islower()]  # sizes are in lower case
            key = key if key in ("model", "data") else f"model.{key}"
            first, *more = textwrap.wrap(", ".join(names), 78)
            print(f"  --{key:<37} {first}", *(f"{'':<42}{line}" for line in more), sep="\n")
    with suppress(SystemExit):
        configuration_parser().parse_args(["--help"])
    print(END)
