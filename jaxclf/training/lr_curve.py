"""The learning-rate curve: losses against a growing rate, where the test ends, and which rate to take from it.

Pure functions of arrays; `jaxclf.training.lr_finder` records the curve.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

#: A test needs this many steps: fewer leave too little between the ends that the rules drop.
MIN_STEPS = 20
#: The test ends where, from this step on, the smoothed loss is this many times the lowest before it.
DIVERGENCE_AFTER, DIVERGENCE_FACTOR = 10, 4.0
#: Points at the end of the curve that no rule looks at.
DROPPED_TAIL = 5
#: `valley` counts in thirds and sixths of a fall, so it needs one of this many points.
MIN_VALLEY = 6
#: `slide` compares slopes this many points apart, and calls them equal within this difference of loss per step.
SLIDE_WIDTH, SLIDE_THRESHOLD = 15, 0.005

#: `edge` stays below the rate at which the test ended by this factor.
EDGE_FACTOR = 20.0


class LRCurve(NamedTuple):
    """What the learning-rate test measured, one row per step.

    Attributes:
      lrs: float64 [n], the last layer group's rate at each step, growing.
      losses: float64 [n], training loss of each step's batch, before its update; finite.
      smoothed: float64 [n], see `smooth_losses`.
      reason: why the curve ends where it does, in words.
      group_lrs: float64 [n, groups], the rates of all layer groups; None where only one is known.
      num_steps: steps the test was meant to have, >= n; None means n.
    """

    lrs: np.ndarray
    losses: np.ndarray
    smoothed: np.ndarray
    reason: str
    group_lrs: np.ndarray | None = None
    num_steps: int | None = None


class LRBand(NamedTuple):
    """The learning-rate test repeated over seeds: a band of losses in place of a line.

    Attributes:
      lrs: float64 [n], the last layer group's rate at each step, growing.
      losses: float64 [seeds, n], each test's losses; NaN from where it ended.
      smoothed: float64 [seeds, n], see `smooth_losses`; NaN likewise.
      reasons: why each test ended where it did.
      group_lrs: float64 [n, groups], the rates of all layer groups.
    """

    lrs: np.ndarray
    losses: np.ndarray
    smoothed: np.ndarray
    reasons: tuple[str, ...]
    group_lrs: np.ndarray

    def curve(self, number: int) -> LRCurve:
        """The test of seed number `number` alone."""
        end = int(np.isfinite(self.losses[number]).sum())
        return self._until(end, self.losses[number], self.smoothed[number], self.reasons[number])

    def middle(self) -> LRCurve:
        """The median of the seeds' losses at each step, as far as half of them got: what the rules can be asked."""
        end = int((np.isfinite(self.losses).sum(0) * 2 > len(self.losses)).sum())
        losses, smoothed = (np.nanmedian(values[:, :end], axis=0) for values in (self.losses, self.smoothed))
        return self._until(
            end, losses, smoothed, f"median of {len(self.losses)} seeds, as far as more than half of them got"
        )

    def bounds(self, low: float = 0.1, high: float = 0.9) -> tuple[np.ndarray, np.ndarray]:
        """Quantiles over the seeds of the smoothed losses along `middle()`: two float64 [m], the band's edges."""
        end = len(self.middle().lrs)
        lower, upper = np.nanquantile(self.smoothed[:, :end], [low, high], axis=0)
        return lower, upper

    def _until(self, end: int, losses: np.ndarray, smoothed: np.ndarray, reason: str) -> LRCurve:
        return LRCurve(self.lrs[:end], losses[:end], smoothed[:end], reason, self.group_lrs[:end], len(self.lrs))


class Suggestion(NamedTuple):
    """A rule's answer. `float(suggestion)` is the rate, and raises ValueError where there is none.

    Attributes:
      rule: one of `RULES`.
      lr: the suggested rate of the last layer group, or None where the rule does not apply.
      reason: how the rate was found, or why there is none.
    """

    rule: str
    lr: float | None
    reason: str

    def __float__(self) -> float:
        if self.lr is None:
            raise ValueError(f"rule {self.rule!r} suggests no learning rate: {self.reason}")
        return self.lr


def growing_lrs(low: float, high: float, num_steps: int) -> np.ndarray:
    """The rates of the test: lr_k = low * (high / low) ** (k / (num_steps - 1)), k = 0 .. num_steps - 1.

    Returns:
      float64 [num_steps]; both ends are `low` and `high` to the bit.

    Raises:
      ValueError: unless 0 < low < high and `num_steps` is at least `MIN_STEPS`.

    References: the learning-rate range test, Smith, arXiv:1506.01186.
    """
    if num_steps != int(num_steps) or num_steps < MIN_STEPS:
        raise ValueError(f"num_steps={num_steps!r} must be a whole number of at least {MIN_STEPS}")
    if not (0 < low < high and math.isfinite(high)):
        raise ValueError(f"low={low!r} and high={high!r} must be finite with 0 < low < high")
    lrs = low * (high / low) ** (np.arange(num_steps) / (num_steps - 1))
    lrs[0], lrs[-1] = low, high
    return lrs


