"""The pictures that a command line names: files, folders, zips and patterns."""

import glob
from collections.abc import Iterable, Sequence
from pathlib import Path

from jaxclf.data.folders import ImageBytes


def find_pictures(images: Iterable[str]) -> list[Path | ImageBytes]:
    """What is to be read, in the order it was named; folders, zips and patterns each sorted by path.

    A name is taken as it is when a file or folder of that name exists; otherwise `*`, `?`, `[..]` and `**` (any number
    of folders) make it a pattern, which matches files whose ending is a picture's. A file that is named itself need not
    exist: reading it says so.

    Raises:
      ValueError: naming the folder, zip or pattern that holds or matches no pictures.
    """
    found: list[Path | ImageBytes] = []
    for name in images:
        pictures = _named(name)
        if not pictures:
            raise ValueError(_nothing(name))
        found += pictures
    return found


def _named(name: str) -> Sequence[Path | ImageBytes]:
    from jaxclf.data.folders import is_image_name, open_tree

    path = Path(name)
    if path.is_dir() or (path.is_file() and path.suffix.lower() == ".zip"):
        tree = open_tree(path)
        return [tree.image(inside) for inside in tree.pictures()]
    if not path.exists() and glob.has_magic(name):
        matches = map(Path, glob.iglob(name, recursive=True))
        return sorted(match for match in matches if is_image_name(match.name) and match.is_file())
    return [path]


def _nothing(name: str) -> str:
    path = Path(name)
    if path.is_dir():
        return f"folder {path} holds no pictures"
    if path.exists():
        return f"zip {path} holds no pictures"
    return f"pattern {name!r} matches no pictures"
