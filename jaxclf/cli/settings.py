"""The settings as flags: one `Settings`, shown in the help as a few groups of what belongs together."""

import dataclasses
import inspect
import typing
from typing import Annotated, Any

import tyro

from jaxclf.cli.arguments import UsageError, flowing
from jaxclf.config import Settings

#: Group -> (what the help says of it, its fields). What stands in none of them joins "training".
GROUPS: dict[str, tuple[str, tuple[str, ...]]] = {
    "network": (
        "The network, and what it is shown.",
        ("arch", "weights", "head", "dropout", "image_size", "resize", "bn_frozen", "precision"),
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
        group, [(name, hints[name], getattr(defaults, name)) for name in names], frozen=True
    )
    attributes = flowing(Settings.__doc__).partition("Attributes:\n")[2]
    created.__doc__ = f"{GROUPS[group][0]}\n\nAttributes:\n{attributes}"
    return created


_TYPES = {group: _group_type(group, names) for group, names in group_fields().items()}


def _settings(**groups: Any) -> Settings:
    values = {name: value for part in groups.values() for name, value in dataclasses.asdict(part).items()}
    try:
        return Settings(**values)
    except ValueError as error:
        raise UsageError(str(error)) from error


# The signature is what tyro reads: one argument per group.
_settings.__signature__ = inspect.Signature(  # type: ignore[attr-defined]  # functions may have one
    [
        inspect.Parameter(group, inspect.Parameter.KEYWORD_ONLY, annotation=of_type, default=of_type())
        for group, of_type in _TYPES.items()
    ],
    return_annotation=Settings,
)
_settings.__annotations__ = {**_TYPES, "return": Settings}

#: The type of a command's parameter `settings`, which needs no default. The name is empty so that the groups' is short.
SettingsFlags = Annotated[Settings, tyro.conf.OmitArgPrefixes, tyro.conf.arg(name="", constructor=_settings)]
