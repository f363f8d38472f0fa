"""What a data set is made of: digests of its pictures, for the keys of caches, and the roster that a run keeps."""

import concurrent.futures
import hashlib
import json
import os
import zlib
from collections.abc import Container
from pathlib import Path
from typing import Any

import numpy as np

from jaxclf._progress import OnProgress
from jaxclf.data.cache import default_num_threads
from jaxclf.data.folders import ImageBytes, ZipMember
from jaxclf.data.sources import DataSource, label_names, listing
from jaxclf.data.splits import Splits

#: Columns of equal length: `parts`, `names`, `labels` (text), `checksums` (crc32; -1: nothing could be read).
Roster = dict[str, np.ndarray]


def record_fingerprints(source: DataSource, *, content: bool = False) -> np.ndarray:
    """One sha256 digest per picture; labels do not enter.

    - a file: its absolute path, size and time of change in nanoseconds;
    - a picture in a zip: the zip's path, size and time, the picture's name, size and checksum;
    - pixels in memory, and records of a TensorFlow data set: their content.

    Args:
      source: any data source.
      content: the content of files and zips too, which reads every byte but survives copying and touching. Equal
        pictures then have equal fingerprints, wherever they lie.

    Returns:
      uint8 [n, 32], in the source's order.

    Raises:
      ValueError: naming the picture, if a file is gone.
    """
    zips: dict[str, list[Any]] = {}
    digests = [_fingerprint(source[index].image, content, zips) for index in range(len(source))]
    return np.frombuffer(b"".join(digests), np.uint8).reshape(len(digests), 32)


def _fingerprint(image: Path | np.ndarray | ImageBytes, content: bool, zips: dict[str, list[Any]]) -> bytes:
    if isinstance(image, np.ndarray):
        shape = f"pixels {image.dtype.str} {list(image.shape)}\n".encode()
        return hashlib.sha256(shape + np.ascontiguousarray(image).tobytes()).digest()
    try:
        if isinstance(image, Path) and not content:
            return _digest("file", *_place(image))
        if isinstance(image, ZipMember) and not content:
            if image.archive not in zips:  # asked once, not for each of its pictures
                zips[image.archive] = _place(Path(image.archive))
            return _digest("zip", *zips[image.archive], image.name, image.crc, image.size)
        return hashlib.sha256(b"bytes\n" + image.read_bytes()).digest()
    except OSError as error:
        raise ValueError(f"image {image} cannot be read: {error}; restore it or open the data again") from error


def _place(path: Path) -> list[Any]:
    stat = path.stat()
    return [os.path.abspath(path), stat.st_size, stat.st_mtime_ns]


def _digest(*what: Any) -> bytes:
    return hashlib.sha256(json.dumps(what).encode()).digest()


def dataset_key(digests: np.ndarray, **what: Any) -> str:
    """sha256 over fingerprints, in order, and over whatever else a result depends on: 64 hexadecimal digits.

    Args:
      digests: uint8 [n, 32] from `record_fingerprints`.
      **what: JSON values: strings, finite numbers, booleans, None, and lists, tuples and dicts of them. Their order
        does not count.

    >>> digests = np.zeros((2, 32), np.uint8)
    >>> dataset_key(digests, size=224, dtype="float16") == dataset_key(digests, dtype="float16", size=224)
    True
    >>> dataset_key(digests, size=224) == dataset_key(digests[:1], size=224)
    False
    """
    if digests.dtype != np.uint8 or digests.ndim != 2 or digests.shape[1] != 32:
        raise ValueError(f"digests must be uint8 [n, 32]; got {digests.dtype} {list(digests.shape)}")
    for name, value in what.items():
        try:
            json.dumps(value, allow_nan=False, sort_keys=True)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{name}={value!r} cannot be part of a key: {error}; give plain JSON values") from error
    rest = json.dumps(what, sort_keys=True, separators=(",", ":")).encode()
    return hashlib.sha256(b"%d\n%d\n" % (len(rest), len(digests)) + rest + digests.tobytes()).hexdigest()


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
            rows += [(part, source.name(index), "|".join(label_names(source, index))) for index in range(len(source))]
            for checksum in pool.map(lambda index, source=source: _checksum(source, index), range(len(source))):
                checksums.append(checksum)
                if on_progress is not None and len(checksums) % 100 == 0:
                    on_progress(len(checksums), total)
    columns = dict(zip(("parts", "names", "labels"), np.array(rows, np.str_).reshape(-1, 3).T, strict=True))
    return {**columns, "checksums": np.array(checksums, np.int64)}


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


def roster_of(roster: Roster, parts: Container[str]) -> Roster:
    """The lines of a roster that belong to some of its parts."""
    chosen = np.array([str(part) in parts for part in roster["parts"]], bool)
    return {name: column[chosen] for name, column in roster.items()}


def roster_differences(before: Roster, after: Roster) -> list[str]:
    """What changed between two rosters, a line per kind of change. Names tell pictures apart, within their part."""
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
