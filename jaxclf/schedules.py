"""Learning-rate schedules: pure functions step -> multiplier in [0, 1].

A schedule never holds a learning rate. Rates are separate floats, one per layer group, and one schedule serves them
all, so the ratios between groups hold at every step. Every factory checks its arguments once, in Python, and returns
a traceable closure that takes an integer step (or an array of steps) and can be used wherever optax takes a schedule.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from jaxclf.config import check_count
from jaxclf.config import cycle_boundaries as cycle_boundaries

#: step (int scalar or array) -> float32 multiplier of the same shape.
Schedule = Callable[[jax.typing.ArrayLike], jax.Array]


def _check_unit(name: str, value: float) -> None:
    if not 0.0 <= value <= 1.0:
        raise ValueError(f"{name}={value!r} must lie in [0, 1]: a schedule is a multiplier, the rate is given apart")


def _half_cosine(position: jax.Array, length: jax.typing.ArrayLike, start: float, end: float) -> jax.Array:
    """Half a cosine from `start` at position 0 to `end` at position `length`, exact at both.

    Written with cos^2(x / 2) = (1 + cos x) / 2, which keeps its precision where the value is close to `end`.
    """
    falling = jnp.square(jnp.cos(jnp.float32(jnp.pi / 2) * (position / length)))
    value = end + (start - end) * falling
    return jnp.where(position == 0, jnp.float32(start), jnp.clip(value, min(start, end), max(start, end)))


def constant() -> Schedule:
    """Multiplier 1 at every step.

    >>> float(constant()(7))
    1.0
    """
    return lambda step: jnp.ones(jnp.shape(step), jnp.float32)


def sgdr(
    cycle_steps: int, num_cycles: int, *, cycle_mult: int = 1, final: float = 0.0, warmup_steps: int = 0
) -> Schedule:
    """Cosine annealing with warm restarts.

    Within a cycle of N steps: multiplier(t) = final + (1 - final) * (1 + cos(pi * t / N)) / 2, t = 0 .. N - 1.
    The first step of every cycle is exactly 1 (unless warmed up); after the last cycle it holds `final`.

    Args:
      cycle_steps: length of the first cycle in steps, >= 1.
      num_cycles: >= 1.
      cycle_mult: whole number >= 1; cycle i has `cycle_steps * cycle_mult**i` steps.
      final: what each cycle falls towards, in [0, 1].
      warmup_steps: for this many steps of the first cycle the multiplier is 1/100 (as fastai 0.7 runs the first
        twentieth of it); 0 turns it off. Less than `cycle_steps`.

    Returns:
      step -> float32 multiplier.

    Raises:
      ValueError: for an argument out of range.

    References: SGDR, Loshchilov & Hutter, arXiv:1608.03983.

    >>> schedule = sgdr(4, 2, cycle_mult=2)
    >>> [round(float(schedule(t)), 3) for t in (0, 2, 3, 4, 8, 12, 99)]
    [1.0, 0.5, 0.146, 1.0, 0.5, 0.0, 0.0]
    """
    ends = cycle_boundaries(cycle_steps, num_cycles, cycle_mult)
    _check_unit("final", final)
    check_count("warmup_steps", warmup_steps, 0)
    if warmup_steps >= cycle_steps:
        raise ValueError(f"warmup_steps={warmup_steps} must be less than cycle_steps={cycle_steps}")
    starts = np.asarray((0, *ends[:-1]), np.int32)
    lengths = np.diff(ends, prepend=0).astype(np.float32)

    def schedule(step: jax.typing.ArrayLike) -> jax.Array:
        step = jnp.asarray(step, jnp.int32)
        cycle = jnp.minimum((step[..., None] >= np.asarray(ends, np.int32)).sum(-1), num_cycles - 1)
        # Subtracted as integers: a float32 step is inexact beyond 2**24.
        inside = (step - jnp.asarray(starts)[cycle]).astype(jnp.float32)
        value = _half_cosine(inside, jnp.asarray(lengths)[cycle], 1.0, final)
        value = jnp.where(step >= ends[-1], jnp.float32(final), value)
        return jnp.where(step < warmup_steps, jnp.float32(0.01), value)

    return schedule


def cosine(num_steps: int, *, final: float = 0.0) -> Schedule:
    """One cosine from 1 at step 0 to `final` at `num_steps`, which it then holds: `sgdr` with one cycle.

    >>> [round(float(cosine(10)(t)), 3) for t in (0, 5, 10)]
    [1.0, 0.5, 0.0]
    """
    return sgdr(num_steps, 1, final=final)


def linear(num_steps: int, *, final: float = 0.0) -> Schedule:
    """A straight line from 1 at step 0 to `final` at `num_steps`, which it then holds.

    >>> [round(float(linear(10)(t)), 3) for t in (0, 5, 10, 11)]
    [1.0, 0.5, 0.0, 0.0]
    """
    check_count("num_steps", num_steps)
    _check_unit("final", final)

    def schedule(step: jax.typing.ArrayLike) -> jax.Array:
        step = jnp.minimum(jnp.asarray(step, jnp.int32), num_steps)
        # Written from the end, so that the last value is `final` to the bit.
        left = (num_steps - step).astype(jnp.float32) / num_steps
        return final + (1.0 - final) * left

    return schedule


def exponential(num_steps: int, *, initial: float) -> Schedule:
    """Geometric growth from `initial` at step 0 to exactly 1 at step `num_steps - 1`, held from there on.

    multiplier(k) = initial ** (1 - k / (num_steps - 1)): the learning-rate range test with `initial = low / high`.

    Args:
      num_steps: >= 2.
      initial: first multiplier, in (0, 1].

    References: cyclical learning rates, Smith, arXiv:1506.01186.

    >>> [round(float(exponential(3, initial=0.01)(t)), 3) for t in (0, 1, 2, 3)]
    [0.01, 0.1, 1.0, 1.0]
    """
    check_count("num_steps", num_steps, 2)
    if not 0.0 < initial <= 1.0:
        raise ValueError(f"initial={initial!r} must lie in (0, 1]")
    log_initial = math.log(initial)

    def schedule(step: jax.typing.ArrayLike) -> jax.Array:
        left = jnp.maximum(num_steps - 1 - jnp.asarray(step, jnp.int32), 0).astype(jnp.float32)
        return jnp.exp(log_initial * left / (num_steps - 1))

    return schedule


def one_cycle(num_steps: int, *, pct_start: float = 0.25, div: float = 25.0, div_final: float = 1e5) -> Schedule:
    """Cosine from 1/div up to 1, then cosine down to 1/div_final, both relative to the maximum.

    The rise takes `round(pct_start * num_steps)` steps; step `num_steps` and later hold 1/div_final.

    Args:
      num_steps: >= 2.
      pct_start: share of the steps spent rising, in (0, 1).
      div: the first multiplier is 1/div; >= 1.
      div_final: the last multiplier is 1/div_final; >= 1. (optax's `final_div_factor` is relative to the *first*
        rate instead: compare with `div_final / div`.)

    References: super-convergence, Smith & Topin, arXiv:1708.07120; the two cosines are fastai 2's.

    >>> schedule = one_cycle(100)
    >>> [round(float(schedule(t)), 3) for t in (0, 25, 100)]
    [0.04, 1.0, 0.0]
    """
    peak = _peak(num_steps, pct_start)
    for name, value in (("div", div), ("div_final", div_final)):
        if value < 1.0:
            raise ValueError(f"{name}={value!r} must be at least 1: it divides the maximum")

    def schedule(step: jax.typing.ArrayLike) -> jax.Array:
        step = jnp.clip(jnp.asarray(step, jnp.int32), 0, num_steps)
        rising = _half_cosine(step.astype(jnp.float32), jnp.float32(peak), 1.0 / div, 1.0)
        after = (step - peak).astype(jnp.float32)
        falling = _half_cosine(after, jnp.float32(num_steps - peak), 1.0, 1.0 / div_final)
        return jnp.where(step < peak, rising, falling)

    return schedule


def one_cycle_momentum(num_steps: int, *, pct_start: float = 0.25, high: float = 0.95, low: float = 0.85) -> Schedule:
    """The momentum that goes with `one_cycle`, its mirror image: cosine from `high` down to `low`, then back up.

    Unlike the other schedules this is the value itself, to be given to `make_optimizer` as `momentum`.

    Args:
      num_steps, pct_start: as for `one_cycle`.
      high, low: in [0, 1), low <= high.

    References: Smith & Topin, arXiv:1708.07120.

    >>> momentum = one_cycle_momentum(100)
    >>> [round(float(momentum(t)), 3) for t in (0, 25, 100)]
    [0.95, 0.85, 0.95]
    """
    if not 0.0 <= low <= high < 1.0:
        raise ValueError(f"momentum from low={low!r} to high={high!r} must satisfy 0 <= low <= high < 1")
    peak = _peak(num_steps, pct_start)

    def schedule(step: jax.typing.ArrayLike) -> jax.Array:
        step = jnp.clip(jnp.asarray(step, jnp.int32), 0, num_steps)
        falling = _half_cosine(step.astype(jnp.float32), jnp.float32(peak), high, low)
        rising = _half_cosine((step - peak).astype(jnp.float32), jnp.float32(num_steps - peak), low, high)
        return jnp.where(step < peak, falling, rising)

    return schedule


def _peak(num_steps: int, pct_start: float) -> int:
    """The step at which one_cycle turns."""
    check_count("num_steps", num_steps, 2)
    if not 0.0 < pct_start < 1.0:
        raise ValueError(f"pct_start={pct_start!r} must lie between 0 and 1, both excluded")
    return min(max(round(pct_start * num_steps), 1), num_steps - 1)
