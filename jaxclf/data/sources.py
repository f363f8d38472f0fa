"""Data sources: random access to examples, picklable, with class names."""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from jaxclf.data.folders import IMAGE_SUFFIXES, ImageBytes, Tree, open_tree

#: Label of an example whose class is not known.
UNKNOWN_LABEL = -1


class Example(NamedTuple):
    """One picture and what it shows.

    Attributes:
      image: the path of an image file, uint8 [h, w, 3] pixels, or an encoded picture that hands out its bytes.
      label: class number (-1: not known), or float32 [num_classes] of zeros and ones in a multi-label source.
    """

    image: Path | np.ndarray | ImageBytes
    label: int | np.ndarray


class EncodedImage(NamedTuple):
    """The bytes of an encoded picture, and where they came from."""

    data: bytes
    origin: str

    def read_bytes(self) -> bytes:
        return self.data

    def __str__(self) -> str:
        return self.origin


class DataSource(Protocol):
    """What loaders take: `len(source)`, `source[i] -> Example`, and what is known of all examples at once.

    `labels` is int32 [n], class numbers and -1 where the class is not known; in a multi-label source it is
    float32 [n, num_classes] of zeros and ones, where a row of zeros says that none of the classes is shown.
    """

    @property
    def classes(self) -> tuple[str, ...]: ...

    @property
    def labels(self) -> np.ndarray: ...

    @property
    def multi_label(self) -> bool: ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Example: ...

    def name(self, index: int) -> str: ...


class ListedImages:
    """Pictures, names and labels that are all known from the start: what `ImageFolder` and the like have in common.

    Attributes:
      paths: of the files, or encoded pictures that hand out their bytes.
      classes, labels: see `DataSource`.
    """

    def __init__(
        self, paths: Sequence[Path | ImageBytes], names: Sequence[str], labels: np.ndarray, classes: Sequence[str]
    ):
        self.paths, self._names = tuple(paths), tuple(names)
        self.labels, self.classes = labels, tuple(classes)
        self.multi_label = labels.ndim == 2

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Example:
        label = self.labels[index]
        return Example(self.paths[index], label if self.multi_label else int(label))

    def name(self, index: int) -> str:
        """What the picture is called in results: of a folder, the path inside; of a table, what the table says."""
        return self._names[index]


class ImageFolder(ListedImages):
    """Pictures in one folder per class: `root/CLASS/**/*.jpg`. Classes are the folder names, sorted.

    Args:
      root: the folder that holds the class folders, or a zip of it.
      classes: class names and their order, when another split decided them; `None` takes the folder names.

    Raises:
      ValueError: if the folder is missing or empty, holds fewer than two classes, a class without pictures, or a
        class that is not among `classes`.
    """

    def __init__(self, root: str | os.PathLike[str] | Tree, *, classes: Sequence[str] | None = None):
        tree = open_tree(root) if isinstance(root, str | os.PathLike) else root
        folders = tree.folders()
        if not folders:
            raise ValueError(
                f"data folder {tree} holds no class folders; put each class's pictures in a folder of its own, "
                f"for example {tree}/cat and {tree}/dog"
            )
        classes = tuple(folders if classes is None else classes)
        if len(classes) < 2:
            raise ValueError(
                f"data folder {tree} holds one class only ({classes[0]!r}); a classifier needs at least two"
            )
        unknown = [name for name in folders if name not in classes]
        if unknown:
            raise ValueError(
                f"{tree}/{unknown[0]} is a class that training does not have (training knows {listing(classes)}); "
                "add it to the training data or move it away"
            )
        names = [path for path in tree.pictures() if "/" in path]
        folder_of = [path.split("/", 1)[0] for path in names]
        empty = sorted(set(folders) - set(folder_of))
        if empty:
            raise ValueError(
                f"class folder {tree}/{empty[0]} holds no pictures (looked for {listing(sorted(IMAGE_SUFFIXES))})"
                "; fill it or remove it"
            )
        numbers = {name: number for number, name in enumerate(classes)}
        labels = np.array([numbers[name] for name in folder_of], np.int32)
        super().__init__([tree.image(path) for path in names], names, labels, classes)


