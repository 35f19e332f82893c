"""Run one command, and turn a user's mistake into one message and exit status 2."""

import errno
import os
import signal
import sys
from collections.abc import Sequence
from importlib import import_module
from traceback import walk_tb

import vitlab
from vitlab.commands.options import experiment_of
from vitlab.experiment.errors import call_of_user_code, readable
from vitlab.internals import is_out_of_memory
from vitlab.signals import UNWRITTEN

EVALUATIONS = ("validate", "test")  # methods of an experiment, which print their metrics
MODULES = {  # of commands that share one; each is its function `run_<command>`
    **dict.fromkeys(("init", "schema"), "init"),
    **dict.fromkeys(("list", "rm", "verify"), "runs"),
    **dict.fromkeys(("predict", "embed", "visualize"), "pictures"),
    **dict.fromkeys(("compare", "plan", "verdict", "robustness"), "studies"),
}


def run(command: str, arguments: Sequence[str]) -> int:
    """Run the module of a command, or the method of an experiment, and return the exit status."""
    status: int = 0
    try:
        if command == "fit":
            experiment_of(arguments).fit(began=vitlab.BEGAN)
        elif command in EVALUATIONS:
            getattr(experiment_of(arguments), command)()
        else:
            module = import_module(f"vitlab.commands.{MODULES.get(command, command)}")
            status = getattr(module, f"run_{command}" if command in MODULES else "run")(arguments)
        sys.stdout.flush()
    except SystemExit as stop:
        return int(stop.code or 0)
    except BrokenPipeError:  # `list | head` has read enough
        # Else Python complains when it flushes at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except Exception as error:
        if os.environ.get("VITLAB_DEBUG") or (message := message_of(error)) is None:
            if call := call_of_user_code(error):
                print(f"error in {call}:", file=sys.stderr)
            raise
        print(f"error: {message}", file=sys.stderr)
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.ESTALE):
            return UNWRITTEN
        return 2
    return status


def message_of(error: Exception) -> str | None:
    """Return what to tell the user about a mistake; None for a fault of the program, the user's code included."""
    if isinstance(error, MemoryError | RuntimeError) and is_out_of_memory(error):
        reason, *_ = str(error).splitlines() or [""]  # all in one line: a study shows the last line of a log
        return (
            f"out of memory. {reason.strip()} Take fewer images at a time, --data.batch_size or --data.eval_batch_size;"
            " --trainer.accumulate_grad_batches keeps the global batch, and --model.backbone.grad_checkpointing true "
            "makes room."
        )
    # Of a class that a stored configuration names, and Lightning's; a connection is that of a killed loader's process.
    others = ("ArgumentError", "MisconfigurationException")
    mistake = isinstance(error, ValueError | OSError) and not isinstance(error, ConnectionError)
    mistake |= type(error).__name__ in others
    *_, (last, _) = walk_tb(error.__traceback__)
    if last.f_globals.get("__name__") == "torch.nn.functional":  # of shapes, perhaps of the user's network
        return None
    return readable(error) if mistake and not call_of_user_code(error) else None
