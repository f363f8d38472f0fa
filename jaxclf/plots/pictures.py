"""Pictures as the network sees them: augmented and normalised, turned back into something to look at."""

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from jaxclf._words import shorten
from jaxclf.augment import make_augment, normalize
from jaxclf.config import Preprocess
from jaxclf.data.batches import Batch
from jaxclf.data.loader import Loader
from jaxclf.plots.style import new_figure
from jaxclf.training.program import phase_key
from jaxclf.training.step import step_keys

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CELL_INCHES = 2.0
#: Characters that fit above a picture, and lines of them.
LINE_LENGTH, MAX_LINES = 27, 2
#: A class below this share of a soft label is not named.
LEAST_SHARE = 0.05


def denormalize(images: np.ndarray, mean: Sequence[float], std: Sequence[float]) -> np.ndarray:
    """The pixels that `jaxclf.augment.normalize` started from: round(255 * clip(image * std + mean, 0, 1)).

    Args:
      images: float [b, h, w, c], normalised.
      mean, std: per channel, for pixel values in [0, 1].

    Returns:
      uint8 [b, h, w, c].
    """
    pixels = np.asarray(images, np.float64) * np.asarray(std, np.float64) + np.asarray(mean, np.float64)
    return np.rint(255.0 * np.clip(pixels, 0.0, 1.0)).astype(np.uint8)


def label_text(label: Any, classes: Sequence[str]) -> str:
    """A label in words: a class number, or a row of a multi-hot or soft label matrix.

    >>> label_text(1, ("cat", "dog"))
    'dog'
    >>> label_text(np.array([1.0, 1.0]), ("cat", "dog"))
    'cat, dog'
    >>> label_text(np.array([0.3, 0.7]), ("cat", "dog"))
    'dog .70, cat .30'
    """
    label = np.asarray(label)
    if label.ndim == 0:
        return classes[int(label)] if label >= 0 else ""
    if np.isin(label, (0.0, 1.0)).all():
        return ", ".join(classes[int(number)] for number in np.flatnonzero(label)) or "none"
    order = [number for number in np.argsort(-label, kind="stable") if label[number] >= LEAST_SHARE]
    return ", ".join(f"{classes[int(number)]} {label[number]:.2f}".replace(" 0.", " .") for number in order)


def show_batch(
    images: np.ndarray | jax.Array,
    labels: np.ndarray | jax.Array,
    classes: Sequence[str],
    *,
    mean: Sequence[float],
    std: Sequence[float],
    num: int = 16,
    columns: int = 4,
    mask: np.ndarray | jax.Array | None = None,
    names: Sequence[str] | None = None,
) -> "Figure":
    """A grid of a batch's pictures with their labels, straight from what the network is given.

    Args:
      images: float [b, h, w, c], augmented and normalised; c is 3, or 1 for grey.
      labels: int [b] (-1: unknown), or float [b, classes], multi-hot or soft.
      classes: class names.
      mean, std: what the images were normalised with.
      num: pictures to show at most.
      columns: of the grid.
      mask: [b], 0 for padded rows, which are left out.
      names: [b], a second line under each label, for example file names.

    Raises:
      ValueError: for shapes that do not belong together, or nothing to show.
    """
    images, labels = np.asarray(images), np.asarray(labels)
    if images.ndim != 4 or images.shape[-1] not in (1, 3):
        raise ValueError(f"images must be float [b, h, w, 3] or [b, h, w, 1]; found shape {list(images.shape)}")
    if images.dtype.kind != "f" and images.dtype.name != "bfloat16":
        raise ValueError(f"images must be the normalised floats that the network gets; found {images.dtype}")
    if len(labels) != len(images) or (labels.ndim == 2 and labels.shape[1] != len(classes)) or labels.ndim > 2:
        raise ValueError(f"labels {list(labels.shape)} fit neither {len(images)} images nor {len(classes)} classes")
    if num < 1 or columns < 1:
        raise ValueError(f"num={num} and columns={columns} must be at least 1")
    rows = np.flatnonzero(np.asarray(mask) > 0 if mask is not None else np.ones(len(images)))[:num]
    if len(rows) == 0:
        raise ValueError("there are no pictures to show: the batch is empty or all padding")
    pixels = denormalize(images[rows], mean, std)
    titles = [_wrap(label_text(labels[row], classes)) for row in rows]
    if names is not None:
        titles = [f"{title}\n{shorten(names[int(row)], LINE_LENGTH)}" for title, row in zip(titles, rows, strict=True)]
    return picture_grid(pixels, titles, columns=columns)


