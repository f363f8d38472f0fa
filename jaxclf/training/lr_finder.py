"""The learning-rate finder: a short mock training with a growing rate, after which nothing has changed."""

import functools
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxclf._progress import OnProgress, silent
from jaxclf.config import AugmentName, Phase, Settings
from jaxclf.data.activations import ActivationLoader, AnyLoader
from jaxclf.data.batches import Batch
from jaxclf.data.devices import fetch
from jaxclf.inference.predict import to_device
from jaxclf.models.classifier import Classifier
from jaxclf.schedules import exponential
from jaxclf.training.hyperparameters import Hyperparameters
from jaxclf.training.lr_curve import (
    EDGE_FACTOR,
    RULES,
    LRBand,
    LRCurve,
    Suggestion,
    growing_lrs,
    smooth_losses,
    stopping_point,
    suggest_lr,
    suggestions,
)
from jaxclf.training.program import Program, make_program, phase_key
from jaxclf.training.scan import Plan, can_scan, resident, scan_steps
from jaxclf.training.state import TrainState
from jaxclf.training.step import TrainStep

__all__ = [
    "RULES",
    "LRBand",
    "LRCurve",
    "Suggestion",
    "find_lr",
    "find_lr_band",
    "smooth_losses",
    "suggest_lr",
    "suggestions",
]

#: The test's own place among the random keys: no run has so many phases.
PHASE_NUMBER = 2**31 - 1
#: A run's learning-rate test: its first rate, the last one where nothing is known, and the steps between these two.
FIRST_RATE, LAST_RATE, WIDE_STEPS = 1e-5, 10.0, 100
#: The highest rate that a run with a standing head takes by itself.
HIGHEST_RATE = {"sgd": 0.01, "adamw": 0.001}
#: Steps per block of fetched losses; the curve does not depend on it.
FETCH_EVERY = 10


class RateRange(NamedTuple):
    """What a run's test goes through: first and last rate of the last group, and steps."""

    low: float
    high: float
    num_steps: int


def rate_range(highest: float | None = None) -> RateRange:
    """The range of a run's test: all rates, or as far as `edge` says no more than `highest`.

    The steps are equally many in each decade.

    >>> rate_range()
    RateRange(low=1e-05, high=10.0, num_steps=100)
    >>> rate_range(0.05)
    RateRange(low=1e-05, high=1.0, num_steps=83)
    """
    high = LAST_RATE if highest is None else EDGE_FACTOR * highest
    decades = math.log(high / FIRST_RATE) / math.log(LAST_RATE / FIRST_RATE)
    return RateRange(FIRST_RATE, high, round(WIDE_STEPS * decades))


def finder_range(settings: Settings, *, stands: bool) -> RateRange:
    """The range of the test before a phase: `stands`, from a head that is no new one, and nobody asks for a rule."""
    return rate_range(HIGHEST_RATE[settings.optimizer] if stands and settings.lr_rule == "auto" else None)


def worth_a_test(phase: Phase, steps_per_epoch: int, over: RateRange) -> bool:
    """Whether a test before the phase costs no more than the training it serves.

    It does where the phase sees pictures and is shorter itself. Fewer steps are no way out: with 42 over six decades
    the rate that `valley` reads off spreads 16-fold over seeds, and that of `edge` falls, as the smoothed loss lags
    less behind.
    """
    return phase.cut is not None or phase.num_epochs * steps_per_epoch >= over.num_steps


def find_lr(
    model: Classifier,
    variables: Mapping[str, Any],
    loader: AnyLoader,
    *,
    lrs: Sequence[float] = (1.0,),
    frozen: tuple[str, ...] = (),
    low: float = 1e-6,
    high: float = 10.0,
    num_steps: int = 100,
    beta: float = 0.98,
    settings: Settings | None = None,
    augment: AugmentName | None = None,
    on_progress: OnProgress | None = None,
) -> LRCurve:
    """Trains a copy of the variables with a rate that grows from `low` to `high`, and records the loss.

    lr_k = low * (high / low) ** (k / (num_steps - 1)) for the last layer group; all groups share the multiplier, so
    their ratios hold at every step. The test ends early where the smoothed loss exceeds four times its lowest (after 10
    steps), or the loss is not finite. `variables` stay as they were, to the bit, and the same arguments give the same
    curve. No step waits for the device: losses are fetched in blocks, one block behind. Of a head on cached activations
    that lie on the device, the whole test is one dispatch.

    Args:
      model: the classifier.
      variables: `{"params", "batch_stats"}` to start from.
      loader: made with `train=True`; of pictures or of cached activations. Its data is gone through as often as needed,
        in an order that no epoch of a run has (and another for every seed).
      lrs: relative rates of the layer groups, earliest layers first: 1, 2, 3 or 6 of them, the last > 0. For example
        (.01, .1, 1), or a phase's own rates.
      frozen: modules that are not trained, a prefix of `MODULES`.
      low, high: first and last rate of the last group, 0 < low < high.
      num_steps: at least 20.
      beta: smoothing, see `smooth_losses`.
      settings: optimizer, momentum, weight decay, clipping, label smoothing, and the seed of order, augmentation and
        dropout; default: `Settings()`.
      augment: a preset's name or "none"; None takes "side_on" if the loader is `presized` for it, and what cached
        activations show.
      on_progress: called with (steps dispatched, steps in all); it may end before.

    Returns:
      The curve, up to and including the step where it diverged, or before the step whose loss is not finite.

    Raises:
      ValueError: for an argument out of range.

    References: cyclical learning rates and the range test, Smith, arXiv:1506.01186.
    """
    over = _Range(low, high, num_steps, beta)
    test = _make_test(model, variables, loader, lrs, frozen, over, settings or Settings(), augment)
    if can_scan(loader):
        losses = _scanned_losses(test, loader, [test.program.settings.seed])[0]
        (on_progress or silent)(num_steps, num_steps)
    else:
        losses = _stepwise_losses(test, loader, on_progress or silent)
    return _curve(test, losses)


