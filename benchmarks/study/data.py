"""The study's data sets: folders of photos, so many photos a class of them, and handwritten digits.

Each is a folder with train/CLASS and valid/CLASS, which any trainer reads. What is made here appears whole or not at
all, is the same for all sides, and is made once.
"""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np

#: Digits of each class to train on, and to judge by.
DIGITS_PER_CLASS = 60
DIGITS_SIZE = 128


def check_split(folder: Path) -> Path:
    """A folder of photos with the two parts that both sides read."""
    if not all((folder / part).is_dir() for part in ("train", "valid")):
        raise SystemExit(
            f"error: no {folder}/train and {folder}/valid; `--set name=. --set data=DATA` takes DATA's own"
        )
    return folder


def subset(source: Path, folder: Path, per_class: int, seed: int) -> Path:
    """So many photos a class of `source`'s train/, drawn by the seed, and all of its valid/, as links.

    More photos a class hold those of fewer: the draws of a seed are nested.
    """
    if folder.is_dir():
        return folder
    with _new(folder) as made:
        for number, klass in enumerate(_classes(source / "train")):
            photos = _files(source / "train" / klass)
            order = np.random.default_rng([seed, number]).permutation(len(photos))
            _link([photos[place] for place in sorted(order[:per_class])], made / "train" / klass)
        for klass in _classes(source / "valid"):
            _link(_files(source / "valid" / klass), made / "valid" / klass)
    return folder


def digits(folder: Path, per_class: int = DIGITS_PER_CLASS) -> Path:
    """Handwritten digits (8 x 8, of UCI's optical recognition set, with scikit-learn), enlarged by bicubic resampling.

    60 of each class to train on and 60 others to judge by, drawn by seed 0: RGB pictures of 128 pixels.
    """
    from PIL import Image
    from sklearn.datasets import load_digits

    if folder.is_dir():
        return folder
    with _new(folder) as made:
        pictures, labels = load_digits(return_X_y=True)
        generator = np.random.default_rng(0)
        for klass in np.unique(labels):
            order = generator.permutation(np.flatnonzero(labels == klass))
            for part, rows in (("train", order[:per_class]), ("valid", order[per_class : 2 * per_class])):
                place = made / part / str(klass)
                place.mkdir(parents=True)
                for row in rows:
                    grey = (pictures[row].reshape(8, 8) * (255 / 16)).astype(np.uint8)
                    large = Image.fromarray(grey).resize((DIGITS_SIZE, DIGITS_SIZE), Image.Resampling.BICUBIC)
                    large.convert("RGB").save(place / f"{row:04d}.png")
    return folder


def train_files(folder: Path) -> list[str]:
    """CLASS/FILE of the photos to train on, sorted."""
    return [f"{klass}/{file.name}" for klass in _classes(folder / "train") for file in _files(folder / "train" / klass)]


def _classes(part: Path) -> list[str]:
    return sorted(entry.name for entry in part.iterdir() if entry.is_dir())


def _files(folder: Path) -> list[Path]:
    return sorted(entry for entry in folder.iterdir() if entry.is_file() and not entry.name.startswith("."))


def _link(photos: list[Path], folder: Path) -> None:
    folder.mkdir(parents=True)
    for photo in photos:
        try:
            (folder / photo.name).symlink_to(photo.resolve())
        except OSError:  # a file system without links
            shutil.copy2(photo, folder / photo.name)


@contextlib.contextmanager
def _new(folder: Path) -> Iterator[Path]:
    """A folder to fill, which gets its name when it is full."""
    made = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(made, ignore_errors=True)
    made.mkdir(parents=True)
    yield made
    os.replace(made, folder)
