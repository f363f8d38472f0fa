"""Whether a classifier is as often right as it says."""

from typing import TYPE_CHECKING

import numpy as np

from jaxclf.metrics import ReliabilityCurve
from jaxclf.plots.style import GREY, PALETTE, add_legend, axes_or_new, tidy

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Area in square points of a bin's dot that holds all examples, and of one that holds hardly any.
LARGEST_DOT, SMALLEST_DOT = 260.0, 9.0


def plot_reliability(
    curve: ReliabilityCurve, *, after: ReliabilityCurve | None = None, ax: "Axes | None" = None
) -> "Axes":
    """Share of right answers over the confidence they were given with; on the diagonal, both are the same.

    A dot's area is its bin's share of the examples.

    Args:
      curve: from `jaxclf.metrics.reliability_curve`.
      after: the same for calibrated probabilities.
      ax: where to draw; `None` makes a figure.
    """
    ax = axes_or_new(ax, 4.4, 4.0)
    ax.plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=1, label="as sure as right")
    for each, color, label in ((curve, PALETTE[0], "as trained"), (after, PALETTE[1], "calibrated, held out")):
        if each is None:
            continue
        filled = each.counts > 0
        sizes = SMALLEST_DOT + LARGEST_DOT * each.counts[filled] / each.counts.sum()
        ax.plot(each.confidence[filled], each.accuracy[filled], color=color, linewidth=1.2, label=label)
        ax.scatter(each.confidence[filled], each.accuracy[filled], s=sizes, color=color, alpha=0.75, linewidths=0)
    tidy(ax, x="confidence", y="share that is right")
    ax.set_xlim(-0.03, 1.03)
    ax.set_ylim(-0.03, 1.06)
    ticks = np.linspace(0.0, 1.0, 6)
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_ticks(ticks, [f"{tick:.0%}" for tick in ticks])
    add_legend(ax)
    return ax
