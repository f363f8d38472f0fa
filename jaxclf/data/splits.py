"""Training, validation and test data out of one place, with one class list for all."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from jaxclf.data.sources import DataSource, ImageFolder, Subset, class_folders
from jaxclf.order import stratified_split

TRAIN_NAMES = ("train", "training")
VALID_NAMES = ("valid", "val", "validation")


class Splits(NamedTuple):
    """The parts of a data set.

    Attributes:
      train, valid: data sources with the same classes.
      layout: "split" if the data came with its own validation part, "drawn" if jaxclf drew one from the training data.
      whole: what there was before a split was drawn; the training part where none was.
    """

    train: DataSource
    valid: DataSource
    layout: Literal["split", "drawn"]
    whole: DataSource


def split_dataset(dataset: DataSource, *, valid_fraction: float = 0.2, seed: int = 0) -> tuple[Subset, Subset]:
    """Draws a stratified validation part: (train, valid), disjoint, every class in both.

    A pure function of the labels, the fraction and the seed: see `jaxclf.order.stratified_split`.

    Raises:
      ValueError: for a fraction outside (0, 1), or a class with one example, which is named.
    """
    for number, name in enumerate(dataset.classes):
        if int((dataset.labels == number).sum()) == 1:
            raise ValueError(
                f"class {name!r} has one picture only: it cannot be in training and in validation; add pictures of it"
            )
    train, valid = stratified_split(dataset.labels, valid_fraction=valid_fraction, seed=seed)
    return Subset(dataset, train), Subset(dataset, valid)


def open_data(
    data: str | os.PathLike[str],
    *,
    valid_fraction: float = 0.2,
    seed: int = 0,
    classes: Sequence[str] | None = None,
) -> Splits:
    """Opens DATA: a folder with `train/CLASS/*` and `valid|val|validation/CLASS/*`, or just `CLASS/*`.

    Where there is no validation folder, one is drawn by `split_dataset` from the training data.

    Args:
      data: the folder.
      valid_fraction, seed: for a split that has to be drawn.
      classes: class names and their order, where a run decided them already; `None` takes the folder names, sorted.

    Raises:
      ValueError: naming the path and the way out, for anything that cannot be trained on.
    """
    train, valid = open_parts(data, classes=classes)
    if valid is not None:
        return Splits(train, valid, "split", train)
    return Splits(*split_dataset(train, valid_fraction=valid_fraction, seed=seed), "drawn", train)


def open_parts(
    data: str | os.PathLike[str], *, classes: Sequence[str] | None = None
) -> tuple[ImageFolder, ImageFolder | None]:
    """The parts a data folder really has: (training or everything, validation or None). See `open_data`."""
    root = Path(data)
    folders = class_folders(root) if root.is_dir() else []
    train_name = next((name for name in folders if name.lower() in TRAIN_NAMES), None)
    valid_name = next((name for name in folders if name.lower() in VALID_NAMES), None)
    if train_name is None and valid_name is not None and not _looks_like_class(root / valid_name):
        raise ValueError(f"{root} holds {valid_name}/ but no train/; add {root / 'train'} with one folder per class")
    if train_name is None or _looks_like_class(root / train_name):
        return ImageFolder(root, classes=classes), None
    train = ImageFolder(root / train_name, classes=classes)
    return train, ImageFolder(root / valid_name, classes=train.classes) if valid_name is not None else None


def _looks_like_class(folder: Path) -> bool:
    """Whether a folder holds files but no folders: then it is a class that happens to be called "train"."""
    entries = [entry for entry in folder.iterdir() if not entry.name.startswith(".")]
    return bool(entries) and not any(entry.is_dir() for entry in entries)
