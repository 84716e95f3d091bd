"""`hv`: the one program. It finds the command's module, hands over its arguments, and says what went wrong in a line.

Each command is a module with `add_arguments(parser)` and `main(args) -> int`, imported when it is asked for, so that
`hv --help` costs no more than the interpreter. A command that is in the table but not in the tree is not offered.

Exit codes: 0 true, 1 checks failed, 2 wrong usage or input, 3 the guest crashed or used up its budget, 4 our own
mistake (with a report file), 130 interrupted.
"""

from __future__ import annotations

import argparse
import errno
import importlib
import importlib.util
import io
import os
import re
import sys
from dataclasses import dataclass
from types import ModuleType
from typing import IO, Any, NoReturn

from hv import __version__
from hv.commands.errors import INTERNAL_ERROR, INTERRUPTED, USAGE, CommandError
from hv.printable import one_line


@dataclass(frozen=True, slots=True)
class Command:
    """One line of the table: where the command is, what it does, and an example that works."""

    name: str
    module: str
    does: str
    example: str


COMMANDS = (
    Command("demo", "hv.commands.demo", "show the whole machine at work, and check what is shown", "hv demo"),
    Command("run", "hv.commands.run", "run a guest, or a described machine", "hv run guests/hello.asm"),
    Command("repl", "hv.commands.repl", "debug a guest: step, registers, memory, exits", "hv repl guests/timer.asm"),
    Command("step", "hv.commands.step", "step through a guest on a screen, forward and back", "hv step timer"),
    Command("replay", "hv.commands.replay", "run a recorded run again, byte for byte", "hv replay run.hvreplay"),
    Command("initramfs", "hv.commands.initramfs", "make a Linux kernel's first file system of busybox",
            "hv initramfs /bin/busybox initramfs.cpio"),
    Command("lab", "hv.commands.lab", "step-through labs", "hv lab list"),
    Command("grade", "hv.commands.grade", "grade exercises", "hv grade labs/01_first_exit/solution"),
    Command("explain", "hv.commands.explain", "hypercalls, MSRs, statuses, VM entry", "hv explain hypercall 0x5c"),
    Command("bench", "hv.commands.bench", "measure this machine", "hv bench --rounds 5"),
)


_OVERVIEW = """\
usage: hv COMMAND [ARGUMENTS]

An x86 hypervisor to learn on and debug on, built after Microsoft Hyper-V.

commands:
{commands}

options:
  -h, --help  this text; `hv COMMAND --help` explains a command
  --version   the version

examples:
{examples}

exit codes: 0 true, 1 checks failed, 2 wrong usage or input, 3 the guest crashed or used up its budget,
4 internal error, 130 interrupted"""


# argparse's words, and ours: what was found, and what was expected.
_OUR_WORDS = (
    (r"the following arguments are required: (.*)", r"\1 is missing"),
    (r"unrecognized arguments: (.*)", r"`\1` was not expected"),
    (r"argument (\S+): expected (?:one|at least one) argument", r"\1 needs a value behind it"),
    (r"argument (\S+): ignored explicit argument '(.*)'", r"\1 takes no value; found `\2`"),
    (r"argument (\S+): invalid int value: '(.*)'", r"\1 is `\2`; expected a whole number"),
    (r"argument (\S+): invalid choice: '(.*)' \(choose from (.*)\)", r"\1 is `\2`; expected one of \3"),
    (r"ambiguous option: (\S+) could match (.*)", r"`\1` may be \2"),
)


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose errors are one line, in our words."""

    def error(self, message: str) -> NoReturn:
        for theirs, ours in _OUR_WORDS:
            found = re.fullmatch(theirs, message, re.DOTALL)
            if found is not None:
                raise CommandError(found.expand(ours), self._hint(found[1]))
        raise CommandError(message, self._hint(""))

    def _hint(self, found: str) -> str:
        import difflib

        word = found.split(" ")[0].partition("=")[0]
        options = [option[2:] for option in self._option_string_actions if option.startswith("--")]
        wrong = word.startswith("--") and word[2:] not in options
        near = difflib.get_close_matches(word[2:], options, 1) if wrong else []
        return f"did you mean --{near[0]}?" if near else f"see `{self.prog} --help`"


def available(command: Command) -> bool:
    """The command's module is in the tree."""
    return importlib.util.find_spec(command.module) is not None


