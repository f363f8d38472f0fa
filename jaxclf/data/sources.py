"""Data sources: random access to examples, picklable, with class names."""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

#: What counts as a picture, by ending; anything else in a class folder is passed over.
IMAGE_SUFFIXES = frozenset(
    "." + name
    for name in (
        "jpg",
        "jpeg",
        "jpe",
        "jfif",
        "png",
        "bmp",
        "dib",
        "gif",
        "webp",
        "tif",
        "tiff",
        "ppm",
        "pgm",
        "pbm",
        "pnm",
    )
)
#: Label of an example whose class is not known.
UNKNOWN_LABEL = -1


class Example(NamedTuple):
    """One picture: the path of an image file or uint8 [h, w, 3] pixels, and its class number (-1: not known)."""

    image: Path | np.ndarray
    label: int


class DataSource(Protocol):
    """What loaders take: `len(source)`, `source[i] -> Example`, `source.classes`, `source.labels` (int32 [n])."""

    @property
    def classes(self) -> tuple[str, ...]: ...

    @property
    def labels(self) -> np.ndarray: ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Example: ...

    def name(self, index: int) -> str: ...


def is_image_name(name: str) -> bool:
    """Whether a file of this name counts as a picture: a known ending, and not hidden."""
    return not name.startswith(".") and Path(name).suffix.lower() in IMAGE_SUFFIXES


def image_files(folder: Path) -> list[Path]:
    """All pictures below a folder, hidden files and folders left out, sorted by path."""
    found: list[Path] = []
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [Path(parent, name) for name in files if is_image_name(name)]
    return sorted(found, key=lambda path: path.relative_to(folder).parts)


def class_folders(root: Path) -> list[str]:
    """Names of the folders in `root`, hidden ones left out, sorted."""
    return sorted(entry.name for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith("."))


class ImageFolder:
    """Pictures in one folder per class: `root/CLASS/**/*.jpg`. Classes are the folder names, sorted.

    Args:
      root: the folder that holds the class folders.
      classes: class names and their order, when another split decided them; `None` takes the folder names.

    Raises:
      ValueError: if the folder is missing or empty, holds fewer than two classes, a class without pictures, or a
        class that is not among `classes`.
    """

    def __init__(self, root: str | os.PathLike[str], *, classes: Sequence[str] | None = None):
        self.root = Path(root)
        if not self.root.is_dir():
            kind = "is a file, not a folder" if self.root.exists() else "does not exist"
            raise ValueError(f"data folder {self.root} {kind}; give a folder that holds one folder per class")
        folders = class_folders(self.root)
        if not folders:
            raise ValueError(
                f"data folder {self.root} holds no class folders; put each class's pictures in a folder of its own, "
                f"for example {self.root / 'cat'} and {self.root / 'dog'}"
            )
        self.classes = tuple(classes) if classes is not None else tuple(folders)
        if len(self.classes) < 2:
            raise ValueError(
                f"data folder {self.root} holds one class only ({self.classes[0]!r}); a classifier needs at least two"
            )
        unknown = [name for name in folders if name not in self.classes]
        if unknown:
            raise ValueError(
                f"{self.root / unknown[0]} is a class that training does not have (training knows "
                f"{_listing(self.classes)}); add it to the training data or move it away"
            )
        files = {name: image_files(self.root / name) for name in folders}
        empty = [name for name in folders if not files[name]]
        if empty:
            raise ValueError(
                f"class folder {self.root / empty[0]} holds no pictures (looked for {_listing(sorted(IMAGE_SUFFIXES))})"
                "; fill it or remove it"
            )
        numbers = {name: number for number, name in enumerate(self.classes)}
        self.paths = tuple(path for name in folders for path in files[name])
        self.labels = np.array([numbers[name] for name in folders for _ in files[name]], np.int32)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Example:
        return Example(self.paths[index], int(self.labels[index]))

    def name(self, index: int) -> str:
        """The file's path relative to the folder, with forward slashes."""
        return self.paths[index].relative_to(self.root).as_posix()


class ImageFiles:
    """Pictures without labels, one path each: what `predict` reads."""

    def __init__(self, paths: Sequence[str | os.PathLike[str]], *, classes: Sequence[str]):
        self.paths = tuple(Path(path) for path in paths)
        self.classes = tuple(classes)
        self.labels = np.full(len(self.paths), UNKNOWN_LABEL, np.int32)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Example:
        return Example(self.paths[index], UNKNOWN_LABEL)

    def name(self, index: int) -> str:
        return str(self.paths[index])


class ArrayDataset:
    """Pictures in memory.

    Args:
      images: uint8 [n, h, w, 3], or a sequence of uint8 [h, w, 3] of any sizes.
      labels: int [n], class numbers.
      classes: class names; `None` names them "0", "1", ...

    Raises:
      ValueError: for counts that differ, pixels that are not uint8 RGB, or labels outside the classes.
    """

    def __init__(
        self,
        images: np.ndarray | Sequence[np.ndarray],
        labels: Sequence[int] | np.ndarray,
        *,
        classes: Sequence[str] | None = None,
    ):
        self.images = images
        self.labels = np.asarray(labels, np.int32)
        if self.labels.ndim != 1 or len(images) != len(self.labels):
            raise ValueError(f"{len(images)} images but labels of shape {self.labels.shape}; give one label per image")
        number = int(self.labels.max(initial=-1)) + 1
        self.classes = tuple(classes) if classes is not None else tuple(str(i) for i in range(number))
        if number > len(self.classes) or self.labels.min(initial=0) < UNKNOWN_LABEL:
            raise ValueError(f"labels must lie in 0 .. {len(self.classes) - 1} for {len(self.classes)} classes")
        for image in images[:1] if isinstance(images, np.ndarray) else images:
            if image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] != 3:
                raise ValueError(f"images must be uint8 [h, w, 3]; found {image.dtype} {list(image.shape)}")

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Example:
        return Example(self.images[index], int(self.labels[index]))

    def name(self, index: int) -> str:
        return str(index)


class Subset:
    """Some examples of another source, in the order of `indices`; `name` and classes are the source's own."""

    def __init__(self, source: DataSource, indices: np.ndarray):
        self.source = source
        self.indices = np.asarray(indices, np.int32)
        self.classes = source.classes
        self.labels = source.labels[self.indices]

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Example:
        return self.source[int(self.indices[index])]

    def name(self, index: int) -> str:
        return self.source.name(int(self.indices[index]))


def fingerprint(source: DataSource) -> str:
    """sha256 over the classes and over every example's name and label, in order: "is this the same list?".

    Contents and places do not count, so a copied data set keeps its fingerprint.
    """
    digest = hashlib.sha256("\0".join(source.classes).encode())
    for index in range(len(source)):
        digest.update(f"\n{source.name(index)}\0{int(source.labels[index])}".encode())
    return digest.hexdigest()


def _listing(names: Sequence[str], most: int = 8) -> str:
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown}, .. ({len(names)} in all)"
