"""Training curves from the rows that `jaxclf.fit` returns and a RUN's `metrics.jsonl` holds, and a recipe's steps."""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from jaxclf._words import shorten
from jaxclf.config import METRICS
from jaxclf.metrics import accuracy_standard_error
from jaxclf.plots.rates import draw_momentum, draw_rates
from jaxclf.plots.style import (
    GREY,
    PALETTE,
    add_legend,
    axes_or_new,
    color_bar,
    marker,
    new_figure,
    tidy,
    whole_numbers,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Row = dict[str, Any]
Metric = Literal["loss", "accuracy"]


class History(NamedTuple):
    """Rows of one kind as arrays, phases laid end to end.

    Attributes:
      rows: the rows.
      position: int [n], the step (or the epoch, counted from 1) from the start of the run.
      phases: (name, first position, last position) of each phase.
    """

    rows: list[Row]
    position: np.ndarray
    phases: tuple[tuple[str, int, int], ...]

    def values(self, name: str) -> np.ndarray:
        """float64 [n] of a field, NaN where a row lacks it."""
        return np.array([np.nan if row.get(name) is None else row[name] for row in self.rows], np.float64)


def read_rows(run: str | os.PathLike[str]) -> list[Row]:
    """The rows of a RUN folder, or of a `metrics.jsonl` itself.

    Raises:
      ValueError: naming the file, if it is missing or a line is not a JSON object.
    """
    path = Path(run) / METRICS if Path(run).is_dir() else Path(run)
    if not path.is_file():
        raise ValueError(f"{path} does not exist; give a RUN folder or its {METRICS}")
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            row = json.loads(line)
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: not JSON: {error}") from error
        if not isinstance(row, dict):
            raise ValueError(f"{path}, line {number}: not a JSON object")
        rows.append(row)
    return rows


def history(rows: Iterable[Row], kind: Literal["step", "epoch"]) -> History:
    """Rows of one kind on one axis, although every phase counts its steps and epochs from zero.

    Args:
      rows: in the order they were written; rows of another kind are passed over.

    Raises:
      ValueError: if there is no such row.
    """
    chosen = [row for row in rows if row.get("kind", kind) == kind]
    if not chosen:
        raise ValueError(f"there are no rows of kind {kind!r} to plot")
    inside = [int(row[kind]) + (kind == "epoch") for row in chosen]
    starts = [0] + [
        number
        for number in range(1, len(chosen))
        if chosen[number].get("phase") != chosen[number - 1].get("phase") or inside[number] <= inside[number - 1]
    ]
    position = np.array(inside)
    phases = []
    done = 0
    for start, end in zip(starts, [*starts[1:], len(chosen)], strict=True):
        position[start:end] += done
        last = int(position[end - 1])
        phases.append((str(chosen[start].get("phase", "")), done + (kind == "epoch"), last))
        done = last + (kind == "step")  # the last step of a phase is always logged; steps count from 0, epochs from 1
    return History(chosen, position, tuple(phases))


def _mark_phases(ax: "Axes", phases: Sequence[tuple[str, int, int]], between: float) -> None:
    """A line before each phase but the first, and each phase's name above its part; nothing for a single phase."""
    if len(phases) == 1:
        return
    total = max(phases[-1][2] - phases[0][1], 1)
    for number, (name, first, last) in enumerate(phases):
        if number:
            ax.axvline(first - between, color=GREY, linewidth=0.8, linestyle=":")
        room = int(60 * (last - first + 1) / total)  # characters that fit above this part
        text = name if len(name) <= room else shorten(name, room) if room >= 5 else str(number + 1)
        place: dict[str, Any] = {"transform": ax.get_xaxis_transform(), "ha": "center", "va": "bottom"}
        ax.text((first + last) / 2, 1.01, text, fontsize=8, color=GREY, parse_math=False, **place)


def plot_rates(rows: Iterable[Row], *, ax: "Axes | None" = None) -> "Axes":
    """The learning rate of each layer group over the steps, and momentum where the step rows have it."""
    steps = history(rows, "step")
    num_groups = max(len(row["lrs"]) for row in steps.rows)
    rates = np.full((len(steps.rows), num_groups), np.nan)
    for number, row in enumerate(steps.rows):
        rates[number, : len(row["lrs"])] = row["lrs"]
    ax = axes_or_new(ax)
    draw_rates(ax, steps.position, rates)
    tidy(ax, x="step", y="learning rate")
    whole_numbers(ax)
    momentum = steps.values("momentum")
    if np.isfinite(momentum).any():
        draw_momentum(ax, steps.position, momentum)
    _mark_phases(ax, steps.phases, 0.5)
    return ax


def plot_losses(rows: Iterable[Row], *, ax: "Axes | None" = None) -> "Axes":
    """The training loss of each logged step; takes step rows, of one phase or several in turn."""
    steps = history(rows, "step")
    ax = axes_or_new(ax)
    dots = marker(len(steps.rows))
    ax.plot(steps.position, steps.values("loss"), color=PALETTE[0], linewidth=1.2, marker=dots, label="training")
    tidy(ax, x="step", y="training loss")
    whole_numbers(ax)
    _mark_phases(ax, steps.phases, 0.5)
    return ax


def plot_loss_over_rate(rows: Iterable[Row], *, ax: "Axes | None" = None) -> "Axes":
    """Each step row's training loss over its learning rate (of the last layer group), early steps light."""
    from matplotlib.colors import LinearSegmentedColormap, Normalize

    steps = history(rows, "step")
    rates = np.array([row["lrs"][-1] for row in steps.rows])
    ax = axes_or_new(ax)
    ax.set_xscale("log")
    tidy(ax, x="learning rate of the last layer group", y="training loss")
    colors = LinearSegmentedColormap.from_list("steps", ["#cfe3f2", PALETTE[0], "#00263b"])
    norm = Normalize(0, max(int(steps.position[-1]), 1))
    # A rate of zero, at the end of a schedule, has no place on this axis.
    dots = ax.scatter(
        rates[rates > 0],
        steps.values("loss")[rates > 0],
        c=steps.position[rates > 0],
        cmap=colors,
        norm=norm,
        s=14,
        edgecolors="0.4",
        linewidths=0.3,
    )
    color_bar(ax, dots, "step")
    return ax


def plot_epochs(rows: Iterable[Row], *, metric: Metric = "loss", ax: "Axes | None" = None) -> "Axes":
    """Training and validation loss (or accuracy) of each epoch row, of one phase or several in turn."""
    _check_metric(metric)
    epochs = history(rows, "epoch")
    ax = axes_or_new(ax)
    for name, title, color, symbol in (
        ("train", "training", PALETTE[0], "o"),
        ("valid", "validation", PALETTE[1], "s"),
    ):
        values = epochs.values(f"{name}_{metric}")
        if np.isfinite(values).any():
            ax.plot(epochs.position, values, color=color, marker=symbol, markersize=4, linewidth=1.5, label=title)
    tidy(ax, x="epoch", y=metric)
    whole_numbers(ax)
    if ax.lines:
        add_legend(ax)
    _mark_phases(ax, epochs.phases, 0.5)
    return ax


def show_epochs(rows: Iterable[Row]) -> "Figure":
    """`plot_epochs` of the loss and of the accuracy, side by side."""
    rows = list(rows)
    figure = new_figure(10.0, 4.0)
    plot_epochs(rows, metric="loss", ax=figure.add_subplot(1, 2, 1))
    plot_epochs(rows, metric="accuracy", ax=figure.add_subplot(1, 2, 2))
    return figure


def plot_steps(
    steps: Sequence[Mapping[str, Any]],
    *,
    metric: Metric = "accuracy",
    num_examples: int | None = None,
    ax: "Axes | None" = None,
) -> "Axes":
    """Validation loss or accuracy after each step, over the seconds since the run began; dots bear the step's number.

    Args:
      steps: `steps` of a run's summary, each with `seconds`, `loss` and `accuracy`; None where it was not measured.
      num_examples: of the validation set; draws two standard errors around an accuracy.

    Raises:
      ValueError: for another metric, or no steps.
    """
    _check_metric(metric)
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


def _check_metric(metric: str) -> None:
    if metric not in ("loss", "accuracy"):
        raise ValueError(f"metric={metric!r} must be 'loss' or 'accuracy'")
