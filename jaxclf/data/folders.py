"""Folders of pictures, seen as a tree: what a directory and a zip archive have in common."""

import os
from pathlib import Path
from typing import Protocol

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


class ImageBytes(Protocol):
    """An encoded picture that is not a file of its own; `str()` names it for messages."""

    def read_bytes(self) -> bytes: ...


class Tree(Protocol):
    """A folder that may lie on the disk or inside a zip; `str()` names it for messages.

    Hidden entries, whose names begin with a dot, do not exist here.
    """

    def folders(self) -> list[str]:
        """Names of the folders directly in it, sorted."""
        ...

    def files(self) -> list[str]:
        """Names of the files directly in it, sorted."""
        ...

    def pictures(self) -> list[str]:
        """Paths of all pictures below it, relative to it, with forward slashes, sorted part by part."""
        ...

    def child(self, name: str) -> "Tree":
        """One of its folders."""
        ...

    def image(self, path: str) -> Path | ImageBytes:
        """One of its pictures, for `Example.image`."""
        ...


def is_hidden(name: str) -> bool:
    """Whether a file or folder is passed over: dot files, and what macOS puts into its zips."""
    return name.startswith(".") or name == "__MACOSX"


def is_image_name(name: str) -> bool:
    """Whether a file of this name counts as a picture: a known ending, and not hidden."""
    return not is_hidden(name) and Path(name).suffix.lower() in IMAGE_SUFFIXES


def image_files(folder: Path) -> list[Path]:
    """All pictures below a folder, hidden files and folders left out, sorted by path."""
    return [folder / path for path in Directory(folder).pictures()]


class Directory:
    """A `Tree` on the disk."""

    def __init__(self, root: str | os.PathLike[str]):
        self.root = Path(root)

    def __str__(self) -> str:
        return str(self.root)

    def folders(self) -> list[str]:
        return sorted(entry.name for entry in self.root.iterdir() if entry.is_dir() and not is_hidden(entry.name))

    def files(self) -> list[str]:
        return sorted(entry.name for entry in self.root.iterdir() if entry.is_file() and not is_hidden(entry.name))

    def pictures(self) -> list[str]:
        found: list[tuple[str, ...]] = []
        for parent, folders, files in os.walk(self.root):
            folders[:] = [name for name in folders if not is_hidden(name)]
            above = Path(parent).relative_to(self.root).parts
            found += [(*above, name) for name in files if is_image_name(name)]
        return ["/".join(parts) for parts in sorted(found)]

    def child(self, name: str) -> "Directory":
        return Directory(self.root / name)

    def image(self, path: str) -> Path:
        return self.root / path
