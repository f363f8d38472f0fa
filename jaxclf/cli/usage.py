"""From arguments to a command's work: tyro does the parsing, here its help and its errors become plain lines."""

import contextlib
import difflib
import inspect
import io
import os
import re
import shutil
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import TextIO

from jaxclf.cli.arguments import UsageError, Work

Commands = Mapping[str, Callable[..., Work]]
#: The help's text is wrapped at this width, or at the terminal's.
MAX_WIDTH = 120
_BOX = "╭╰│"
_ASCII = str.maketrans("╭╮╰╯─│•", "++++-|-")
#: A piece of tyro's message about a value -> what the value must be.
KINDS = {
    "matching {auto}|INT": "auto or a whole number",
    "int()": "a whole number",
    "matching INT": "a whole number",
    "float": "a number",
    "matching FLOAT": "a number",
}


def parse(commands: Commands, prog: str, description: str, arguments: Sequence[str]) -> Work:
    """The work that a command line asks for; for `--help`, prints it and ends the process.

    Args:
      commands: name -> the command, see `jaxclf.cli.arguments.command`.
      prog: what comes before the command's name.
      description: shown above the list of commands.
      arguments: what comes after `prog`.

    Raises:
      UsageError: in one line, with the flag as it was typed, what is wrong with it, and where to look.
    """
    import tyro

    if arguments[:1] in (["-h"], ["--help"]):
        commands = {name: _first_paragraph(command) for name, command in commands.items()}
    printed, errors = _Captured(sys.stdout), _Captured(sys.stderr)
    try:
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(errors):
            return tyro.extras.subcommand_cli_from_dict(
                dict(commands),
                prog=prog,
                description=description,
                args=list(arguments),
                config=(tyro.conf.HelptextFromCommentsOff, tyro.conf.DisallowNone),
            )
    except SystemExit as end:
        if end.code:
            raise UsageError(_as_one_line(errors.getvalue(), commands, prog, arguments)) from None
        text = wrap_help(printed.getvalue(), shutil.get_terminal_size().columns)
        drawn = str(sys.stdout.encoding).lower().replace("-", "") == "utf8"
        sys.stdout.write(text if drawn else text.translate(_ASCII))
        raise
    except UsageError as error:
        raise UsageError(as_typed(str(error), arguments)) from error


class _Captured(io.StringIO):
    """Text that was meant for a stream: with boxes, and in colours only where it is a terminal that wants them."""

    encoding = "utf-8"  # what tyro asks before it draws a box

    def __init__(self, stream: TextIO):
        super().__init__()
        self.stream = stream

    def isatty(self) -> bool:
        return self.stream.isatty() and not os.environ.get("NO_COLOR")


def _first_paragraph(command: Callable[..., Work]) -> Callable[[], Work]:
    """A stand-in for the list of commands, which names each in a sentence or two."""

    def short() -> Work:
        raise NotImplementedError

    short.__doc__ = inspect.cleandoc(command.__doc__ or "").split("\n\n")[0]
    return short


def wrap_help(text: str, width: int) -> str:
    """tyro's help with its lines outside the boxes wrapped at words."""
    width = max(40, min(width, MAX_WIDTH))
    lines: list[str] = []
    for line in text.splitlines():
        boxed = re.sub(r"\x1b\[[0-9;]*m", "", line)[:1]
        fits = len(line) <= width or (boxed and boxed in _BOX)
        lines += [line] if fits else textwrap.wrap(line, width, break_long_words=False, break_on_hyphens=False)
    return "\n".join(lines) + "\n"


def as_typed(message: str, arguments: Sequence[str]) -> str:
    """`batch_size=0 must be ..` as `--batch-size 0: must be ..`, where that flag was typed.

    >>> as_typed("batch_size=0 must be at least 1", ["fit", "photos", "--batch-size", "0"])
    '--batch-size 0: must be at least 1'
    """
    found = re.match(r"(\w+)=(\S+|\([^)]*\)) (must .*)", message, re.DOTALL)
    typed = None if found is None else _typed_value(f"--{found[1].replace('_', '-')}", arguments)
    if found is None or typed is None:
        return message
    return f"--{found[1].replace('_', '-')} {typed}: {found[3]}"


