"""Learning rates: a schedule over its steps, and the curve of a learning-rate finder."""

import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from jaxclf.plots.style import GREY, PALETTE, add_legend, axes_or_new, marker, tidy, whole_numbers
from jaxclf.training.lr_curve import LRBand, LRCurve
from jaxclf.training.optimizer import GROUPS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Rates further apart than this are drawn on a logarithmic axis.
LOG_RATIO = 5.0
#: Share of the axis that is kept free above the lines, for their legend.
HEADROOM = 0.15
MARKERS = ("o", "s", "^", "D", "v", "P")


def schedule_values(schedule: Callable[[Any], Any], num_steps: int) -> np.ndarray:
    """A schedule at steps 0 .. num_steps - 1: float32 [num_steps]. Takes optax's schedules as well."""
    if num_steps < 1:
        raise ValueError(f"num_steps={num_steps} must be at least 1")
    steps = np.arange(num_steps, dtype=np.int32)
    return np.asarray(jax.jit(jax.vmap(schedule))(steps), np.float32)


def group_titles(num_groups: int) -> tuple[str, ...]:
    """What each layer group holds, for a legend.

    >>> group_titles(3)
    ('stem to stage2', 'stage3, stage4', 'head')
    """
    if num_groups not in GROUPS:
        return tuple(f"group {number}" for number in range(num_groups))
    if num_groups == 1:
        return ("all layers",)
    return tuple(", ".join(group) if len(group) < 3 else f"{group[0]} to {group[-1]}" for group in GROUPS[num_groups])


def plot_schedule(
    schedule: Callable[[Any], Any],
    num_steps: int,
    *,
    lrs: Sequence[float] | None = None,
    momentum: Callable[[Any], Any] | float | None = None,
    ax: "Axes | None" = None,
) -> "Axes":
    """A schedule over steps 0 .. num_steps - 1: its multiplier, or the learning rate of each layer group.

    Args:
      schedule: step -> multiplier.
      num_steps: >= 1.
      lrs: one rate per layer group, earliest layers first; `None` draws the multiplier itself.
      momentum: a number, or step -> momentum; drawn against an axis of its own at the right.
    """
    values = schedule_values(schedule, num_steps)
    ax = axes_or_new(ax)
    if lrs is None:
        _line(ax, np.arange(num_steps), values, PALETTE[0], "multiplier")
        tidy(ax, x="step", y="multiplier")
    else:
        draw_rates(ax, np.arange(num_steps), values[:, None] * np.asarray(lrs, np.float64))
        tidy(ax, x="step", y="learning rate")
    whole_numbers(ax)
    if momentum is not None:
        values = schedule_values(momentum if callable(momentum) else lambda _: np.float32(momentum), num_steps)
        draw_momentum(ax, np.arange(num_steps), values)
    return ax


def draw_rates(ax: "Axes", steps: np.ndarray, rates: np.ndarray) -> None:
    """A line per layer group, `rates` [n, groups]; logarithmic where the groups lie far apart."""
    for number, title in enumerate(group_titles(rates.shape[1])):
        _line(ax, steps, rates[:, number], PALETTE[number % len(PALETTE)], title)
    # Groups with the same rates lie on top of each other: one line stands for all.
    if rates.shape[1] > 1 and np.array_equal(rates, np.broadcast_to(rates[:, :1], rates.shape), equal_nan=True):
        for line in ax.lines[1:]:
            line.set_visible(False)
        ax.lines[0].set_label("all layers")
    peaks = np.nanmax(rates, axis=0)
    if peaks.min() > 0 and peaks.max() > LOG_RATIO * peaks.min():
        ax.set_yscale("log")
        # A cosine ends next to zero, and its last step alone would take half the axis.
        low, high = peaks.min() / 300, peaks.max()
        ax.set_ylim(low, high * (high / low) ** HEADROOM)
    else:
        ax.set_ylim(0, float(peaks.max()) * (1 + HEADROOM) or 1.0)
    if rates.shape[1] > 1:
        add_legend(ax, loc="upper center", ncols=6)


def draw_momentum(ax: "Axes", steps: np.ndarray, momentum: np.ndarray) -> None:
    """Momentum as a dashed grey line against an axis at the right."""
    right = ax.twinx()
    right.plot(steps, momentum, color=GREY, linestyle="--", linewidth=1.2, label="momentum")
    right.set_ylabel("momentum (dashed)", color=GREY)
    right.set_ylim(min(0.8, float(np.nanmin(momentum)) - 0.02), 1.0)
    right.spines[["top", "left"]].set_visible(False)


