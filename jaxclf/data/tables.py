"""Tables of pictures: a CSV that names each file and what it shows."""

import csv
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, TextIO

import numpy as np

from jaxclf.data.sources import UNKNOWN_LABEL, ListedImages, listing

#: What the `split` column may say, and which part that is.
SPLIT_NAMES = {"train": "train", "valid": "valid", "val": "valid", "validation": "valid", "test": "test"}
#: Between the labels of one picture.
SEPARATOR = "|"


class Record(NamedTuple):
    """One line of a table."""

    line: int
    file: str
    labels: tuple[str, ...]
    split: str | None


class Table(NamedTuple):
    """A table as it was read.

    Attributes:
      path: of the CSV.
      records: its lines, in order.
      multi_label: whether any cell holds several labels.
      classes: every label of the training lines, sorted; of all lines where there is no `split` column.
    """

    path: Path
    records: tuple[Record, ...]
    multi_label: bool
    classes: tuple[str, ...]

    @property
    def splits(self) -> frozenset[str]:
        """The parts that the `split` column names; empty without one."""
        return frozenset(record.split for record in self.records if record.split is not None)


def read_table(path: str | os.PathLike[str]) -> Table:
    """Reads a CSV with the columns `file`, `label` and perhaps `split`; others are passed over.

    Labels are stripped of spaces at both ends and may hold spaces inside; several are separated by `|`. One cell with
    a `|` makes the whole table multi-label, and an empty label then means that none of the classes is shown. In a
    single-label table only a test line may leave its label empty.

    Raises:
      ValueError: naming file and line, for anything that does not fit.
    """
    path = Path(path)
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            records = tuple(_records(path, file))
    except FileNotFoundError as error:
        raise ValueError(f"data table {path} does not exist") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"data table {path} is not UTF-8 text ({error}); save it as UTF-8") from error
    except OSError as error:
        raise ValueError(f"data table {path} cannot be read: {error}") from error
    if not records:
        raise ValueError(f"data table {path} has a header but no lines; list one picture per line")
    multi_label = any(len(record.labels) > 1 for record in records)
    for record in records:
        if not record.labels and not multi_label and record.split != "test":
            raise ValueError(
                f"{path}, line {record.line}: {record.file} has no label; fill it in, remove the line, or mark it as "
                "test in the split column"
            )
    training = [record for record in records if record.split in (None, "train")]
    classes = tuple(sorted({label for record in training for label in record.labels}))
    return Table(path, records, multi_label, classes)


def _records(path: Path, file: TextIO) -> Iterator[Record]:
    """The records of an open CSV, each checked on its own."""
    lines = _lines(path, file)
    _, header = next(lines, (0, None))
    if header is None:
        raise ValueError(f"data table {path} is empty; its first line must be: file,label")
    columns = _columns(path, header)
    seen: dict[str, int] = {}
    for line, cells in lines:
        if not any(cells):
            continue
        if len(cells) != len(columns):
            raise ValueError(
                f"{path}, line {line}: {len(cells)} cells where the header has {len(columns)}; put quotes around "
                "cells that hold a comma"
            )
        name, label = cells[columns["file"]], cells[columns["label"]]
        if not name:
            raise ValueError(f"{path}, line {line}: the file is missing; name a picture relative to {path.parent}")
        if name in seen:
            raise ValueError(
                f"{path}, line {line}: {name} is listed already in line {seen[name]}; keep one line per picture "
                f"(several labels are separated by {SEPARATOR!r})"
            )
        seen[name] = line
        labels = tuple(part.strip() for part in label.split(SEPARATOR)) if label else ()
        if "" in labels or len(set(labels)) != len(labels):
            raise ValueError(
                f"{path}, line {line}: label {label!r} names nothing or the same twice between {SEPARATOR!r}"
            )
        split = None
        if "split" in columns:
            given = cells[columns["split"]]
            split = SPLIT_NAMES.get(given.lower())
            if split is None:
                raise ValueError(f"{path}, line {line}: split {given!r} must be one of {', '.join(SPLIT_NAMES)}")
        yield Record(line, name, labels, split)


def _lines(path: Path, file: TextIO) -> Iterator[tuple[int, list[str]]]:
    """(number, cells) of each line."""
    reader = csv.reader(file, strict=True)
    try:
        for cells in reader:
            yield reader.line_num, [cell.strip() for cell in cells]
    except csv.Error as error:
        raise ValueError(f"{path}, line {reader.line_num}: not valid CSV: {error}") from error


def _columns(path: Path, cells: list[str]) -> dict[str, int]:
    columns = {name.lower(): number for number, name in enumerate(cells)}
    for name in ("file", "label"):
        if name not in columns:
            raise ValueError(
                f"{path}, line 1: no column {name!r} among {listing(cells)}; the first line must name the columns: "
                "file,label[,split]"
            )
    if len(columns) != len(cells):
        raise ValueError(f"{path}, line 1: two columns have the same name: {', '.join(cells)}")
    return columns


class CsvTable(ListedImages):
    """Pictures listed in a CSV: `file,label[,split]`, files relative to the CSV's folder. See `read_table`.

    Args:
      path: of the CSV.
      split: "train", "valid" or "test" takes the lines of that part only; `None` takes all.
      classes: class names and their order, when they were decided before; `None` takes the labels of the training
        lines, sorted, so that every part has the same list.

    Raises:
      ValueError: naming file and line, for a table that does not fit, a picture that does not exist, a label that
        training does not have, or fewer than two classes.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | Table,
        *,
        split: str | None = None,
        classes: Sequence[str] | None = None,
    ):
        table = path if isinstance(path, Table) else read_table(path)
        if split not in (None, "train", "valid", "test"):
            raise ValueError(f"split={split!r} must be train, valid, test or None")
        records = [record for record in table.records if split is None or record.split == split]
        if not records:
            raise ValueError(f"data table {table.path} has no lines whose split is {split}")
        classes = table.classes if classes is None else tuple(classes)
        if len(classes) < 2:
            raise ValueError(
                f"data table {table.path} has {len(classes)} classes ({listing(classes)}) in its training "
                "lines; a classifier needs at least two"
            )
        numbers = {name: number for number, name in enumerate(classes)}
        paths = [table.path.parent / record.file for record in records]
        for record, picture in zip(records, paths, strict=True):
            for label in record.labels:
                if label not in numbers:
                    raise ValueError(
                        f"{table.path}, line {record.line}: {label!r} is a class that training does not have (training "
                        f"knows {listing(classes)}); add it to the training lines or correct it"
                    )
            if not picture.is_file():
                raise ValueError(
                    f"{table.path}, line {record.line}: {picture} does not exist; files are looked for relative to the "
                    "table's folder"
                )
        if table.multi_label:
            labels = np.zeros((len(records), len(classes)), np.float32)
            for row, record in zip(labels, records, strict=True):
                row[[numbers[label] for label in record.labels]] = 1
        else:
            known = [numbers[record.labels[0]] if record.labels else UNKNOWN_LABEL for record in records]
            labels = np.array(known, np.int32)
        self.table = table.path
        super().__init__(paths, [record.file for record in records], labels, classes)
