"""Training curves from the rows that `jaxclf.fit` returns and a RUN's `metrics.jsonl` holds."""

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from jaxclf._words import shorten
from jaxclf.config import METRICS
from jaxclf.plots.rates import draw_momentum, draw_rates
from jaxclf.plots.style import GREY, PALETTE, add_legend, axes_or_new, marker, new_figure, tidy, whole_numbers

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Row = dict[str, Any]


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
        ax.text(
            (first + last) / 2,
            1.01,
            text,
            transform=ax.get_xaxis_transform(),
            ha="center",
            va="bottom",
            fontsize=8,
            color=GREY,
            parse_math=False,
        )


def plot_rates(rows: Iterable[Row], *, ax: "Axes | None" = None) -> "Axes":
    """The learning rate of each layer group over the steps, and momentum where the rows have it.

    Args:
      rows: step rows, of one phase or several in turn.
      ax: where to draw; `None` makes a figure.
    """
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
    """The training loss of each logged step.

    Args:
      rows: step rows, of one phase or several in turn.
      ax: where to draw; `None` makes a figure.
    """
    steps = history(rows, "step")
    ax = axes_or_new(ax)
    dots = marker(len(steps.rows))
    ax.plot(steps.position, steps.values("loss"), color=PALETTE[0], linewidth=1.2, marker=dots, label="training")
    tidy(ax, x="step", y="training loss")
    whole_numbers(ax)
    _mark_phases(ax, steps.phases, 0.5)
    return ax


def plot_loss_over_rate(rows: Iterable[Row], *, ax: "Axes | None" = None) -> "Axes":
    """Each logged step's training loss over its learning rate (of the last layer group), early steps light.

    Args:
      rows: step rows.
      ax: where to draw; `None` makes a figure.
    """
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
    figure = ax.get_figure()
    assert figure is not None
    figure.colorbar(dots, ax=ax, label="step")
    return ax


def plot_epochs(
    rows: Iterable[Row], *, metric: Literal["loss", "accuracy"] = "loss", ax: "Axes | None" = None
) -> "Axes":
    """Training and validation loss (or accuracy) of each epoch.

    Args:
      rows: epoch rows, of one phase or several in turn.
      metric: which figure.
      ax: where to draw; `None` makes a figure.
    """
    if metric not in ("loss", "accuracy"):
        raise ValueError(f"metric={metric!r} must be 'loss' or 'accuracy'")
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
