"""How all plots look, and how they get into files."""

import io
import os
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from jaxclf._files import write_atomic

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Okabe and Ito's colours, which colour-blind people can tell apart; without yellow, which white swallows.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
GREY = "#767676"
FORMATS = (".png", ".svg")


def new_figure(
    width: float, height: float, *, layout: Literal["constrained", "compressed"] = "constrained"
) -> "Figure":
    """An empty figure, width x height in inches, whose parts keep out of each other's way.

    The compressed layout is for axes of a fixed shape: the other one needs several drawings to settle with them.
    """
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout=layout)


def axes_or_new(ax: "Axes | None", width: float = 6.4, height: float = 4.0) -> "Axes":
    """`ax`, or the axes of a new figure."""
    return new_figure(width, height).add_subplot() if ax is None else ax


def tidy(ax: "Axes", *, x: str, y: str) -> None:
    """Axis labels, a faint grid, no frame at the top and right."""
    ax.set_xlabel(x)
    ax.set_ylabel(y)
    ax.grid(True, color="0.9", linewidth=0.8)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)


def add_legend(ax: "Axes", *, loc: Literal["best", "upper center"] = "best", ncols: int = 1) -> None:
    """A legend, by default where there is most room; what lies below it stays legible."""
    drawn = (*ax.lines, *ax.collections)
    lines = [line for line in drawn if line.get_visible() and not str(line.get_label()).startswith("_")]
    ncols = min(ncols, max(len(lines), 1))
    ax.legend(
        handles=lines,
        loc=loc,
        ncols=ncols,
        fontsize=8,
        handlelength=1.5,
        columnspacing=1.5,
        facecolor="white",
        edgecolor="none",
        framealpha=0.85,
    )


def whole_numbers(ax: "Axes") -> None:
    """Ticks of the x axis at whole numbers only: there is no half step or epoch."""
    from matplotlib.ticker import MaxNLocator

    ax.xaxis.set_major_locator(MaxNLocator("auto", steps=[1, 2, 5, 10], integer=True, min_n_ticks=1))


def marker(num_points: int) -> str:
    """Dots where there are few points: a line does not show a single one, nor where it is only drawn between two."""
    return "o" if num_points == 1 else "." if num_points <= 40 else ""


def save_figure(figure: "Figure", path: str | os.PathLike[str], *, dpi: int = 150) -> Path:
    """Writes a figure as PNG or SVG, whole or not at all.

    Args:
      figure: any matplotlib figure; of an `ax` it is `ax.figure`.
      path: ends in .png or .svg; its folder must exist.
      dpi: pixels per inch of a PNG.

    Raises:
      ValueError: for another ending, naming the path.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in FORMATS:
        raise ValueError(f"cannot save a figure as {path}: its name must end in {' or '.join(FORMATS)}")
    buffer = io.BytesIO()
    metadata = {"Date": None} if suffix == ".svg" else None  # the same figure gives the same file another day
    figure.savefig(buffer, format=suffix[1:], dpi=dpi, metadata=metadata)
    return write_atomic(path, buffer.getvalue())
