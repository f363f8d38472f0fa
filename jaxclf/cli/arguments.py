"""What the commands share: how a dataclass becomes one, the types of its arguments, the settings as flags."""

import contextlib
import dataclasses
import inspect
import re
import typing
from collections.abc import Callable, Iterator
from typing import Annotated, Any, TypeVar, dataclass_transform

import tyro

from jaxclf.config import Settings

T = TypeVar("T")


class UsageError(ValueError):
    """A flag's value makes no sense: exit code 2, as for a flag that does not exist."""


#: What a command line becomes: the command's dataclass, filled in. Calling it does the work, and gives the exit code.
Work = Callable[[], int]


@dataclass_transform(frozen_default=True)
def command(cls: type[T]) -> type[T]:
    """Makes a class a command: a frozen dataclass, of which the fields are the flags and the docstring is the help."""
    cls.__doc__ = flowing(cls.__doc__)
    cls.__annotations__ = {name: _one_way(hint) for name, hint in cls.__annotations__.items()}
    return dataclasses.dataclass(frozen=True)(cls)


def _one_way(hint: Any) -> Any:
    """A plain bool is off unless its flag is given. One that may be None is undecided, so it has a `--no-` flag too."""
    return Annotated[bool, tyro.conf.FlagCreatePairsOff] if hint is bool else hint


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


DataArgument = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DATA")]
RunArgument = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
FileArgument = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="FILE")]


@contextlib.contextmanager
def wrong_usage() -> Iterator[None]:
    """A ValueError within is about what was typed: it becomes a UsageError."""
    try:
        yield
    except ValueError as error:
        raise UsageError(str(error)) from error


def check_arch(arch: str) -> None:
    """Raises UsageError for an architecture that does not exist."""
    from jaxclf.models import get_config

    with wrong_usage():
        get_config(arch)


#: Group -> (what the help says of it, its fields). What stands in none of them joins "training".
GROUPS: dict[str, tuple[str, tuple[str, ...]]] = {
    "network": (
        "The network, and what it is shown.",
        ("arch", "weights", "head", "dropout", "image_size", "resize", "bn_frozen", "bn_recalibrate", "precision"),
    ),
    "data": (
        "The photos: which are held back, which are skipped, how often each is drawn.",
        ("valid_fraction", "on_bad_image", "on_bad_valid_image", "cache", "sampling"),
    ),
    "training": (
        "How it is trained.",
        (
            *("batch_size", "seed", "lr_rule", "optimizer", "momentum", "weight_decay", "clip_norm"),
            *("accumulate", "ema_decay"),
        ),
    ),
    "loss": (
        "What is minimised. Photos with several labels need --loss sigmoid.",
        ("loss", "focal_gamma", "class_weights", "label_smoothing", "mixup", "cutmix"),
    ),
    "evaluation": ("What is done with the trained network.", ("tta_views", "threshold")),
}


def group_fields() -> dict[str, tuple[str, ...]]:
    """Group -> names of its fields; every field of `Settings` is in one group."""
    known = {name for _, names in GROUPS.values() for name in names}
    rest = tuple(field.name for field in dataclasses.fields(Settings) if field.name not in known)
    return {group: names + (rest if group == "training" else ()) for group, (_, names) in GROUPS.items()}


def _group_type(group: str, names: tuple[str, ...]) -> type:
    """A dataclass of these fields of `Settings`, with their types, defaults and help."""
    hints, defaults = typing.get_type_hints(Settings), Settings()
    created = dataclasses.make_dataclass(
        group, [(name, _one_way(hints[name]), getattr(defaults, name)) for name in names], frozen=True
    )
    attributes = flowing(Settings.__doc__).partition("Attributes:\n")[2]
    created.__doc__ = f"{GROUPS[group][0]}\n\nAttributes:\n{attributes}"
    return created


_TYPES = {group: _group_type(group, names) for group, names in group_fields().items()}


class LeftOut(tuple[str, ...]):
    """Fields of `Settings` that a command has no use for, and no flags: beside `settings_without` in an annotation."""


def settings_without(*names: str) -> Any:
    """What tyro is told to make `Settings` of a command's flags, those of some fields left out."""

    def settings(**groups: Any) -> Settings:
        with wrong_usage():
            return Settings(**{name: value for part in groups.values() for name, value in vars(part).items()})

    shown = {group: tuple(name for name in fields if name not in names) for group, fields in group_fields().items()}
    types = {group: _group_type(group, fields) for group, fields in shown.items() if fields}
    # The signature is what tyro reads: one argument per group.
    settings.__signature__ = inspect.Signature(  # type: ignore[attr-defined]  # functions may have one
        [
            inspect.Parameter(group, inspect.Parameter.KEYWORD_ONLY, annotation=of_type, default=of_type())
            for group, of_type in types.items()
        ],
        return_annotation=Settings,
    )
    settings.__annotations__ = {**types, "return": Settings}
    return tyro.conf.arg(name="", constructor=settings)  # the name is empty so that the groups' is short


#: The type of a command's field `settings`, which needs no default.
SettingsFlags = Annotated[Settings, tyro.conf.OmitArgPrefixes, settings_without()]
