"""`python -m vitlab COMMAND …`: answers help and mistakes at once, and imports torch only where a command needs it."""

import difflib
import gc
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import vitlab
from vitlab.config import load_yaml, shipped, split
from vitlab.internals import end_with
from vitlab.signals import signals_as_exit

COMMANDS = {
    "fit": "train one experiment; the same command again continues it",
    "validate": "evaluate a checkpoint on the validation images, or on the test images",
    "test": "evaluate a checkpoint on the validation images, or on the test images",
    "predict": "classify any pictures: tables and a gallery",
    "embed": "write features of any pictures, and a map of them",
    "probe": "k-NN and linear-probe accuracy of a run's frozen features",
    "export": "a run's weights as safetensors and ONNX, with a model card",
    "visualize": "draw what runs learned: attention, features, filters, positions",
    "transfer": "test trained runs at other image sizes and windows, and fine-tune there",
    "robustness": "evaluate a study's models on corrupted images: noise, blur, low resolution, occlusion …",
    "compare": "run a study: variants × seeds, then a report",
    "verdict": "what a study concluded, as an exit status for scripts",
    "init": "list the experiments that vitlab ships, or copy some to change them",
    "schema": "JSON Schemas of experiments and studies, for an editor",
    "plan": "seeds, test images, hours and energy that a difference between variants takes",
    "list": "show all runs: status, result, size on disk; remove some, or their checkpoints but the last",
    "rm": "show all runs: status, result, size on disk; remove some, or their checkpoints but the last",
    "verify": "repeat a finished run, and compare the repetition with it",
    "benchmark": "cost of an experiment on this machine: FLOPs, images/s, peak memory",
}

HELP = """\
vitlab: which of ViT, DeiT, Swin and Swin v2, and which training recipe, is best on my images, and how sure am I?
usage: python -m vitlab COMMAND FILE.yaml [--key value …]        FILE.yaml, a shipped name, or a run directory
{commands}

Any key of the file can be overridden: --trainer.max_epochs 10. COMMAND --help lists them, --print_config the values.
A file names classes of vitlab, torch, timm and Lightning; --import MODULE lets it name those of a module of yours, too.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return the exit status.

    0: done. 1: a failure while running. 2: a mistake in the command or its files. 75: SIGTERM, SIGHUP or SIGUSR1
    stopped it; the same command continues the run, whose state is written, or begins it where there is none yet.
    76: it paused as told. 130: as 75, by Ctrl-C.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if os.getcwd() not in sys.path and "" not in sys.path:  # as `python -m` does, for classes in the user's folder
        sys.path.insert(0, os.getcwd())
    command = arguments[0] if arguments else "help"
    if command in {"-h", "--help", "help"}:
        texts = dict.fromkeys(COMMANDS.values())  # a line for each, with the commands that it is about
        names = {text: "  ".join(name for name in COMMANDS if COMMANDS[name] == text) for text in texts}
        print(HELP.format(commands="\n".join(f"  {name:<15} {text}" for text, name in names.items())), end="")
        return 0
    if command in {"--version", "--print_completion"}:
        completion = f"complete -o default -W '{' '.join([*COMMANDS, *shipped()])}' vitlab"
        print(f"vitlab {vitlab.__version__}" if command == "--version" else completion)
        return 0
    if command not in COMMANDS:
        near = difflib.get_close_matches(command, COMMANDS, n=1)
        hint = f"Did you mean `{near[0]}`?" if near else f"There are: {', '.join(COMMANDS)}."
        print(f"error: no command {command!r}. {hint}", file=sys.stderr)
        return 2
    try:
        with signals_as_exit():
            from vitlab.commands.options import trust_given

            try:  # a wrong path is answered before torch is loaded
                arguments = trust_given(arguments[1:])
                for file in split(arguments)[0]:
                    if not Path(file).is_dir():
                        load_yaml(file)
            except (ValueError, OSError) as error:
                print(f"error: {error}", file=sys.stderr)
                return 2

            from vitlab.commands.dispatch import run

            return run(command, arguments)
    except SystemExit as stop:  # by a signal during the imports
        return int(stop.code or 0)


def start() -> NoReturn:
    """Run one command as this process, without looking for garbage in what it imports, or freeing all at its end."""
    gc.disable()  # until `quiet`
    end_with(main)


if __name__ == "__main__":
    start()
