"""PyTorch's two containers, zip and legacy: where the pickle lies and where each storage's bytes lie, all checked."""

import io
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from mmap import mmap
from typing import Any, NamedTuple

import numpy as np

from jaxclf.weights.torch_pickle import Storage, TensorRecord, unpickle

ZIP_MAGIC = b"PK\x03\x04"
#: A pickle of the number 0x1950A86A20F9469CFC6C, with which every legacy file begins.
LEGACY_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
#: Longer than the directory or the pickle of any weights.
MAX_READ = 2**26

#: From a tensor of the file to a read-only array that shares the file's memory.
ToArray = Callable[[TensorRecord], np.ndarray]


class _Span(NamedTuple):
    """Where the bytes of a record lie; zip archives have their checksum as well."""

    start: int
    size: int
    crc: int = 0


def read_zip(data: mmap) -> tuple[Any, ToArray]:
    """The pickled value of a file of `torch.save`, and the function that makes arrays of its tensors.

    Raises:
      ValueError: for any other zip archive and for a damaged one; a sentence without its subject.
    """
    records = _zip_records(data)
    roots = [name.removesuffix("data.pkl") for name in records if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(roots) != 1:
        raise ValueError("is a zip archive but none of PyTorch's: it has no data.pkl")
    root = roots[0]
    if root + "constants.pkl" in records:
        raise ValueError("is a TorchScript program, not plain weights: save its state_dict() in PyTorch instead")
    if root + "byteorder" in records and _checked(data, records, root + "byteorder") != b"little":
        raise ValueError("was written in big-endian byte order, which is not supported; save it on another machine")
    if records[root + "data.pkl"].size > MAX_READ:
        raise ValueError(f"is not weights: its pickle is longer than {MAX_READ} bytes")
    value, _ = unpickle(io.BytesIO(_checked(data, records, root + "data.pkl")))
    starts: dict[str, int] = {}

    def to_array(record: TensorRecord) -> np.ndarray:
        storage, name = record.storage, f"{root}data/{record.storage.key}"
        if name not in starts:
            if name not in records:
                raise ValueError(f"is damaged: it has no record for storage {storage.key[:100]!r}")
            if (size := records[name].size) != storage.num_bytes:
                raise ValueError(
                    f"is damaged: storage {storage.key[:100]!r} has {size} bytes instead of {storage.num_bytes}"
                )
            _checked(data, records, name)
            starts[name] = records[name].start
        return _array(data, record, starts[name])

    return value, to_array


def read_legacy(data: mmap) -> tuple[Any, ToArray]:
    """The same as `read_zip` for the format of PyTorch before 1.6.

    The file is a row of pickles (magic number, version, system, value, storage keys), then each storage as its number
    of values (int64) and their bytes.

    Raises:
      ValueError: for a damaged file; a sentence without its subject.
    """
    data.seek(len(LEGACY_MAGIC))
    version, system = (unpickle(data).value for _ in range(2))
    if version != 1001:
        raise ValueError("has an unknown version of PyTorch's legacy format")
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise ValueError("was written in big-endian byte order, which is not supported; save it on another machine")
    value, storages = unpickle(data)
    starts = dict(_legacy_starts(data, storages, unpickle(data).value))

    def to_array(record: TensorRecord) -> np.ndarray:
        if record.storage.key not in starts:
            raise ValueError(f"is damaged: it has no bytes for storage {record.storage.key[:100]!r}")
        return _array(data, record, starts[record.storage.key])

    return value, to_array


def _legacy_starts(data: mmap, storages: Mapping[str, Storage], keys: Any) -> Iterator[tuple[str, int]]:
    """Key -> first byte of every storage."""
    if not isinstance(keys, list) or not all(isinstance(key, str) and key in storages for key in keys):
        raise ValueError("is damaged: its list of storages does not fit its tensors")
    position = data.tell()
    for key in keys:
        storage, shown = storages[key], repr(key[:100])
        if position + 8 > len(data):
            raise ValueError(f"is cut short: storage {shown} is missing")
        (num_values,) = struct.unpack_from("<q", data, position)
        if num_values != storage.num_values:
            raise ValueError(f"is damaged: storage {shown} holds {num_values} values, not {storage.num_values}")
        yield key, position + 8
        position += 8 + storage.num_bytes
        if position > len(data):
            raise ValueError(f"is cut short: storage {shown} ends {position - len(data)} bytes after the file does")


def _array(data: mmap, record: TensorRecord, start: int) -> np.ndarray:
    dtype = record.storage.dtype
    if 0 in record.shape:
        return np.zeros(record.shape, dtype)
    flat = np.frombuffer(data, dtype, record.storage.num_values, start)[record.offset :]
    strides = tuple(stride * dtype.itemsize for stride in record.strides)
    return np.lib.stride_tricks.as_strided(flat, record.shape, strides, writeable=False)


def _checked(data: mmap, records: Mapping[str, _Span], name: str) -> memoryview:
    """The bytes of a record, after comparing them with its checksum."""
    start, size, crc = records[name]
    view = memoryview(data)[start : start + size]
    if zlib.crc32(view) != crc:
        raise ValueError(f"is damaged: the checksum of its record {name[:100]!r} is wrong")
    return view


class _Bounded:
    """The file as `zipfile` reads its directory: all at once, in as many bytes as the file says."""

    def __init__(self, data: mmap):
        self.seek, self.tell, self._read = data.seek, data.tell, data.read

    def read(self, size: int = -1) -> bytes:
        if size > MAX_READ:
            raise ValueError(f"its directory has {size} bytes")
        return self._read(size)


def _zip_records(data: mmap) -> dict[str, _Span]:
    """Name -> place of every record. Records are stored as they are; PyTorch never compresses them."""
    try:
        entries = zipfile.ZipFile(_Bounded(data), metadata_encoding="utf-8").infolist()  # type: ignore[call-overload]
    except (ValueError, OSError, NotImplementedError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"is cut short or damaged: the directory at the end of the zip archive cannot be read ({error}); download "
            "or save it again"
        ) from error
    records: dict[str, _Span] = {}
    for entry in entries:
        name, size, shown = entry.filename, entry.file_size, repr(entry.filename[:100])
        if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1 or entry.compress_size != size:
            raise ValueError(f"has a compressed or encrypted record {shown}, which PyTorch never writes")
        if name in records:
            raise ValueError(f"is damaged: it has two records of the name {shown}")
        header = data[entry.header_offset : entry.header_offset + 30]
        if entry.header_offset < 0 or len(header) < 30 or not header.startswith(ZIP_MAGIC):
            raise ValueError(f"is damaged: its record {shown} is not where the directory says")
        start = entry.header_offset + 30 + sum(struct.unpack_from("<2H", header, 26))  # behind its name and extra field
        if start + size > len(data):
            raise ValueError(f"is damaged: its record {shown} reaches past the end of the file")
        records[name] = _Span(start, size, entry.CRC)
    if sum(span.size for span in records.values()) > len(data):
        raise ValueError("is damaged: its records are longer than the file")
    return records