def _line(ax: "Axes", x: np.ndarray, y: np.ndarray, color: str, label: str) -> None:
    ax.plot(x, y, color=color, label=label, linewidth=1.5, marker=marker(len(x)))


def plot_lr_curve(
    curve: LRCurve, *, suggestions: Mapping[str, float | None] | None = None, ax: "Axes | None" = None
) -> "Axes":
    """Loss over learning rate on a logarithmic axis: smoothed in bold, raw behind it, suggestions marked.

    The loss axis shows where the curve comes from and how low it gets; of the divergence after that only the beginning.

    Args:
      curve: the finder's result.
      suggestions: rule -> rate, or None where the rule gave none, which the legend says.
    """
    lrs, losses, smoothed = (np.asarray(values, np.float64) for values in (curve.lrs, curve.losses, curve.smoothed))
    ax = axes_or_new(ax)
    ax.set_xscale("log")
    ends = [*lrs[[0, -1]], *(rate for rate in (suggestions or {}).values() if rate is not None)]
    ax.set_xlim(min(ends) / 1.6, max(ends) * 1.6)
    ax.plot(lrs, losses, color="0.75", linewidth=0.9, marker=marker(len(lrs)), label="raw")
    ax.plot(lrs, smoothed, color=PALETTE[0], linewidth=2.2, marker=marker(len(lrs)), label="smoothed")
    tidy(ax, x="learning rate of the last layer group", y="training loss")
    limits = loss_limits(losses, smoothed)
    if limits is not None:
        ax.set_ylim(*limits)
    for number, (rule, rate) in enumerate((suggestions or {}).items()):
        color, symbol = PALETTE[1:][number % 5], MARKERS[number % len(MARKERS)]
        if rate is None:
            ax.plot([], [], linestyle="", label=f"{rule}: none")
            continue
        label = f"{rule}: {rate:.2g}"
        finite = np.isfinite(smoothed)
        ax.axvline(rate, color=color, linewidth=1, linestyle=":", label="" if finite.any() else label)
        if finite.any():
            height = np.interp(np.log(rate), np.log(lrs[finite]), smoothed[finite])
            ax.plot([rate], [height], linestyle="", marker=symbol, color=color, zorder=5, label=label)
    add_legend(ax)
    reason = "\n".join(textwrap.wrap(curve.reason, 88))  # matplotlib's own wrapping would read mathematics into it
    ax.set_title(reason, fontsize=8, color=GREY, loc="left", parse_math=False)
    return ax


def plot_lr_band(
    band: LRBand, *, suggestions: Mapping[str, float | None] | None = None, ax: "Axes | None" = None
) -> "Axes":
    """The learning-rate test over several seeds: the median as `plot_lr_curve` draws it, the middle 80 % around it.

    Args:
      band: from `jaxclf.training.lr_finder.find_lr_band`.
      suggestions: of its `middle()`.
    """
    middle = band.middle()
    ax = plot_lr_curve(middle, suggestions=suggestions, ax=ax)
    low, high = (values[: len(middle.lrs)] for values in band.bounds())
    ax.fill_between(middle.lrs, low, high, color=PALETTE[0], alpha=0.2, linewidth=0, label="middle 80 % of seeds")
    add_legend(ax)
    return ax


def loss_limits(losses: np.ndarray, smoothed: np.ndarray) -> tuple[float, float] | None:
    """Limits of the loss axis that the divergence at the end does not stretch; None where no loss is finite.

    From just below the lowest smoothed loss to just above the highest one before it, and never so close that the raw
    losses up to there (all but their extreme tenth) fall outside.
    """
    finite = np.flatnonzero(np.isfinite(smoothed))
    if len(finite) == 0:
        return None
    best = finite[np.argmin(smoothed[finite])]
    before = finite[finite <= best]
    raw = losses[: best + 1][np.isfinite(losses[: best + 1])]
    spread = np.quantile(raw, [0.05, 0.95]) if len(raw) else smoothed[before][:1]
    low = min(float(smoothed[best]), float(spread[0]))
    high = max(float(smoothed[before].max()), float(spread[-1]))
    if high - low < 1e-3 * max(abs(high), 1e-6):  # the loss never fell: what follows is the curve
        high = min(float(smoothed[finite].max()), low + 2 * abs(low))
    margin = 0.12 * (high - low) or max(0.1 * abs(high), 1e-3)
    return low - margin, high + 2 * margin