def smooth_losses(losses: Sequence[float] | np.ndarray, beta: float = 0.98) -> np.ndarray:
    """Exponential moving average, corrected for its start at zero.

    m_k = beta * m_(k-1) + (1 - beta) * loss_k with m_(-1) = 0; smoothed_k = m_k / (1 - beta ** (k + 1)).

    Returns:
      float64 [n]. Entry k depends on entries up to k alone; from a loss that is not finite on, nothing is.

    Raises:
      ValueError: for a beta outside [0, 1); 0 smoothes nothing.

    >>> smooth_losses([2.0, 2.0, 5.0], beta=0.5).round(3).tolist()
    [2.0, 2.0, 3.714]
    """
    if not 0 <= beta < 1:
        raise ValueError(f"beta={beta!r} must lie in [0, 1)")
    values = np.asarray(losses, np.float64).tolist()
    average = list(itertools.accumulate(values, lambda m, loss: beta * m + (1 - beta) * loss, initial=0.0))[1:]
    return np.asarray(average, np.float64) / (1 - beta ** np.arange(1.0, len(values) + 1))


def stopping_point(losses: np.ndarray, smoothed: np.ndarray) -> tuple[int, str] | None:
    """Where the test ends: how many points the curve keeps, and why. None where it may go on.

    A loss that is not finite ends it before that step. From step `DIVERGENCE_AFTER` on (counted from 0), a smoothed
    loss above `DIVERGENCE_FACTOR` times the lowest so far ends it with that step. More losses do not change the answer.

    >>> stopping_point(np.ones(30), np.ones(30)) is None
    True
    >>> stopping_point(np.array([1.0, np.inf]), np.array([1.0, np.inf]))
    (1, 'the loss is inf at step 1')
    """
    finite = np.isfinite(losses)
    end = int(finite.argmin()) if not finite.all() else len(losses)
    best = np.minimum.accumulate(smoothed[:end])
    diverged = smoothed[:end] > DIVERGENCE_FACTOR * best
    diverged[:DIVERGENCE_AFTER] = False
    if diverged.any():
        step = int(diverged.argmax())
        return step + 1, (
            f"diverged at step {step}: the smoothed loss {smoothed[step]:.4g} is more than {DIVERGENCE_FACTOR:g} times "
            f"the lowest, {best[step]:.4g}"
        )
    return (end, f"the loss is {losses[end]} at step {end}") if end < len(losses) else None


#: (lrs, smoothed losses) of the points a rule may look at -> (rate or None, reason).
_Rule = Callable[[np.ndarray, np.ndarray], tuple[float | None, str]]