def _typed_value(flag: str, arguments: Sequence[str]) -> str | None:
    """What stands after a flag, the last time it was typed; None where it was not."""
    for place, argument in reversed(list(enumerate(arguments))):
        name, equals, value = argument.partition("=")
        if name.replace("_", "-") == flag:
            return value if equals else " ".join(arguments[place + 1 : place + 2])
    return None


def _as_one_line(text: str, commands: Commands, prog: str, arguments: Sequence[str]) -> str:
    """What tyro draws as a box, in a line. What is not known here is passed on without the box."""
    command = arguments[0] if arguments[:1] and arguments[0] in commands else ""
    where = f"{prog} {command}".strip()
    lines = [_unboxed(line) for line in text.splitlines()]
    body = [line for line in lines if line is not None]
    rule = next((place for place, line in enumerate(body) if set(line.strip()) <= {"─"}), len(body))
    body = body[:rule]  # what follows repeats the flag's help
    message = " ".join(line.strip() for line in body)
    said = _reworded(message, body, commands, where, arguments)
    return f"{said}{'' if said.endswith(('.', '?')) else '.'} See `{where} --help`"


def _unboxed(line: str) -> str | None:
    """A line of a box without its sides; None for its top and bottom."""
    line = re.sub(r"\x1b\[[0-9;]*m", "", line)
    return None if line[:1] in ("╭", "╰") else line.strip("│").removeprefix(" ").rstrip()


def _reworded(message: str, body: list[str], commands: Commands, where: str, arguments: Sequence[str]) -> str:
    unknown = re.match(r"Unrecognized options: ([^,\s]+)", message)
    if word := unknown[1] if unknown else _unknown_flag(commands, arguments):
        return _unknown(word, commands, where, arguments)
    if message.startswith("Missing from "):
        names = [line.strip() for line in body[1:] if re.match(r" {4}\S", line)]
        return f"`{where}` needs {' and '.join(names)}"
    if found := re.match(r"invalid choice '(.*)' for argument '(\S+)'\. Expected one of \((.*?),?\)\.", message):
        return f"{found[2]} {found[1]}: must be one of {found[3].replace(chr(39), '')}"
    if found := re.match(r"Missing value for argument '(\S+)'", message):
        return f"{found[1]}: needs a value"
    if found := re.match(r"Expected one of \{(.*)\}\.", message):
        return f"`{where}` needs a command: {found[1]}"
    if found := re.match(r"Error parsing (-\S+?): (.*)", message):
        kind = next((kind for sign, kind in KINDS.items() if sign in found[2]), None)
        typed = f" {_typed_value(found[1], arguments)}: must be {kind}" if kind else f": {found[2]}"
        return f"{found[1]}{typed}"
    return message


def _unknown_flag(commands: Commands, arguments: Sequence[str]) -> str | None:
    """The first flag that a command does not have: tyro complains of what is missing before it comes to that."""
    from jaxclf.cli.completion import COMMON, command_flags

    if arguments[:1] and arguments[0] in commands:
        known = {*command_flags(commands[arguments[0]]), *COMMON}
        flags = (argument.partition("=")[0] for argument in arguments if argument.startswith("--"))
        return next((flag for flag in flags if flag.replace("_", "-") not in known), None)
    return None


def _unknown(word: str, commands: Commands, where: str, arguments: Sequence[str]) -> str:
    from jaxclf.cli.completion import command_flags

    if arguments[0] not in commands:
        kind, known = "a command", list(commands)
    elif word.startswith("-"):
        kind, known = "a flag", list(command_flags(commands[arguments[0]]))
    else:
        return f"{word!r} is one argument too many for `{where}`"
    close = difflib.get_close_matches(word, known, n=1)
    hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(known)}" if kind == "a command" else ""
    return f"{word} is not {kind} of `{where}`" + (f"; {hint}" if hint else "")
