"""Whether a classifier is as often right as it says, as a picture."""

from typing import TYPE_CHECKING

import numpy as np

from jaxclf.metrics import ReliabilityCurve, calibration_error
from jaxclf.plots.style import GREY, PALETTE, add_legend, axes_or_new, tidy

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Share of the height that the bar of the fullest bin takes.
BAR_HEIGHT = 0.3


def plot_reliability(
    curve: ReliabilityCurve, ax: "Axes | None" = None, *, after: ReliabilityCurve | None = None
) -> "Axes":
    """Accuracy over confidence, bin by bin, beside the diagonal on which a calibrated classifier lies.

    Points below the diagonal are too sure, those above not sure enough. The area of a point grows with the pictures in
    its bin, and so do the grey bars, whose scale is on the right: few pictures say little.

    Args:
      curve: from `jaxclf.metrics.reliability_curve`.
      after: of the same examples once calibrated, drawn as a second line.

    Raises:
      ValueError: for a curve of no examples.
    """
    total = int(curve.counts.sum())
    if total == 0:
        raise ValueError("the reliability curve is of no examples: there is nothing to draw")
    ax = axes_or_new(ax, 5.0, 4.4)
    right = ax.twinx()
    right.bar(curve.edges[:-1], curve.counts, np.diff(curve.edges), align="edge", color="0.88", edgecolor="white")
    right.set_ylim(0.0, float(curve.counts.max()) / BAR_HEIGHT)
    right.set_ylabel("pictures", color=GREY)
    right.set_yticks([0, int(curve.counts.max())])
    right.tick_params(length=0, colors=GREY)
    right.spines[:].set_visible(False)
    ax.set_zorder(right.get_zorder() + 1)  # the bars lie behind
    ax.patch.set_visible(False)
    filled = curve.counts > 0
    confidence, accuracy = curve.confidence[filled], curve.accuracy[filled]
    ax.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle="--", label="as right as it says")
    ax.vlines(confidence, confidence, accuracy, color=PALETTE[1], linewidth=1.5, label="gap")
    ax.plot(confidence, accuracy, color=PALETTE[0], linewidth=1)
    sizes = 12.0 + 60.0 * curve.counts[filled] / curve.counts.max()
    ax.scatter(confidence, accuracy, s=sizes, color=PALETTE[0], zorder=3)
    if after is not None:
        kept = after.counts > 0
        dots = ax.plot(after.confidence[kept], after.accuracy[kept], color=PALETTE[2], label="after calibration")
        dots[0].set(marker="s", markersize=4)
        add_legend(ax)
    tidy(ax, x="confidence", y="accuracy")
    ax.set(xlim=(0.0, 1.02), ylim=(0.0, 1.04))
    ax.set_title(
        f"{total} pictures, calibration error {calibration_error(curve):.3f}", loc="left", fontsize=9, parse_math=False
    )
    return ax
