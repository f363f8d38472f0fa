"""The learning-rate finder: a short mock training with a growing rate, after which nothing has changed."""

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxclf.config import AugmentName, Phase, Settings
from jaxclf.data.loader import Batch, Loader
from jaxclf.inference import to_device
from jaxclf.loop import Progress, Row
from jaxclf.lr_curve import (
    RULES,
    LRCurve,
    Suggestion,
    growing_lrs,
    smooth_losses,
    stopping_point,
    suggest_lr,
    suggestions,
)
from jaxclf.models.classifier import Classifier
from jaxclf.phases import make_phase_program
from jaxclf.schedules import exponential

__all__ = ["RULES", "LRCurve", "Suggestion", "find_lr", "smooth_losses", "suggest_lr", "suggestions"]

#: The test's own place among the random keys: no run has so many phases.
PHASE_NUMBER = 2**31 - 1


def find_lr(
    model: Classifier,
    variables: Mapping[str, Any],
    loader: Loader,
    *,
    lrs: Sequence[float] = (1.0,),
    frozen: tuple[str, ...] = (),
    low: float = 1e-6,
    high: float = 10.0,
    num_steps: int = 100,
    beta: float = 0.98,
    settings: Settings | None = None,
    seed: int | None = None,
    augment: AugmentName | None = None,
    fetch_every: int = 10,
    on_step: Callable[[Progress], None] | None = None,
) -> LRCurve:
    """Trains a copy of the variables with a rate that grows from `low` to `high`, and records the loss.

    lr_k = low * (high / low) ** (k / (num_steps - 1)) for the last layer group; all groups share the multiplier, so
    their ratios hold at every step. The test ends early where the smoothed loss exceeds four times its lowest (after 10
    steps), or the loss is not finite. `variables` stay as they were, to the bit, and the same arguments give the same
    curve. No step waits for the device: losses are fetched in blocks, one block behind.

    Args:
      model: the classifier.
      variables: `{"params", "batch_stats"}` to start from.
      loader: made with `train=True`. Its data is gone through as often as needed, in an order that no epoch of a run
        has (and another for every seed).
      lrs: relative rates of the layer groups, earliest layers first: 1, 2, 3 or 6 of them, the last > 0. For example
        (.01, .1, 1), or a phase's own rates.
      frozen: modules that are not trained, a prefix of `MODULES`.
      low, high: first and last rate of the last group, 0 < low < high.
      num_steps: at least 20.
      beta: smoothing, see `smooth_losses`.
      settings: optimizer, momentum, weight decay, clipping, label smoothing and seed; default: `Settings()`.
      seed: of order, augmentation and dropout; None takes the settings'.
      augment: "side_on" or "none"; None augments if the loader is `presized` for it.
      fetch_every: steps per block of fetched losses; the curve does not depend on it.
      on_step: called after each dispatched step; must not touch the device.

    Returns:
      The curve, up to and including the step where it diverged, or before the step whose loss is not finite.

    Raises:
      ValueError: for an argument out of range.

    References: cyclical learning rates and the range test, Smith, arXiv:1506.01186.
    """
    settings = settings or Settings()
    rates = growing_lrs(low, high, num_steps)
    smooth_losses((), beta)  # checks beta before any work is done
    ratios = _ratios(lrs)
    if "head" in frozen:
        raise ValueError(f"frozen={frozen!r} holds the head too: nothing is left to train")
    if fetch_every < 1:
        raise ValueError(f"fetch_every={fetch_every} must be at least 1")
    seed = settings.seed if seed is None else seed
    group_lrs = tuple(high * float(ratio) for ratio in ratios)
    augment = augment or ("side_on" if loader.presized else "none")
    phase = Phase("lr finder", lrs=group_lrs, frozen=frozen, augment=augment)
    schedule = exponential(num_steps, initial=low / high)
    settings = dataclasses.replace(settings, seed=seed)
    program = make_phase_program(
        model, variables, phase, loader, settings, phase_number=PHASE_NUMBER, schedule=schedule
    )
    state = program.create_state(variables, phase, settings)

    losses = np.zeros(0)
    pending: list[jax.Array] = []  # on the device until fetched
    latest: Row | None = None
    stop = None
    for step, batch in enumerate(to_device(_recycled(loader, seed, num_steps)), 1):
        state, metrics = program.train_step(state, batch, program.key)
        # After a failed step nothing changes any more, so what follows is no loss of this test.
        pending.append(jnp.where(metrics["failed_at"] >= 0, jnp.nan, metrics["loss"]))
        if len(pending) == 2 * fetch_every or step == num_steps:
            # All but the newest block, which keeps the device at work meanwhile.
            count = len(pending) if step == num_steps else fetch_every
            losses = np.append(losses, np.asarray(jax.device_get(pending[:count]), np.float64))
            pending = pending[count:]
            stop = stopping_point(losses, smooth_losses(losses, beta))
            known = len(losses) - 1
            latest = {"kind": "lr_finder", "step": known, "loss": float(losses[known]), "lr": float(rates[known])}
        if on_step is not None:
            on_step(Progress(step, num_steps, loader.batch_size, latest))
        if stop is not None:
            break
    end, reason = stop or (num_steps, "completed")
    losses, rates = losses[:end], rates[:end]
    return LRCurve(rates, losses, smooth_losses(losses, beta), reason, rates[:, None] * ratios, num_steps)


def _ratios(lrs: Sequence[float]) -> np.ndarray:
    """Rates relative to the last group's: float64 [groups]."""
    values = np.asarray(lrs, np.float64)
    if values.ndim != 1 or not len(values) or not np.isfinite(values).all() or (values < 0).any() or values[-1] == 0:
        raise ValueError(f"lrs={tuple(lrs)} must be one finite rate per layer group, none negative, the last positive")
    return values / values[-1]


def _recycled(loader: Loader, seed: int, num_batches: int) -> Iterator[Batch]:
    """`num_batches` batches, epoch after epoch of numbers beyond 2^32, where no run gets and each seed has its own."""
    epoch = (seed + 1) << 32
    while num_batches > 0:
        count = min(num_batches, len(loader))
        yield from itertools.islice(loader.epoch(epoch), count)
        num_batches -= count
        epoch += 1
