"""Training, validation and test data out of one place, with one class list for all."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from jaxclf.data.folders import PART_FOLDERS, Tree, open_tree, part_folder
from jaxclf.data.order import k_folds, stratified_split
from jaxclf.data.sources import UNKNOWN_LABEL, DataSource, ImageFiles, ImageFolder, Subset
from jaxclf.data.tables import CsvTable, read_table

#: What names a TensorFlow data set: `tfds:cats_vs_dogs`.
TFDS_PREFIX = "tfds:"


class Splits(NamedTuple):
    """The parts of a data set.

    Attributes:
      train, valid: data sources with the same classes.
      layout: "split" if the data came with its own validation part, "drawn" if jaxclf drew one from the training data.
      whole: what there was before a split was drawn; the training part where none was.
      test: the data's own test part with the same classes, labels -1 where it has none; `None` without one.
    """

    train: DataSource
    valid: DataSource
    layout: Literal["split", "drawn"]
    whole: DataSource
    test: DataSource | None = None


class Parts(NamedTuple):
    """What the data itself holds: training examples or everything, and its own validation and test parts."""

    train: DataSource
    valid: DataSource | None
    test: DataSource | None


def split_dataset(dataset: DataSource, *, valid_fraction: float = 0.2, seed: int = 0) -> tuple[Subset, Subset]:
    """Draws a stratified validation part: (train, valid), disjoint; every class in both unless it is multi-label.

    A pure function of the labels, the fraction and the seed: see `jaxclf.data.order.stratified_split`.

    Raises:
      ValueError: for a fraction outside (0, 1), or a class with one example, which is named.
    """
    _check_lonely(dataset)
    train, valid = stratified_split(dataset.labels, valid_fraction=valid_fraction, seed=seed)
    return Subset(dataset, train), Subset(dataset, valid)


def fold_datasets(dataset: DataSource, *, num_folds: int, fold: int, seed: int = 0) -> tuple[Subset, Subset]:
    """One round of cross-validation: (train, valid), where valid is fold `fold` and train are the others.

    Over all folds every example is held out exactly once. Stratified: see `jaxclf.data.order.k_folds`.

    Raises:
      ValueError: for a fold out of range, or a class with one example, which is named.
    """
    if not 0 <= fold < num_folds:
        raise ValueError(f"fold={fold} must lie in 0 .. {num_folds - 1} for num_folds={num_folds}")
    _check_lonely(dataset)
    folds = k_folds(dataset.labels, num_folds, seed)
    return Subset(dataset, np.flatnonzero(folds != fold)), Subset(dataset, np.flatnonzero(folds == fold))


def _check_lonely(dataset: DataSource) -> None:
    if dataset.multi_label:
        return
    for number, name in enumerate(dataset.classes):
        if int((dataset.labels == number).sum()) == 1:
            raise ValueError(
                f"class {name!r} has one picture only: it cannot be in training and in validation; add pictures of it"
            )


def open_data(
    data: str | os.PathLike[str],
    *,
    valid_fraction: float = 0.2,
    seed: int = 0,
    classes: Sequence[str] | None = None,
) -> Splits:
    """Opens DATA, which is one of:

    - a folder with `train/CLASS/*` and `valid|val|validation/CLASS/*`, or just `CLASS/*`; beside `train`, also
      `test/CLASS/*` or `test/*`, whose pictures then have no labels;
    - a `.zip` of such a folder, which is read in place;
    - a `.csv` with the columns `file,label[,split]`, see `jaxclf.data.tables.read_table`;
    - `tfds:NAME[/CONFIG][:VERSION]`, a prepared TensorFlow data set, see `jaxclf.data.tfds.TfdsSource`.

    Where there is no validation part, one is drawn by `split_dataset` from the training data.

    Args:
      data: one of these.
      valid_fraction, seed: for a split that has to be drawn.
      classes: class names and their order, where a run decided them already; `None` takes those of the training data.

    Raises:
      ValueError: naming the path and the way out, for anything that cannot be trained on.
    """
    train, valid, test = open_parts(data, classes=classes)
    if valid is not None:
        return Splits(train, valid, "split", train, test)
    return Splits(*split_dataset(train, valid_fraction=valid_fraction, seed=seed), "drawn", train, test)


def open_parts(data: str | os.PathLike[str], *, classes: Sequence[str] | None = None) -> Parts:
    """What DATA really has. See `open_data`."""
    name = os.fspath(data)
    if name.startswith(TFDS_PREFIX):
        return _open_tfds(name.removeprefix(TFDS_PREFIX), classes)
    if name.lower().endswith(".csv") and not Path(name).is_dir():
        return _open_table(name, classes)
    return _open_tree(open_tree(name), classes)


def _open_tree(root: Tree, classes: Sequence[str] | None) -> Parts:
    train_name, valid_name, test_name = (part_folder(root.folders(), part) for part in PART_FOLDERS)
    if train_name is None and valid_name is not None and not _looks_like_class(root.child(valid_name)):
        raise ValueError(f"{root} holds {valid_name}/ but no train/; add {root}/train with one folder per class")
    if train_name is None or _looks_like_class(root.child(train_name)):
        return Parts(ImageFolder(root, classes=classes), None, None)
    train = ImageFolder(root.child(train_name), classes=classes)
    valid = ImageFolder(root.child(valid_name), classes=train.classes) if valid_name is not None else None
    return Parts(train, valid, _open_test(root.child(test_name), train.classes) if test_name is not None else None)


def _looks_like_class(folder: Tree) -> bool:
    """Whether a folder holds files but no folders: then it is a class that happens to be called "train"."""
    return bool(folder.files()) and not folder.folders()


def _open_test(folder: Tree, classes: tuple[str, ...]) -> DataSource:
    pictures = folder.pictures()
    flat = [path for path in pictures if "/" not in path]
    if not flat and folder.folders():
        return ImageFolder(folder, classes=classes)
    if not flat:
        raise ValueError(f"{folder} holds no pictures; fill it or remove it")
    if len(flat) < len(pictures):
        raise ValueError(
            f"{folder} holds pictures ({flat[0]}) and folders of pictures ({folder.folders()[0]}); keep either one "
            "folder per class, or pictures without labels"
        )
    return ImageFiles([folder.image(path) for path in flat], classes=classes, names=flat)


def _open_table(path: str, classes: Sequence[str] | None) -> Parts:
    table = read_table(path)
    if not table.splits:
        return Parts(CsvTable(table, classes=classes), None, None)
    if "train" not in table.splits:
        raise ValueError(f"data table {path} has no lines whose split is train; mark some, or leave the column out")
    train = CsvTable(table, split="train", classes=classes)
    valid, test = (
        CsvTable(table, split=split, classes=train.classes) if split in table.splits else None
        for split in ("valid", "test")
    )
    return Parts(train, valid, test)


def _open_tfds(name: str, classes: Sequence[str] | None) -> Parts:
    from jaxclf.data.tfds import SPLITS, TfdsSource, split_names

    names = split_names(name)
    found = {part: next((split for split in splits if split in names), None) for part, splits in SPLITS.items()}
    if found["train"] is None:
        raise ValueError(f"tfds:{name} has no split named train (it has {', '.join(names)}); it cannot be trained on")
    train = TfdsSource(name, split=found["train"], classes=classes)
    valid, test = (
        TfdsSource(name, split=split, classes=train.classes) if split is not None else None
        for split in (found["valid"], found["test"])
    )
    for part in (train, valid):
        if part is not None and not part.multi_label and (part.labels == UNKNOWN_LABEL).any():
            first = part.name(int(np.argmax(part.labels == UNKNOWN_LABEL)))
            raise ValueError(f"{first} has no label: split {part.split!r} cannot be trained on or judged by")
    return Parts(train, valid, test)
