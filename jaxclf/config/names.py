"""What is said in the same words everywhere: the modules of a network, what of it is frozen, where cycles end."""

import typing
from typing import Literal

CutName = Literal["stem", "stage1", "stage2", "stage3", "stage4", "pooled"]
#: The modules of every classifier in depth order. A set of frozen modules is always a prefix of this tuple.
MODULES = ("stem", "stage1", "stage2", "stage3", "stage4", "head")
#: A run's record, in its folder: a line of JSON per logged step and per epoch.
METRICS = "metrics.jsonl"
#: Where a network can be cut: after the stem, a stage, or the pooling.
CUTS = typing.get_args(CutName)


def frozen_prefix(through: str | None) -> tuple[str, ...]:
    """The frozen tuple that ends with module `through`; `None` freezes nothing.

    >>> frozen_prefix("stage1")
    ('stem', 'stage1')
    >>> frozen_prefix(None)
    ()
    """
    if through is None:
        return ()
    if through not in MODULES:
        raise ValueError(f"through={through!r} is not a module; choose one of {', '.join(MODULES)}")
    return MODULES[: MODULES.index(through) + 1]


def cut_prefix(cut: str | None) -> tuple[str, ...]:
    """The modules that make the activation at a cut, as a frozen tuple; `pooled` comes after stage4, `None` is images.

    >>> cut_prefix("stage1"), cut_prefix("pooled")[-1]
    (('stem', 'stage1'), 'stage4')
    """
    return frozen_prefix("stage4" if cut == "pooled" else cut)


def check_frozen(frozen: tuple[str, ...]) -> tuple[str, ...]:
    """Returns `frozen` as a tuple; raises ValueError unless it is a prefix of `MODULES`."""
    frozen = tuple(frozen)
    if frozen != MODULES[: len(frozen)]:
        raise ValueError(
            f"frozen={frozen!r} is not a prefix of {MODULES!r}: a module can be frozen only if all before it are, "
            f"for example frozen={MODULES[:3]!r}"
        )
    return frozen


def module_path(module: str) -> tuple[str, ...]:
    """Where a module's parameters live: `("head",)` or `("body", module)`."""
    return ("head",) if module == "head" else ("body", module)


def check_count(name: str, value: int, minimum: int = 1) -> None:
    """Raises ValueError unless `value` is a whole number of at least `minimum`."""
    if value != int(value) or value < minimum:
        raise ValueError(f"{name}={value!r} must be a whole number of at least {minimum}")


def cycle_boundaries(cycle_steps: int, num_cycles: int, cycle_mult: int = 1) -> tuple[int, ...]:
    """Cumulative ends of the cycles, in steps: cycle i has `cycle_steps * cycle_mult**i` steps.

    Args:
      cycle_steps: length of the first cycle, >= 1.
      num_cycles: >= 1.
      cycle_mult: whole number >= 1 by which each cycle is longer than the one before.

    Returns:
      `num_cycles` ints; entry i is the first step after cycle i.

    Raises:
      ValueError: for a count below one or a fractional multiplier.

    >>> cycle_boundaries(10, 3, cycle_mult=2)
    (10, 30, 70)
    """
    check_count("cycle_steps", cycle_steps)
    check_count("num_cycles", num_cycles)
    check_count("cycle_mult", cycle_mult)
    ends = []
    end = 0
    for cycle in range(num_cycles):
        end += int(cycle_steps) * int(cycle_mult) ** cycle
        ends.append(end)
    if end >= 2**31:
        raise ValueError(f"the cycles end at step {end}, beyond the 32-bit step counter; use fewer or shorter cycles")
    return tuple(ends)
