"""What the command lines of all programs share: arguments whose mistakes are one line, and a wrapper that turns the
errors of users into one line. Nothing here imports torch."""

import argparse
import difflib
import os
import sys
from argparse import SUPPRESS
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from distwar_gs.system.cores import share_cores
from distwar_gs.system.interruption import exit_code_of, terminable, words_of
from distwar_gs.system.peers import may_speak
from distwar_gs.system.terminal import lossy_output, one_line, reason_of

# The errors a user can cause, as module and class. They are looked up among the modules already imported (an error
# of any other module cannot have been raised), so that reporting a mistyped flag does not load torch.
USER_ERRORS = (
    ("distwar_gs.system.errors", "ConfigError"),
    ("distwar_gs.gaussians.model", "ModelError"),
    ("distwar_gs.checkpoints.checkpoint", "CheckpointError"),
    ("distwar_gs.formats.ply", "ModelFileError"),
    ("distwar_gs.system.errors", "TrainingError"),
    ("distwar_datasets.errors", "DataError"),
    ("distwar_kernels.errors", "KernelError"),
)


def run_cli(main: Callable[[list[str]], int | None], argv: Sequence[str] | None = None) -> NoReturn:
    """Run `main` on the arguments and exit with its code (None: 0).

    An error the user can mend becomes `error: <message>` on stderr and code 1, without a traceback; Ctrl-C gives 130,
    SIGTERM 143, SIGHUP 129. Anything else is a bug and keeps its traceback. What cannot be printed is lost, no more
    (`distwar_gs.system.terminal`), and threads that wait leave the processor to others (`distwar_gs.system.cores`).
    """
    share_cores()
    with lossy_output():
        try:
            with terminable():
                code = main(list(sys.argv[1:] if argv is None else argv)) or 0
        except KeyboardInterrupt as interrupt:
            code = _complain(words_of(interrupt), exit_code_of(interrupt))
        except _user_errors() as error:
            code = _complain(_message(error), code=1)
    sys.exit(code)


class Parser(argparse.ArgumentParser):
    """An argument parser that keeps only what was typed, and whose complaints are one line."""

    def __init__(self, prog: str, description: str) -> None:
        started_as = os.path.basename(sys.argv[0])
        prog = started_as if started_as.startswith("distwar-") else prog  # the installed program
        super().__init__(prog=prog, description=description, argument_default=SUPPRESS, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {one_line(message)} (--help lists the arguments)\n" if may_speak() else None)


def parse(parser: argparse.ArgumentParser, argv: Sequence[str]) -> dict[str, Any]:
    """What was typed, by destination; an argument the parser does not know is an error that names the nearest."""
    typed, unknown = parser.parse_known_args([_underscored(argument) for argument in argv])
    if unknown:
        flags = [flag for action in parser._actions for flag in action.option_strings]
        nearest = difflib.get_close_matches(unknown[0].partition("=")[0], flags, n=1)
        parser.error(f"unknown argument {unknown[0]}" + (f"; did you mean {nearest[0]}?" if nearest else ""))
    return vars(typed)


def _underscored(argument: str) -> str:
    """--max-steps=5 -> --max_steps=5; everything but the name of a long flag stays."""
    if not argument.startswith("--"):
        return argument
    name, equals, value = argument[2:].partition("=")
    return f"--{name.replace('-', '_')}{equals}{value}"


def _user_errors() -> tuple[type[Exception], ...]:
    loaded = [(sys.modules[module], name) for module, name in USER_ERRORS if module in sys.modules]
    return (OSError, *(getattr(module, name) for module, name in loaded))


def _message(error: BaseException) -> str:
    """The error's message; for the operating system's errors the file and the reason, without the number."""
    if isinstance(error, OSError) and error.filename is not None:
        return one_line(f"{os.fsdecode(error.filename)}: {reason_of(error)}")
    return one_line(str(error))


def _complain(message: str, code: int) -> int:
    """Of several ranks that train one model, one says it."""
    if may_speak(of_signal=code > 128):
        print(f"error: {message}", file=sys.stderr)
    return code
