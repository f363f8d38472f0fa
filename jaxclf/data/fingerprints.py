"""Fingerprints of records: whether what was computed from a data set still belongs to it."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from jaxclf.data.archives import ZipMember
from jaxclf.data.folders import ImageBytes
from jaxclf.data.sources import DataSource


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
    """sha256 over fingerprints, in order, and over whatever else a result depends on.

    Args:
      digests: uint8 [n, 32] from `record_fingerprints`.
      **what: JSON values: strings, finite numbers, booleans, None, and lists, tuples and dicts of them. Their order
        does not count.

    Returns:
      64 hexadecimal digits.

    Raises:
      ValueError: for digests of another shape or type, or a value that JSON cannot hold, which is named.

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
