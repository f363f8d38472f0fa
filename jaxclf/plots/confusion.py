"""A confusion matrix as a picture."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from jaxclf._words import shorten
from jaxclf.plots.style import color_bar, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Up to this many classes the cells hold their figures; beyond, colour alone speaks.
MAX_CLASSES_WITH_COUNTS = 20
#: Up to this many classes every one is named; beyond, every second, third, ..
MAX_NAMES = 100
NAME_LENGTH = 28


def normalize_rows(matrix: np.ndarray) -> np.ndarray:
    """Each count as a share of its row, the examples of one actual class; a row without examples stays 0.

    >>> normalize_rows(np.array([[3, 1], [0, 0]])).tolist()
    [[0.75, 0.25], [0.0, 0.0]]
    """
    matrix = np.asarray(matrix, np.float64)
    return matrix / np.maximum(matrix.sum(1, keepdims=True), 1.0)


def plot_confusion(
    matrix: np.ndarray, classes: Sequence[str], *, normalize: bool = False, ax: "Axes | None" = None
) -> "Axes":
    """A confusion matrix: rows are the actual classes, columns the predicted ones.

    Colours follow the square root, so that single mistakes show beside a full diagonal.

    Args:
      matrix: int [c, c], from `jaxclf.confusion_matrix`.
      classes: c names.
      normalize: shares of each actual class instead of counts.
      ax: where to draw; `None` makes a figure of fitting size.

    Raises:
      ValueError: for a matrix that is not [c, c].
    """
    from matplotlib.colors import PowerNorm

    matrix = np.asarray(matrix)
    num = len(classes)
    if num == 0 or matrix.shape != (num, num):
        raise ValueError(f"matrix {list(matrix.shape)} does not belong to {num} classes")
    values = normalize_rows(matrix) if normalize else matrix
    names = [shorten(name, NAME_LENGTH) for name in classes]
    longest = max(map(len, names))
    if ax is None:
        side = min(max(0.5 * num, 2.4), 14.0) if num <= MAX_CLASSES_WITH_COUNTS else min(max(0.16 * num, 7.0), 16.0)
        margin = 0.08 * longest
        ax = new_figure(side + margin + 1.6, side + margin * 0.8 + 0.8, layout="compressed").add_subplot()
    else:
        side = ax.get_window_extent().width / ax.figure.dpi  # in inches
    image = ax.imshow(values, cmap="Blues", norm=PowerNorm(0.5, vmin=0, vmax=max(float(values.max()), 1e-9)))
    size = 9 if num <= 12 else 7.5 if num <= 40 else 5.5
    places = np.arange(0, num, -(-num // MAX_NAMES))
    # A character is about 0.6 as wide as it is high (72 points to the inch); the names get 0.9 of their cells.
    upright = longest * 0.6 * size / 72 > 0.9 * side / num
    ax.set_xticks(places, [names[i] for i in places], rotation=90 if upright else 0, fontsize=size, parse_math=False)
    ax.set_yticks(places, [names[i] for i in places], fontsize=size, parse_math=False)
    ax.set_xlabel("predicted")
    ax.set_ylabel("actual")
    ax.tick_params(length=0)
    if num <= MAX_CLASSES_WITH_COUNTS:
        _write_cells(ax, values, normalize, size)
    label = "share of the actual class" if normalize else "pictures"
    color_bar(ax, image, label, shrink=0.8, aspect=30, pad=0.02)
    return ax


def _write_cells(ax: "Axes", values: np.ndarray, normalize: bool, size: float) -> None:
    most = max(float(values.max()), 1e-9)
    for (row, column), value in np.ndenumerate(values):
        text = _share(value) if normalize else str(value)
        dark = (float(value) / most) ** 0.5 > 0.6
        color = "white" if dark else "0.7" if value == 0 else "black"
        ax.text(
            column, row, text, ha="center", va="center", color=color, fontsize=size - 0.25 * max(len(text) - 3, 0) * 2
        )


def _share(value: float) -> str:
    """Two decimals; what is not nothing does not look like nothing."""
    return "0" if value == 0 else "<.01" if value < 0.005 else f"{value:.2f}"