def picture_grid(pixels: np.ndarray, titles: Sequence[str], *, columns: int) -> "Figure":
    """Pictures uint8 [b, h, w, 3] or [b, h, w, 1], b >= 1, row by row under their titles; one axes for each."""
    columns = min(columns, len(pixels))
    lines = -(-len(pixels) // columns)
    title_inches = 0.1 + 0.14 * max(title.count("\n") + 1 for title in titles)
    figure = new_figure(CELL_INCHES * columns, (CELL_INCHES + title_inches) * lines)
    for place, (title, picture) in enumerate(zip(titles, pixels, strict=True), 1):
        ax = figure.add_subplot(lines, columns, place)
        ax.imshow(picture.squeeze(-1) if picture.shape[-1] == 1 else picture, cmap="gray", vmin=0, vmax=255)
        ax.set_axis_off()
        ax.set_title(title, fontsize=8, pad=3, parse_math=False)
    return figure


def _wrap(text: str) -> str:
    """At most `MAX_LINES` lines of `LINE_LENGTH` characters, broken between the labels."""
    lines = [""]
    for part in text.split(", "):
        joined = f"{lines[-1]}, {part}" if lines[-1] else part
        if len(joined) <= LINE_LENGTH or not lines[-1]:
            lines[-1] = joined
        else:
            lines[-1] += ","
            lines.append(part)
    if len(lines) > MAX_LINES:
        lines = [*lines[: MAX_LINES - 1], f"{lines[MAX_LINES - 1].rstrip(',')}, …"]
    return "\n".join(shorten(line, LINE_LENGTH) for line in lines)


def training_batch(
    loader: Loader, augment: str, key: jax.Array | None = None, *, epoch: int = 0, step: int = 0
) -> Batch:
    """A batch whose `inputs` are what `jaxclf.training.step.make_train_step` hands to the network at a step.

    Args:
      loader: of the phase, made as for `jaxclf.fit`.
      augment: the phase's preset.
      key: of the phase, `training.program.phase_key(seed, phase_number)`; `None` takes the loader's seed and phase 0.
      epoch: whose order the batch comes from, counted from the start of the run.
      step: of the phase; the random draws depend on it. The batch is number step modulo the batches per epoch.

    Returns:
      inputs float32 [b, size, size, 3], normalised; everything on the host.
    """
    key = phase_key(loader.seed, 0) if key is None else key
    batches = loader.epoch(epoch, start_batch=step % len(loader))
    try:
        batch = next(batches)
    finally:
        batches.close()
    return batch._replace(inputs=np.asarray(_network_inputs(augment, loader.preprocess)(key, step, batch.inputs)))


@functools.lru_cache(maxsize=8)
def _network_inputs(augment: str, preprocess: Preprocess) -> Callable[[jax.Array, int, Any], jax.Array]:
    """The first lines of the train step, compiled once: (phase's key, step, uint8 images) -> normalised floats."""
    apply_augment = make_augment(augment, preprocess.image_size, shown=preprocess.shown)

    @jax.jit
    def network_inputs(key: jax.Array, step: int, images: jax.typing.ArrayLike) -> jax.Array:
        augment_key, _, _ = step_keys(key, step)
        return normalize(apply_augment(augment_key, images), preprocess.mean, preprocess.std)

    return network_inputs


def show_loader(
    loader: Loader,
    augment: str,
    key: jax.Array | None = None,
    *,
    epoch: int = 0,
    step: int = 0,
    num: int = 16,
    columns: int = 4,
) -> "Figure":
    """`show_batch` of `training_batch`: what the network really sees, file names included. See both."""
    batch = training_batch(loader, augment, key, epoch=epoch, step=step)
    names = [loader.dataset.name(int(index)) if index >= 0 else "" for index in batch.index]
    mean, std = loader.preprocess.mean, loader.preprocess.std
    options: dict[str, Any] = {"mean": mean, "std": std, "num": num, "columns": columns}
    return show_batch(batch.inputs, batch.labels, loader.classes, mask=batch.mask, names=names, **options)