def find_lr_band(
    model: Classifier,
    variables: Mapping[str, Any],
    loader: ActivationLoader,
    *,
    seeds: int | Sequence[int] = 8,
    lrs: Sequence[float] = (1.0,),
    frozen: tuple[str, ...] = (),
    low: float = 1e-6,
    high: float = 10.0,
    num_steps: int = 100,
    beta: float = 0.98,
    settings: Settings | None = None,
    augment: AugmentName | None = None,
) -> LRBand:
    """`find_lr` repeated over seeds, all at once: by how much do curve and rate depend on order and draws?

    One compiled scan, vectorised over the seeds. Test s of the band is what `find_lr` gives with seed `seeds[s]`.

    Args:
      model, variables, lrs, frozen, low, high, num_steps, beta, settings, augment: as for `find_lr`.
      loader: of `pooled` activations that lie on the device, made with `train=True`.
      seeds: how many (0, 1, ..), or which.

    Returns:
      The band.

    Raises:
      ValueError: for other data, or an argument out of range.
    """
    numbers = list(range(seeds)) if isinstance(seeds, int) else [int(seed) for seed in seeds]
    if not numbers or min(numbers) < 0:
        raise ValueError(f"seeds={seeds!r} must be a number of at least 1, or some that are not negative")
    if not can_scan(loader):
        raise ValueError(
            "a band needs the activations of extract_features(..., cut='pooled', placement='device'); for other data "
            "call find_lr once for each seed"
        )
    over = _Range(low, high, num_steps, beta)
    test = _make_test(model, variables, loader, lrs, frozen, over, settings or Settings(), augment)
    curves = [_curve(test, losses) for losses in _scanned_losses(test, loader, numbers)]
    losses, smoothed = (
        np.stack([np.pad(values, (0, num_steps - len(values)), constant_values=np.nan) for values in column])
        for column in ([curve.losses for curve in curves], [curve.smoothed for curve in curves])
    )
    reasons = tuple(curve.reason for curve in curves)
    return LRBand(test.rates, losses, smoothed, reasons, test.rates[:, None] * test.ratios)


class _Range(NamedTuple):
    low: float
    high: float
    num_steps: int
    beta: float


class _Test(NamedTuple):
    """A range test that is ready to run: rates of the last group and all groups' ratios to it, program, first state."""

    rates: np.ndarray
    ratios: np.ndarray
    beta: float
    program: Program
    state: TrainState


def _make_test(
    model: Classifier,
    variables: Mapping[str, Any],
    loader: AnyLoader,
    lrs: Sequence[float],
    frozen: tuple[str, ...],
    over: _Range,
    settings: Settings,
    augment: AugmentName | None,
) -> _Test:
    smooth_losses((), over.beta)  # checks beta before any work is done
    rates, ratios = growing_lrs(over.low, over.high, over.num_steps), _ratios(lrs)
    if "head" in frozen:
        raise ValueError(f"frozen={frozen!r} holds the head too: nothing is left to train")
    if isinstance(loader, ActivationLoader):
        augment = augment or loader.augment
    augment = augment or ("side_on" if loader.presized else "none")
    group_lrs = tuple(over.high * float(ratio) for ratio in ratios)
    phase = Phase("lr finder", lrs=group_lrs, frozen=frozen, augment=augment)
    schedule = exponential(over.num_steps, initial=over.low / over.high)
    program = make_program(model, phase, loader, settings, phase_number=PHASE_NUMBER, schedule=schedule)
    return _Test(rates, ratios, over.beta, program, program.init(variables))