def _valley(lrs: np.ndarray, losses: np.ndarray) -> tuple[float | None, str]:
    lengths = np.ones(len(losses), int)  # of the longest decreasing subsequence that ends here
    for i in range(1, len(losses)):
        lengths[i] += lengths[:i][losses[:i] > losses[i]].max(initial=0)
    end = int(lengths.argmax())
    length = int(lengths[end])
    if length < MIN_VALLEY:
        return None, f"the loss never falls for long: its longest fall has {length} points of {len(losses)}"
    # The subsequence may skip points. Counted back from its end, as if it were one run, the point lies in the fall
    # itself even where the subsequence began with scattered points of a noisy plateau.
    start = end - length + 1
    return float(lrs[start + length // 3 + length // 6]), f"middle of the longest fall, {length} points long"


def _minimum(lrs: np.ndarray, losses: np.ndarray) -> tuple[float | None, str]:
    lowest = int(losses.argmin())
    if lowest == 0:
        return None, "the loss is lowest at the first rate looked at: it never falls below its start"
    still = "; the loss still falls there, so a test up to a higher rate may say more"
    last = lowest == len(losses) - 1
    return float(lrs[lowest]) / 10, f"a tenth of the rate {lrs[lowest]:.3g}, where the loss is lowest{still * last}"


def _steep(lrs: np.ndarray, losses: np.ndarray) -> tuple[float | None, str]:
    slopes = np.diff(losses) / np.diff(np.log(lrs))
    steepest = int(slopes.argmin())
    if not slopes[steepest] < 0:
        return None, "the loss never falls"
    return float(lrs[steepest]), f"where the loss falls fastest, by {-slopes[steepest]:.3g} per e-fold of the rate"


def _slide(lrs: np.ndarray, losses: np.ndarray) -> tuple[float | None, str]:
    if len(losses) <= SLIDE_WIDTH:
        return None, f"it compares slopes {SLIDE_WIDTH} points apart, and there are only {len(losses)} points"
    slopes = np.gradient(losses)
    apart = np.abs(slopes[SLIDE_WIDTH:] - slopes[:-SLIDE_WIDTH]) > SLIDE_THRESHOLD  # by the interval's left end
    if not apart[-1]:
        return None, f"the slopes at the right end of the curve agree within {SLIDE_THRESHOLD}: no sharp rise to leave"
    if apart.all():
        return None, f"no two slopes {SLIDE_WIDTH} points apart agree within {SLIDE_THRESHOLD} left of the rise"
    left = len(apart) - int(np.argmin(apart[::-1]))  # the last interval, from the right, whose slopes still differ
    return float(lrs[left]), "left end of the last interval before the slopes agree, coming from the sharp rise"


_FUNCTIONS: dict[str, _Rule] = {"valley": _valley, "minimum": _minimum, "steep": _steep, "slide": _slide}
#: The rules by name.
RULES = (*_FUNCTIONS, "edge")


def _edge(curve: LRCurve) -> tuple[float | None, str]:
    if curve.num_steps is None or len(curve.lrs) == curve.num_steps:
        return None, "the test went to its end: the loss leaves at no rate that was tried"
    end = float(curve.lrs[-1])
    return end / EDGE_FACTOR, f"a twentieth of the rate {end:.3g}, where the test ended: {curve.reason}"


def suggest_lr(curve: LRCurve, rule: str = "valley") -> Suggestion:
    """The rate that a rule reads off a curve, or why it reads none.

    Every rule looks at the smoothed losses without the first tenth of the test and the last five points.

    valley: the longest strictly decreasing subsequence, L points long, with s its start (its end - L + 1): the rate of
      point s + L // 3 + L // 6, about its middle. Needs a fall of `MIN_VALLEY` points.
    minimum: a tenth of the rate with the lowest loss. Needs a loss below the first one.
    steep: the rate where d loss / d log(rate) is most negative. Needs a loss that falls somewhere.
    slide: an interval of 15 points slides down from the last point while the slopes (loss per step) at its two ends
      differ by more than .005; the rate at the left end of the last that does. Needs such an interval at the right end,
      and one that is not further down. The only rule that depends on the loss's scale.
    edge: a twentieth of the rate at which the test ended before its time, as the loss left (all points count). For a
      network that is trained, or a head that is solved: there is no fall left to look for, and where it breaks is the
      same within a factor of two over seeds, where `valley` and `minimum` spread by more, or find nothing.

    Where another rule applies, its rate is fastai 2.8's, with three differences on purpose. fastai's `valley` starts
    one point before the fall, so its rate is one step lower. Where a rule does not apply, fastai returns a rate all the
    same, or fails on an index. Where the loss stops being a number, fastai goes on, and the five points it drops are
    such, so the last of the blow-up count; here the curve has ended before them and loses five more.

    Returns:
      The suggestion; its `lr` is None, and its `reason` says why, where the rule does not apply.

    Raises:
      ValueError: for a rule that is not one of `RULES`.

    References: the range test, Smith, arXiv:1506.01186.

    >>> lrs = growing_lrs(1e-5, 1.0, 50)
    >>> losses = (np.log10(lrs) + 2) ** 2
    >>> round(float(suggest_lr(LRCurve(lrs, losses, losses, "completed"), "minimum")), 6)
    0.00091
    """
    if rule not in RULES:
        raise ValueError(f"rule={rule!r} is not known; choose one of {', '.join(RULES)}")
    first = (len(curve.lrs) if curve.num_steps is None else curve.num_steps) // 10
    usable = slice(first, max(len(curve.lrs) - DROPPED_TAIL, first))
    lrs, losses = np.asarray(curve.lrs)[usable], np.asarray(curve.smoothed)[usable]
    if len(lrs) < 2:
        short = f"the curve is too short: {len(curve.lrs)} points, of which the first {first} and the last "
        return Suggestion(rule, None, f"{short}{DROPPED_TAIL} do not count ({curve.reason})")
    if not np.isfinite(losses).all():
        raise ValueError("curve.smoothed holds values that are not finite; end the curve before them")
    return Suggestion(rule, *(_edge(curve) if rule == "edge" else _FUNCTIONS[rule](lrs, losses)))


def suggestions(curve: LRCurve) -> dict[str, Suggestion]:
    """What every rule says, by name."""
    return {rule: suggest_lr(curve, rule) for rule in RULES}