class ImageFiles(ListedImages):
    """Pictures without labels: what `predict` reads, and a test folder without classes.

    Args:
      paths: of the files, or encoded pictures.
      classes: names of the classes that a prediction may choose from.
      names: what each is called in results; `None` takes the paths.
    """

    def __init__(
        self,
        paths: Sequence[str | os.PathLike[str] | ImageBytes],
        *,
        classes: Sequence[str],
        names: Sequence[str] | None = None,
    ):
        images = [Path(path) if isinstance(path, str | os.PathLike) else path for path in paths]
        labels = np.full(len(images), UNKNOWN_LABEL, np.int32)
        super().__init__(images, [str(image) for image in images] if names is None else names, labels, classes)


class ArrayDataset:
    """Pictures in memory.

    Args:
      images: uint8 [n, h, w, 3], or a sequence of uint8 [h, w, 3] of any sizes.
      labels: int [n], class numbers; or multi-label: [n, num_classes] of zeros and ones.
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
        given = np.asarray(labels)
        if given.ndim not in (1, 2) or len(images) != len(given):
            raise ValueError(
                f"{len(images)} images but labels of shape {given.shape}; give one label per image, or multi-label "
                "rows [n, num_classes]"
            )
        self.multi_label = given.ndim == 2
        self.labels = given.astype(np.float32 if self.multi_label else np.int32)
        number = given.shape[1] if self.multi_label else int(self.labels.max(initial=-1)) + 1
        self.classes = tuple(classes) if classes is not None else tuple(str(i) for i in range(number))
        if self.multi_label:
            if number != len(self.classes) or not np.isin(given, (0, 1)).all():
                raise ValueError(
                    f"multi-label labels must be zeros and ones, one column for each of {len(self.classes)} classes; "
                    f"got shape {given.shape}"
                )
        elif number > len(self.classes) or self.labels.min(initial=0) < UNKNOWN_LABEL:
            raise ValueError(f"labels must lie in 0 .. {len(self.classes) - 1} for {len(self.classes)} classes")
        for image in images[:1] if isinstance(images, np.ndarray) else images:
            if image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] != 3:
                raise ValueError(f"images must be uint8 [h, w, 3]; found {image.dtype} {list(image.shape)}")

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Example:
        return Example(self.images[index], self.labels[index] if self.multi_label else int(self.labels[index]))

    def name(self, index: int) -> str:
        return str(index)


class Subset:
    """Some examples of another source, in the order of `indices`; `name` and classes are the source's own."""

    def __init__(self, source: DataSource, indices: np.ndarray):
        self.source = source
        self.indices = np.asarray(indices, np.int32)
        self.classes = source.classes
        self.multi_label = source.multi_label
        self.labels = source.labels[self.indices]

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Example:
        return self.source[int(self.indices[index])]

    def name(self, index: int) -> str:
        return self.source.name(int(self.indices[index]))


def fingerprint(source: DataSource) -> str:
    """sha256 over the classes and over every example's name and label, in order: "is this the same list?".

    Contents and places do not count, so a copied data set keeps its fingerprint, and a zip has that of its folder.
    For what a cache must know of the contents, see `jaxclf.data.manifest`.
    """
    digest = hashlib.sha256("\0".join(source.classes).encode())
    if source.multi_label:
        digest.update(b"\0\0multi-label")
    for index, label in enumerate(source.labels):
        shown = "|".join(map(str, np.flatnonzero(label))) if source.multi_label else str(int(label))
        digest.update(f"\n{source.name(index)}\0{shown}".encode())
    return digest.hexdigest()


def label_names(source: DataSource, index: int) -> tuple[str, ...]:
    """The classes of an example: one, several (multi-label), or none where it has none or it is not known."""
    label = np.asarray(source.labels[index])
    if label.ndim:
        return tuple(source.classes[int(number)] for number in np.flatnonzero(label > 0.5))
    return (source.classes[int(label)],) if label >= 0 else ()


def listing(names: Sequence[str], most: int = 8) -> str:
    """Names for a message, cut off after `most`."""
    return ", ".join(names[:most]) + (f", .. ({len(names)} in all)" if len(names) > most else "")
