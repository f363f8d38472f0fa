"""What the commands share: argument types, their help, and the error of wrong usage."""

import inspect
import re
from collections.abc import Callable
from typing import Annotated, Any

import tyro

#: What a command hands to `main`: a function that does the work and returns the exit code.
Work = Callable[[], int]


class UsageError(ValueError):
    """A flag's value makes no sense: exit code 2, as for a flag that does not exist."""


def positional(name: str) -> Any:
    """Shows a positional argument as NAME in the help."""
    return tyro.conf.arg(metavar=name)


DataArgument = Annotated[str, tyro.conf.Positional, positional("DATA")]
RunArgument = Annotated[str, tyro.conf.Positional, positional("RUN")]


def flowing(docstring: str | None) -> str:
    """A docstring with each paragraph and each argument in one line: tyro keeps some of the breaks within.

    >>> flowing("Add.\\n\\nArgs:\\n  a: one\\n    (or two).\\n  b: more.")
    'Add.\\n\\nArgs:\\n  a: one (or two).\\n  b: more.'
    """
    lines: list[str] = []
    for line in inspect.cleandoc(docstring or "").splitlines():
        starts = not line or not lines or not lines[-1] or re.match(r"  \w[\w, ]*: |\w+:$", line)
        if starts:
            lines.append(line)
        else:
            lines[-1] += f" {line.strip()}"
    return "\n".join(lines)