def overview() -> str:
    """What `hv --help` says."""
    commands = [command for command in COMMANDS if available(command)]
    width = max(len(command.name) for command in commands)
    lines = "\n".join(f"  {command.name:<{width}}  {command.does}" for command in commands)
    return _OVERVIEW.format(commands=lines, examples="\n".join(f"  {command.example}" for command in commands))


def find(name: str) -> Command:
    """The command called *name*; CommandError with the nearest ones."""
    known = {command.name: command for command in COMMANDS if available(command)}
    if name in known:
        return known[name]
    import difflib

    near = difflib.get_close_matches(name, known, 1)
    hint = f"did you mean `hv {near[0]}`?" if near else "see `hv --help`"
    raise CommandError(f"`{name}` is no command; expected {', '.join(known)}", hint)


def parser_of(command: Command, module: ModuleType) -> Parser:
    """The parser of one command, with its own arguments."""
    parser = Parser(prog=f"hv {command.name}", description=module.__doc__, epilog=f"example:\n  {command.example}",
                    formatter_class=argparse.RawDescriptionHelpFormatter)
    module.add_arguments(parser)
    return parser


def dispatch(arguments: list[str]) -> int:
    """Do what *arguments* ask; the exit code."""
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(overview())
        return 0 if arguments else USAGE
    if arguments[0] == "--version":
        print(f"hvlab {__version__}")
        return 0
    command = find(arguments[0])
    module = importlib.import_module(command.module)
    code: int = module.main(parser_of(command, module).parse_args(arguments[1:]))
    sys.stdout.flush()
    return code


def main(arguments: list[str] | None = None) -> int:
    """The program: everything that can go wrong becomes one line and an exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    _replace_closed()
    _replace_unprintable(sys.stdout, sys.stderr)
    try:
        return dispatch(arguments)
    except CommandError as error:
        return say(str(error), error.code)
    except KeyboardInterrupt:
        if sys.stderr.isatty():
            print(file=sys.stderr)      # the terminal has written ^C
        return say("interrupted", INTERRUPTED)
    except BrokenPipeError:
        _silence(sys.stdout)        # the reader went away: what is still buffered must not complain at exit
        return 0
    except Exception as error:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            return say("the output cannot be written: no space is left; make room, or write elsewhere", USAGE)
        return _internal_error(error, arguments)


def say(message: str, code: int) -> int:
    """One line on stderr; *code* again."""
    try:
        sys.stdout.flush()
    except OSError:
        _silence(sys.stdout)
    try:
        print(f"hv: {one_line(message)}", file=sys.stderr)
    except OSError:
        _silence(sys.stderr)
    return code


def _internal_error(error: Exception, arguments: list[str]) -> int:
    """A mistake of ours: the details go to a file."""
    from hv.commands import report

    what = f"internal error: {type(error).__name__}: {error}"
    try:
        place = report.write(error, arguments)
    except OSError as problem:
        return say(f"{what}; a report could not be written ({problem.strerror}); run it in a folder you can write to",
                   INTERNAL_ERROR)
    return say(f"{what}; this is a mistake of hvlab, not yours; please send {place} to its authors", INTERNAL_ERROR)


def _replace_closed() -> None:
    """A program may be started without any of its three streams: `hv run hello >&-`."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))      # noqa: SIM115


def _replace_unprintable(*streams: IO[Any]) -> None:
    """A guest may print what the terminal's encoding has no character for."""
    for stream in streams:
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def _silence(stream: IO[Any]) -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
