"""What a check reads: pictures with their split and labels, whatever kind of data they come from."""

import functools
import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from jaxclf.data.folders import PART_FOLDERS, Directory, is_image_name, part_folder
from jaxclf.data.sources import DataSource, label_names
from jaxclf.data.splits import open_parts

#: Name of the only split of data that has none: a validation part is drawn from it later.
WHOLE = "all"


class Finding(NamedTuple):
    """One thing that is wrong with the data.

    Attributes:
      kind: what sort of thing, a fixed term ("unreadable", "leak", ..); see `jaxclf.data.check.report`.
      message: a sentence for people.
      paths: the files or folders concerned, all of them.
    """

    kind: str
    message: str
    paths: tuple[str, ...] = ()


class Record(NamedTuple):
    """One picture to check.

    Attributes:
      split: "train", "valid", "test" or "all".
      labels: class names: one, several (multi-label), or none where the class is not known.
      name: what messages call it, a path for files.
      image: a path, uint8 pixels [h, w, 3] or [h, w], anything with `read_bytes()`, or a function that gets one.
    """

    split: str
    labels: tuple[str, ...]
    name: str
    image: Any


class Listing(NamedTuple):
    """All pictures of a data set, and what was already found wrong while listing them.

    Attributes:
      records: the pictures, in the data's own order.
      classes: split -> the class names it has a place for, those without pictures included.
      errors, warnings: findings about the layout.
      multi_label: whether a picture may carry several labels.
    """

    records: list[Record]
    classes: dict[str, tuple[str, ...]]
    errors: tuple[Finding, ...] = ()
    warnings: tuple[Finding, ...] = ()
    multi_label: bool = False


def list_folder(data: str | os.PathLike[str]) -> Listing:
    """Lists a data folder as `open_data` reads it, but refuses nothing: what cannot be used becomes a finding.

    `train/CLASS/*`, `valid|val|validation/CLASS/*` and `test/` with or without classes; or `CLASS/*`, which is then the
    one split "all". Hidden files and folders are passed over.
    """
    root, found = Path(data), _Found()
    folders = Directory(root).folders()
    splits = _split_folders(root, folders)
    if not splits:
        found.add_split(WHOLE, root)
        return found.listing()
    for split, name in splits.items():
        found.add_split(split, root / name)
    if "train" not in splits:
        first = next(iter(splits.values()))
        message = f"{root} holds {first}/ but no train/; add {root / 'train'} with one folder per class"
        found.errors.append(Finding("layout", message, (str(root),)))
    unused = [root / name for name in folders if name not in splits.values()]
    unused += [path for path in _files(root) if is_image_name(path.name)]
    if unused:
        message = f"beside {', '.join(f'{name}/' for name in splits.values())} in {root}: nothing reads this"
        found.warnings.append(Finding("unused", message, tuple(map(str, unused))))
    found.other += [path for path in _files(root) if not is_image_name(path.name)]
    return found.listing()


def list_data(data: str | os.PathLike[str]) -> Listing:
    """Lists DATA of any kind that `open_data` takes: a folder, which may be anything but whole, a zip, CSV or tfds set.

    Raises:
      ValueError: if there is no such data, or, but for folders, if it cannot be opened.
    """
    if Path(data).is_dir():
        return list_folder(data)
    train, valid, test = open_parts(data)
    if valid is None and test is None:
        return list_sources({WHOLE: train})
    parts = {"train": train, "valid": valid, "test": test}
    return list_sources({split: source for split, source in parts.items() if source is not None})


def list_sources(sources: Mapping[str, DataSource]) -> Listing:
    """Lists data sources of any kind, by split; pictures are fetched when they are looked at, one by one."""
    records = [
        Record(split, label_names(source, index), source.name(index), functools.partial(_image, source, index))
        for split, source in sources.items()
        for index in range(len(source))
    ]
    classes = {split: tuple(source.classes) for split, source in sources.items()}
    return Listing(records, classes, multi_label=any(source.multi_label for source in sources.values()))


def _image(source: DataSource, index: int) -> Any:
    return source[index].image


def _split_folders(root: Path, folders: list[str]) -> dict[str, str]:
    """Split -> name of its folder; nothing where the folders are classes, one of which may be called "train"."""
    splits: dict[str, str] = {}
    for split in PART_FOLDERS:
        name = part_folder(folders, split)
        if name is not None and (split == "test" or not _holds_files_only(root / name)):
            splits[split] = name
    return splits if "train" in splits or "valid" in splits else {}


def _holds_files_only(folder: Path) -> bool:
    return bool(_files(folder)) and not Directory(folder).folders()


def _files(folder: Path) -> list[Path]:
    """The files of a folder itself, broken links included, hidden ones left out, sorted."""
    return sorted(path for path in folder.iterdir() if not path.name.startswith(".") and not path.is_dir())


class _Found:
    """What the walk has come across so far."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.classes: dict[str, tuple[str, ...]] = {}
        self.errors: list[Finding] = []
        self.warnings: list[Finding] = []
        self.other: list[Path] = []

    def add_split(self, split: str, folder: Path) -> None:
        names = Directory(folder).folders()
        self.classes[split] = tuple(names)
        loose = [path for path in _files(folder) if is_image_name(path.name)]
        self.other += [path for path in _files(folder) if not is_image_name(path.name)]
        if not names and (split != "test" or not loose):
            message = f"{folder} holds no class folders; put each class's pictures in a folder of its own"
            self.errors.append(Finding("layout", message, (str(folder),)))
        elif len(names) == 1 and split in ("train", WHOLE):
            message = f"{folder} holds one class only ({names[0]!r}); a classifier needs at least two"
            self.errors.append(Finding("layout", message, (str(folder / names[0]),)))
        if names and loose:
            message = f"pictures in {folder} itself belong to no class: nothing reads them"
            self.warnings.append(Finding("unused", message, tuple(map(str, loose))))
        else:
            self.records += [Record(split, (), str(path), path) for path in loose]
        for name in names:
            self._add_class(split, folder / name)

    def _add_class(self, split: str, folder: Path) -> None:
        def unreadable(error: OSError) -> None:
            message = f"folder {error.filename} cannot be read: {error.strerror}"
            self.errors.append(Finding("unreadable", message, (str(error.filename),)))

        pictures: list[Path] = []
        for parent, folders, files in os.walk(folder, onerror=unreadable):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            for path in (Path(parent, name) for name in sorted(files) if not name.startswith(".")):
                (pictures if is_image_name(path.name) else self.other).append(path)
        pictures.sort(key=lambda path: path.relative_to(folder).parts)
        self.records += [Record(split, (folder.name,), str(path), path) for path in pictures]

    def listing(self) -> Listing:
        if self.other:
            endings = Counter(path.suffix.lower() or "no ending" for path in self.other)
            counts = ", ".join(f"{ending} {count}" for ending, count in endings.most_common(8))
            message = f"not a picture by their ending ({counts}): nothing reads them"
            if endings.keys() & {".heic", ".heif", ".avif", ".jxl", ".jp2", ".psd", ".svg"}:
                message += "; convert pictures among them to JPEG or PNG"
            self.warnings.append(Finding("not an image", message, tuple(map(str, self.other))))
        return Listing(self.records, self.classes, tuple(self.errors), tuple(self.warnings))
