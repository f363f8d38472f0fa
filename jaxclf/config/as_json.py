"""Frozen dataclasses as JSON, both ways and strictly: an unknown field or a wrong type is an error that names it."""

import dataclasses
import json
import types
import typing
from typing import Any, Literal

#: Version 1 (jaxclf 0.1.0) is read too.
FORMAT_VERSION = 2


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


def to_json(value: Any) -> str:
    """A config dataclass as indented JSON."""
    return json.dumps({"format_version": FORMAT_VERSION, **dataclasses.asdict(value)}, indent=1) + "\n"


def from_json(cls: type, text: str) -> Any:
    """The dataclass back from `to_json`'s text.

    Raises:
      ValueError: for text that is not JSON, a field unknown or of a wrong type, or a value out of range.
    """
    try:
        data = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"not valid JSON: {error}") from error
    _require(isinstance(data, dict), f"expected a JSON object, found {type(data).__name__}")
    version = data.pop("format_version", FORMAT_VERSION)
    _require(version in (1, 2), f"format_version {version} is not known; this jaxclf reads 1 and {FORMAT_VERSION}")
    if version == 1 and hasattr(cls, "from_version_1"):
        data = cls.from_version_1(data)
    return from_dict(cls, data)


def from_dict(cls: type, data: dict[str, Any], where: str = "") -> Any:
    """Builds the dataclass `cls` from plain JSON values, strictly: see `from_json`."""
    hints = typing.get_type_hints(cls)
    fields = {field.name for field in dataclasses.fields(cls)}
    unknown = sorted(set(data) - fields)
    _require(
        not unknown, f"{where or cls.__name__}: unknown field {', '.join(unknown)}; known: {', '.join(sorted(fields))}"
    )
    values = {name: _convert(hints[name], value, f"{where}{name}") for name, value in data.items()}
    try:
        return cls(**values)
    except TypeError as error:  # a required field is missing
        raise ValueError(f"{where or cls.__name__}: {error}") from error


def _convert(hint: Any, value: Any, where: str) -> Any:
    """`value` as the type `hint`, or a ValueError that names the field."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    mismatch = ValueError(f"{where}={value!r} has the wrong type; expected {getattr(hint, '__name__', hint)}")
    if origin is Literal:
        _require(value in args, f"{where}={value!r} is not one of {', '.join(map(repr, args))}")
        return value
    if origin in (types.UnionType, typing.Union):
        if value is None and type(None) in args:
            return None
        literals = [arg for arg in args if typing.get_origin(arg) is Literal]
        words = [word for literal in literals for word in typing.get_args(literal)]
        others = [arg for arg in args if arg is not type(None) and arg not in literals]
        if value in words or not others:
            _require(value in words, f"{where}={value!r} is not one of {', '.join(map(repr, words))}")
            return value
        return _convert(others[0], value, where)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise mismatch
        hints = [args[0]] * len(value) if args[-1] is Ellipsis else list(args)
        if len(hints) != len(value):
            raise mismatch
        return tuple(_convert(h, v, f"{where}[{i}]") for i, (h, v) in enumerate(zip(hints, value, strict=True)))
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, dict):
            raise mismatch
        return from_dict(typing.cast(type, hint), value, f"{where}.")
    if hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if type(value) is not hint:
        raise mismatch
    return value
