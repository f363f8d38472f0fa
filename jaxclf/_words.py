"""Figures in words: percentages with their errors, durations, counts, large numbers, long names."""

import math
from typing import Any

#: Where there is no figure.
DASH = "\N{EN DASH}"


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


def shorten(text: str, most: int) -> str:
    """A text of at most `most` characters: what is too long loses its middle.

    >>> shorten("n02106662_German_shepherd", 15)
    'n021066…hepherd'
    """
    if len(text) <= most:
        return text
    tail = (most - 1) // 2
    return text[: most - 1 - tail] + "…" + text[len(text) - tail :]


def describe_bytes(number: int) -> str:
    """Bytes; 1 GB is 10^9.

    >>> describe_bytes(1_234_567), describe_bytes(12), describe_bytes(999_600)
    ('1.23 MB', '12 B', '1.00 MB')
    """
    return _with_unit(number, ("B", "kB", "MB", "GB", "TB"))


def describe_flops(number: int) -> str:
    """Floating-point operations.

    >>> describe_flops(8_178_000_000), describe_flops(52_300_000), describe_flops(0)
    ('8.18 GFLOP', '52.3 MFLOP', '0 FLOP')
    """
    return _with_unit(number, ("FLOP", "kFLOP", "MFLOP", "GFLOP", "TFLOP", "PFLOP", "EFLOP"))


def describe_count(number: int) -> str:
    """How many, in thousands (k), millions (M) and so on.

    >>> describe_count(11_177_538), describe_count(514)
    ('11.2 M', '514')
    """
    return _with_unit(number, ("", "k", "M", "G")).rstrip()


def _with_unit(number: int, units: tuple[str, ...]) -> str:
    value, place = float(number), 0
    while value >= 999.5 and place < len(units) - 1:
        value, place = value / 1000, place + 1
    digits = 0 if place == 0 or value >= 99.95 else 1 if value >= 9.995 else 2
    return f"{value:.{digits}f} {units[place]}"
