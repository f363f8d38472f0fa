"""What each step of a recipe brought, over the time it took."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from jaxclf.metrics import accuracy_standard_error
from jaxclf.plots.style import GREY, PALETTE, axes_or_new, tidy

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def plot_steps(
    steps: Sequence[Mapping[str, Any]],
    *,
    metric: Literal["loss", "accuracy"] = "accuracy",
    num_examples: int | None = None,
    ax: "Axes | None" = None,
) -> "Axes":
    """Validation loss or accuracy after each step, over the seconds since the run began; dots bear the step's number.

    Args:
      steps: `steps` of a run's summary, each with `seconds`, `loss` and `accuracy`; None where it was not measured.
      metric: which figure.
      num_examples: of the validation set; draws two standard errors around an accuracy.
      ax: where to draw; `None` makes a figure.

    Raises:
      ValueError: for another metric, or no steps.
    """
    if metric not in ("loss", "accuracy"):
        raise ValueError(f"metric={metric!r} must be 'loss' or 'accuracy'")
    if not steps:
        raise ValueError("there are no steps to plot")
    ends = np.cumsum([float(step.get("seconds") or 0.0) for step in steps])
    unit, name = (60.0, "minutes") if ends[-1] > 300 else (1.0, "seconds")
    values = np.array([np.nan if step.get(metric) is None else step[metric] for step in steps], np.float64)
    ax = axes_or_new(ax)
    known = np.isfinite(values)
    ax.plot(ends[known] / unit, values[known], color=PALETTE[0], linewidth=1.5, marker="o", markersize=5)
    if metric == "accuracy" and num_examples:
        errors = [2 * accuracy_standard_error(min(max(float(v), 0.0), 1.0), num_examples) for v in values[known]]
        ax.errorbar(ends[known] / unit, values[known], errors, color=PALETTE[0], linewidth=1, capsize=3, linestyle="")
    for number in np.flatnonzero(known):
        place = (ends[number] / unit, values[number])
        ax.annotate(str(number + 1), place, (5, 5), textcoords="offset points", fontsize=9, color=GREY)
    tidy(ax, x=f"{name} since the start", y=f"validation {metric}")
    ax.set_xlim(left=0)
    ax.margins(y=0.15)
    return ax
