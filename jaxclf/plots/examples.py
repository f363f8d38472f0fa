"""Pictures with what a classifier said about them, and where it looked."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxclf._words import shorten
from jaxclf.data.loader import Loader
from jaxclf.metrics import Examples
from jaxclf.plots.pictures import LINE_LENGTH, label_text, picture_grid
from jaxclf.plots.style import PALETTE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Opacity of a heat map at its largest value; where it is 0 the picture shows as it is.
HEAT_OPACITY = 0.6
WRONG = PALETTE[1]


def loader_pixels(loader: Loader, index: np.typing.ArrayLike) -> np.ndarray:
    """The pictures at these positions of the data source as a loader hands them out: uint8 [k, s, s, 3].

    Args:
      loader: the one that was predicted with.
      index: int [k], for example `top_losses(predictions).index`.

    Raises:
      ValueError: for an empty index.
    """
    positions = np.asarray(index)
    if positions.ndim != 1 or len(positions) == 0:
        raise ValueError(f"index must be [k] positions of at least one picture; found shape {list(positions.shape)}")
    return np.stack([np.asarray(loader.prepared[int(position)].image) for position in positions])


def show_examples(
    images: np.ndarray,
    rows: Examples,
    classes: Sequence[str],
    *,
    heat: np.ndarray | None = None,
    names: Sequence[str] | None = None,
    columns: int = 3,
) -> "Figure":
    """A grid of pictures under what was predicted (and its probability), what they are, and the loss.

    The titles of wrong predictions are coloured.

    Args:
      images: uint8 [k, h, w, 3], one for each row; see `loader_pixels`.
      rows: k examples, from `jaxclf.top_losses` and its like.
      classes: class names.
      heat: float [k, h, w] in [0, 1], from `jaxclf.grad_cam`, laid over the pictures.
      names: [k], a last line of each title, for example file names.
      columns: of the grid.

    Raises:
      ValueError: for shapes that do not belong together, or no pictures.
    """
    number = len(rows.loss)
    if len(images) != number or (names is not None and len(names) != number):
        raise ValueError(
            f"{len(images)} images{'' if names is None else f' and {len(names)} names'} do not belong to {number} rows"
        )
    titles = [_title(rows, row, classes, names) for row in range(number)]
    figure = show_grad_cam(images, heat, titles, columns=columns)
    for row, ax in enumerate(figure.axes):
        if _known(rows.label[row]) and np.any(rows.label[row] != rows.predicted[row]):
            ax.title.set_color(WRONG)
    return figure


def show_grad_cam(
    images: np.ndarray, heat: np.ndarray | None, titles: Sequence[str] | None = None, *, columns: int = 3
) -> "Figure":
    """A grid of pictures with heat maps laid over them: clear where nothing is, glowing where the class is seen.

    Args:
      images: uint8 [k, h, w, 3] or [k, h, w, 1].
      heat: float [k, h, w] in [0, 1], from `jaxclf.grad_cam`; None shows the pictures alone.
      titles: [k].
      columns: of the grid.

    Raises:
      ValueError: for shapes that do not belong together, or no pictures.
    """
    images = np.asarray(images)
    if images.ndim != 4 or images.shape[-1] not in (1, 3) or images.dtype != np.uint8:
        raise ValueError(
            f"images must be uint8 [k, h, w, 3] or [k, h, w, 1]; found {images.dtype} {list(images.shape)}"
        )
    if len(images) == 0 or columns < 1:
        raise ValueError(f"there must be a picture to show, and columns={columns} must be at least 1")
    if heat is not None and np.shape(heat) != images.shape[:3]:
        raise ValueError(f"heat {list(np.shape(heat))} must have one value for each pixel of images {images.shape[:3]}")
    if titles is not None and len(titles) != len(images):
        raise ValueError(f"{len(titles)} titles do not belong to {len(images)} images")
    figure = picture_grid(images, [""] * len(images) if titles is None else titles, columns=columns)
    if heat is not None:
        for ax, values in zip(figure.axes, np.asarray(heat, np.float64), strict=True):
            opacity = HEAT_OPACITY * np.clip(values, 0.0, 1.0)
            ax.imshow(values, cmap="inferno", vmin=0.0, vmax=1.0, alpha=opacity)
    return figure


def _title(rows: Examples, row: int, classes: Sequence[str], names: Sequence[str] | None) -> str:
    probability = np.asarray(rows.probability[row])
    share = "" if probability.ndim else f" {_percent(float(probability))}"
    label, predicted = rows.label[row], np.asarray(rows.predicted[row])
    said = label_text(predicted.astype(np.float64) if predicted.dtype == bool else predicted, classes)
    lines = [shorten(said, LINE_LENGTH - len(share)) + share]
    if _known(label):
        lines += [shorten(f"actual: {label_text(label, classes)}", LINE_LENGTH), f"loss {rows.loss[row]:.2f}"]
    if names is not None:
        lines.append(shorten(names[row], LINE_LENGTH))
    return "\n".join(lines)


def _known(label: Any) -> bool:
    return np.ndim(label) > 0 or label >= 0


def _percent(share: float) -> str:
    """Whole per cent, but nothing short of certainty looks like it.

    >>> _percent(0.876), _percent(0.9996), _percent(1.0)
    ('88 %', '>99 %', '>99 %')
    """
    return f"{100 * share:.0f} %" if share < 0.995 else ">99 %"