def _stepwise_losses(test: _Test, loader: AnyLoader, on_progress: OnProgress) -> np.ndarray:
    """The losses step by step, up to where the test ends: float64 [steps], NaN from a step that failed."""
    state, losses, num_steps = test.state, np.zeros(0), len(test.rates)
    pending: list[jax.Array] = []  # on the device until fetched
    batches = _recycled(loader, test.program.settings.seed, num_steps)
    on_device = to_device(batches, mesh=loader.mesh, batch_size=loader.batch_size)
    for step, batch in enumerate(on_device, 1):
        state, metrics = test.program.train_step(state, batch, test.program.key)
        # After a failed step nothing changes any more, so what follows is no loss of this test.
        pending.append(jnp.where(metrics["failed_at"] >= 0, jnp.nan, metrics["loss"]))
        if len(pending) == 2 * FETCH_EVERY or step == num_steps:
            # All but the newest block, which keeps the device at work meanwhile.
            count = len(pending) if step == num_steps else FETCH_EVERY
            losses = np.append(losses, np.asarray(jax.device_get(pending[:count]), np.float64))
            pending = pending[count:]
        on_progress(step, num_steps)
        if stopping_point(losses, smooth_losses(losses, test.beta)) is not None:
            break
    return losses


def _scanned_losses(test: _Test, loader: AnyLoader, seeds: Sequence[int]) -> np.ndarray:
    """The losses of whole tests, in one dispatch: float64 [seeds, steps], NaN after a step that failed."""
    assert isinstance(loader, ActivationLoader)
    program, steps = test.program, np.arange(len(test.rates), dtype=np.int32)
    plans = [_recycled_plan(loader, seed, len(test.rates)) for seed in seeds]
    keys = jnp.stack([phase_key(seed, PHASE_NUMBER) for seed in seeds])
    both = Plan(np.stack([plan.positions for plan in plans]), np.stack([plan.rows for plan in plans]))
    run = _make_scanned_tests(program.shared_step, program.phase.frozen)
    losses = run(test.state, resident(loader.dataset), both, program.hyperparameters(steps), keys)
    return np.asarray(fetch(losses), np.float64)


@functools.lru_cache(maxsize=8)
def _make_scanned_tests(train_step: TrainStep, frozen: tuple[str, ...]) -> Callable[..., jax.Array]:
    """Jitted (state, data, plans, hyperparameters, keys) -> float32 [seeds, steps], all from one state.

    Plans and keys have a leading axis of seeds; the hyperparameters serve all of them.
    """

    @jax.jit
    def run(state: TrainState, data: Any, plans: Plan, hyperparameters: Hyperparameters, keys: jax.Array) -> jax.Array:
        def one(plan: Plan, key: jax.Array) -> jax.Array:
            plan = plan._replace(hyperparameters=hyperparameters)
            _, metrics = scan_steps(train_step, frozen, state, data, plan, key)
            return jnp.where(metrics["failed_at"] >= 0, jnp.nan, metrics["loss"])

        return jax.vmap(one)(plans, keys) if len(keys) > 1 else one(jax.tree.map(lambda x: x[0], plans), keys[0])[None]

    return run


def _curve(test: _Test, losses: np.ndarray) -> LRCurve:
    """The curve up to where the test ends."""
    end, reason = stopping_point(losses, smooth_losses(losses, test.beta)) or (len(test.rates), "completed")
    losses, rates = losses[:end], test.rates[:end]
    group_lrs = rates[:, None] * test.ratios
    return LRCurve(rates, losses, smooth_losses(losses, test.beta), reason, group_lrs, len(test.rates))


def _ratios(lrs: Sequence[float]) -> np.ndarray:
    """Rates relative to the last group's: float64 [groups]."""
    values = np.asarray(lrs, np.float64)
    if values.ndim != 1 or not len(values) or not np.isfinite(values).all() or (values < 0).any() or values[-1] == 0:
        raise ValueError(f"lrs={tuple(lrs)} must be one finite rate per layer group, none negative, the last positive")
    return values / values[-1]


def _passes(loader: AnyLoader, seed: int, num_batches: int) -> Iterator[tuple[int, int]]:
    """(epoch, batches taken from it) until there are `num_batches`.

    The epochs have numbers beyond 2^32, where no run gets and each seed has its own.
    """
    epoch = (seed + 1) << 32
    while num_batches > 0:
        count = min(num_batches, len(loader))
        yield epoch, count
        num_batches -= count
        epoch += 1


def _recycled(loader: AnyLoader, seed: int, num_batches: int) -> Iterator[Batch]:
    """`num_batches` batches, in as many passes through the data as that takes."""
    for epoch, count in _passes(loader, seed, num_batches):
        yield from itertools.islice(loader.epoch(epoch), count)


def _recycled_plan(loader: ActivationLoader, seed: int, num_batches: int) -> Plan:
    """The same batches as `_recycled`, as numbers of examples and rows."""
    parts = [
        [values[:count] for values in loader.epoch_rows(epoch)] for epoch, count in _passes(loader, seed, num_batches)
    ]
    positions, rows = (np.concatenate(column) for column in zip(*parts, strict=True))
    return Plan(positions, rows)
