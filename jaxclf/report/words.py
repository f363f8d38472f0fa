"""Figures in words: percentages with their errors, durations, counts."""

import math
from typing import Any

from jaxclf.plots.style import shorten

#: Where there is no figure.
DASH = "\N{EN DASH}"

__all__ = ["count", "duration", "loss_text", "number", "percent", "percent_with_error", "setting", "shorten"]


def percent(share: float, *, error: float | None = None) -> str:
    """A share as a percentage; one decimal, two where the error is small enough to make them mean something.

    >>> percent(0.9934, error=0.0018), percent(0.93), percent(float("nan"))
    ('99.34 %', '93.0 %', '–')
    """
    if not math.isfinite(share):
        return DASH
    return f"{100 * share:.{_decimals(error)}f} %"


def percent_with_error(share: float, error: float) -> str:
    """>>> percent_with_error(0.932, 0.00796)
    '93.2 ± 0.8 %'
    """
    decimals = _decimals(error)
    return f"{100 * share:.{decimals}f} ± {100 * error:.{decimals}f} %"


def _decimals(error: float | None) -> int:
    return 2 if error is not None and 0 < error < 0.0025 else 1


def number(value: float | None, digits: int = 4) -> str:
    """A figure with so many significant digits; a dash where there is none.

    >>> number(0.123456), number(12.0), number(-0.0), number(None)
    ('0.1235', '12', '0', '–')
    """
    return DASH if value is None or not math.isfinite(value) else f"{value + 0.0:.{digits}g}"  # -0.0 + 0.0 is 0


def loss_text(value: float | None) -> str:
    """A loss with four decimals, so that a column of them lines up.

    >>> loss_text(0.45), loss_text(None)
    ('0.4500', '–')
    """
    return DASH if value is None or not math.isfinite(value) else f"{value + 0.0:.4f}"


def count(value: int, one: str, many: str | None = None) -> str:
    """>>> count(1, "picture"), count(1200, "picture"), count(2, "class", "classes")
    ('1 picture', '1,200 pictures', '2 classes')
    """
    return f"{value:,} {one if value == 1 else many or one + 's'}"


def duration(seconds: float | None) -> str:
    """>>> duration(0.42), duration(75), duration(7260), duration(None)
    ('0.4 s', '1 min 15 s', '2 h 1 min', '–')
    """
    if seconds is None or not math.isfinite(seconds):
        return DASH
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def setting(value: Any) -> str:
    """A recipe's value as people write it.

    >>> setting(None), setting(True), setting((0.001, 0.01)), setting("sgd"), setting(())
    ('none', 'yes', '0.001, 0.01', 'sgd', 'none')
    """
    if value is None or value == ():
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple | list):
        return ", ".join(map(setting, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)
