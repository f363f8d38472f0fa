"""What the commands share: argument types, and the error of wrong usage."""

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
