"""Which pictures a run was made of: part, name, label and checksum of each, to tell what has changed since."""

import concurrent.futures
import zlib
from pathlib import Path

import numpy as np

from jaxclf._progress import OnProgress
from jaxclf.data.archives import ZipMember
from jaxclf.data.loader import default_num_threads
from jaxclf.data.sources import DataSource, listing
from jaxclf.data.splits import Splits

#: Columns of equal length: `parts`, `names`, `labels` (text), `checksums` (crc32; -1: nothing could be read).
Roster = dict[str, np.ndarray]


def make_roster(splits: Splits, on_progress: OnProgress | None = None) -> Roster:
    """The pictures of all parts. Every byte of a file is read once; of a zip, its table of contents is enough.

    `on_progress` is called with (pictures done, pictures in all).
    """
    parts = {"train": splits.train, "valid": splits.valid, "test": splits.test}
    total = sum(len(source) for source in parts.values() if source is not None)
    rows: list[tuple[str, str, str]] = []
    checksums: list[int] = []
    with concurrent.futures.ThreadPoolExecutor(default_num_threads()) as pool:
        for part, source in parts.items():
            if source is None:
                continue
            rows += [(part, source.name(index), _label(source, index)) for index in range(len(source))]
            for checksum in pool.map(lambda index, source=source: _checksum(source, index), range(len(source))):
                checksums.append(checksum)
                if on_progress is not None and len(checksums) % 100 == 0:
                    on_progress(len(checksums), total)
    columns = dict(zip(("parts", "names", "labels"), np.array(rows, np.str_).reshape(-1, 3).T, strict=True))
    return {**columns, "checksums": np.array(checksums, np.int64)}


def _label(source: DataSource, index: int) -> str:
    label = source.labels[index]
    if source.multi_label:
        return "|".join(source.classes[i] for i in np.flatnonzero(label))
    return source.classes[int(label)] if label >= 0 else ""


def _checksum(source: DataSource, index: int) -> int:
    image = source[index].image
    if isinstance(image, np.ndarray):
        return zlib.crc32(np.ascontiguousarray(image).tobytes())
    if isinstance(image, ZipMember):
        return image.crc
    try:
        return zlib.crc32(image.read_bytes())
    except (OSError, ValueError):  # whether a run can do without it is decided where it is decoded
        return -1


def roster_differences(before: Roster, after: Roster) -> list[str]:
    """What changed between two rosters, a line per kind of change; [] where nothing did.

    Args:
      before, after: from `make_roster`. Names tell pictures apart, within their part.
    """
    old, new = (
        {
            (str(part), str(name)): (str(label), int(checksum))
            for part, name, label, checksum in zip(
                roster["parts"], roster["names"], roster["labels"], roster["checksums"], strict=True
            )
        }
        for roster in (before, after)
    )
    both = [key for key in old if key in new]
    moved = [key for key in both if old[key][0] != new[key][0]]
    edited = [key for key in both if old[key][1] != new[key][1] and old[key][0] == new[key][0]]
    kinds = {
        "are gone": [key for key in old if key not in new],
        "are new": [key for key in new if key not in old],
        "have another label": moved,
        "have other contents": edited,
    }
    lines = [
        f"{len(keys)} pictures {what}: {listing([f'{part}/{Path(name).as_posix()}' for part, name in keys], 4)}"
        for what, keys in kinds.items()
        if keys
    ]
    if not lines and list(old) != list(new):
        lines = ["the pictures come in another order"]
    return lines
