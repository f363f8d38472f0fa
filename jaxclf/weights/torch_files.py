"""PyTorch's two containers, zip and legacy: where the pickle lies and where each storage's bytes lie, all checked."""

import io
import struct
import zlib
from collections.abc import Callable, Iterator
from mmap import mmap
from typing import Any, NamedTuple

import numpy as np

from jaxclf.weights.torch_pickle import Unpickled, unpickle
from jaxclf.weights.torch_symbols import Storage, TensorRecord

ZIP_MAGIC = b"PK\x03\x04"
#: A pickle of the number 0x1950A86A20F9469CFC6C, with which every legacy file begins.
LEGACY_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
MAX_RECORDS = 100_000
MAX_PICKLE_BYTES = 2**26

#: From a tensor of the file to a read-only array that shares the file's memory.
ToArray = Callable[[TensorRecord], np.ndarray]


class _Span(NamedTuple):
    start: int
    end: int
    crc: int | None = None


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
    if root + "byteorder" in records and _checked(data, records[root + "byteorder"], "byteorder") != b"little":
        raise ValueError("was written in big-endian byte order, which is not supported; save it on another machine")
    span = records[root + "data.pkl"]
    if span.end - span.start > MAX_PICKLE_BYTES:
        raise ValueError(f"is not weights: its pickle is longer than {MAX_PICKLE_BYTES} bytes")
    unpickled = unpickle(io.BytesIO(_checked(data, span, "data.pkl")))
    spans: dict[str, _Span] = {}

    def to_array(record: TensorRecord) -> np.ndarray:
        key = record.storage.key
        if key not in spans:
            name = f"{root}data/{key}"
            if name not in records:
                raise ValueError(f"is damaged: it has no record for storage {key[:100]!r}")
            _check_size(record.storage, records[name])
            _checked(data, records[name], name)
            spans[key] = records[name]
        return _array(data, record, spans[key].start)

    return unpickled.value, to_array


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
    unpickled = unpickle(data)
    spans = dict(_legacy_spans(data, unpickled, unpickle(data).value))

    def to_array(record: TensorRecord) -> np.ndarray:
        if record.storage.key not in spans:
            raise ValueError(f"is damaged: it has no bytes for storage {record.storage.key[:100]!r}")
        return _array(data, record, spans[record.storage.key].start)

    return unpickled.value, to_array


def _legacy_spans(data: mmap, unpickled: Unpickled, keys: Any) -> Iterator[tuple[str, _Span]]:
    if not isinstance(keys, list) or not all(isinstance(key, str) and key in unpickled.storages for key in keys):
        raise ValueError("is damaged: its list of storages does not fit its tensors")
    position = data.tell()
    for key in keys:
        storage = unpickled.storages[key]
        if position + 8 > len(data):
            raise ValueError(f"is cut short: storage {key[:100]!r} is missing")
        (num_values,) = struct.unpack_from("<q", data, position)
        span = _Span(position + 8, position + 8 + storage.num_values * storage.dtype.itemsize)
        if num_values != storage.num_values:
            raise ValueError(f"is damaged: storage {key[:100]!r} holds {num_values} values, not {storage.num_values}")
        if span.end > len(data):
            raise ValueError(
                f"is cut short: storage {key[:100]!r} ends {span.end - len(data)} bytes after the file does"
            )
        yield key, span
        position = span.end


def _array(data: mmap, record: TensorRecord, start: int) -> np.ndarray:
    dtype = record.storage.dtype
    if 0 in record.shape:
        return np.zeros(record.shape, dtype)
    flat = np.frombuffer(data, dtype, record.storage.num_values, start)[record.offset :]
    strides = tuple(stride * dtype.itemsize for stride in record.strides)
    return np.lib.stride_tricks.as_strided(flat, record.shape, strides, writeable=False)


def _check_size(storage: Storage, span: _Span) -> None:
    expected, found = storage.num_values * storage.dtype.itemsize, span.end - span.start
    if expected != found:
        raise ValueError(f"is damaged: storage {storage.key[:100]!r} has {found} bytes instead of {expected}")


def _checked(data: mmap, span: _Span, name: str) -> memoryview:
    """The bytes of a record, after comparing them with its checksum."""
    view = memoryview(data)[span.start : span.end]
    if zlib.crc32(view) != span.crc:
        raise ValueError(f"is damaged: the checksum of its record {name[:100]!r} is wrong")
    return view


def _zip_records(data: mmap) -> dict[str, _Span]:
    """Name -> place of every record. Records are stored as they are; PyTorch never compresses them."""
    size, start, count = _zip_directory(data)
    if count > MAX_RECORDS:
        raise ValueError(f"is not weights: a zip archive of {count} records")
    records: dict[str, _Span] = {}
    position, end, total = start, start + size, 0
    for _ in range(count):
        if position + 46 > end:
            raise ValueError("is damaged: its zip directory is shorter than it should be")
        fields = struct.unpack_from("<4s6H3I3H2H2I", data, position)
        (magic, _, _, flags, method, _, _, crc, packed, unpacked), (name_size, extra_size, comment_size) = (
            fields[:10],
            fields[10:13],
        )
        offset = fields[16]
        names_end = position + 46 + name_size
        if magic != b"PK\x01\x02" or names_end + extra_size + comment_size > end:
            raise ValueError("is damaged: its zip directory makes no sense")
        name = data[position + 46 : names_end].decode("utf-8", "replace")
        unpacked, packed, offset = _zip64(data[names_end : names_end + extra_size], unpacked, packed, offset)
        if method != 0 or flags & 1 or packed != unpacked:
            raise ValueError(f"has a compressed or encrypted record {name[:100]!r}, which PyTorch never writes")
        if name in records:
            raise ValueError(f"is damaged: it has two records of the name {name[:100]!r}")
        records[name] = _zip_span(data, name, offset, unpacked, crc)
        total += unpacked
        if total > len(data):
            raise ValueError("is damaged: its records are longer than the file")
        position = names_end + extra_size + comment_size
    return records


def _zip_span(data: mmap, name: str, offset: int, size: int, crc: int) -> _Span:
    if offset + 30 > len(data) or data[offset : offset + 4] != ZIP_MAGIC:
        raise ValueError(f"is damaged: its record {name[:100]!r} is not where the directory says")
    name_size, extra_size = struct.unpack_from("<2H", data, offset + 26)
    start = offset + 30 + name_size + extra_size
    if start + size > len(data):
        raise ValueError(f"is damaged: its record {name[:100]!r} reaches past the end of the file")
    return _Span(start, start + size, crc)


def _zip_directory(data: mmap) -> tuple[int, int, int]:
    """(size, start, number of records) of the directory at the archive's end."""
    cut = ValueError(
        "is cut short or damaged: a zip archive without the directory at its end; download or save it again"
    )
    end = data.rfind(b"PK\x05\x06", max(0, len(data) - 22 - 2**16))
    if end < 0 or end + 22 > len(data):
        raise cut
    count, size, start = struct.unpack_from("<H2I", data, end + 10)
    locator = end - 20
    if locator >= 0 and data[locator : locator + 4] == b"PK\x06\x07":
        (record,) = struct.unpack_from("<Q", data, locator + 8)
        if record + 56 > locator or data[record : record + 4] != b"PK\x06\x06":
            raise cut
        count, size, start = struct.unpack_from("<3Q", data, record + 32)
    if start + size > end:
        raise cut
    return size, start, count


def _zip64(extra: bytes, *values: int) -> tuple[int, ...]:
    """The values of a directory entry, those that read 0xFFFFFFFF replaced by the 64-bit ones of its extra field."""
    position = 0
    while position + 4 <= len(extra):
        kind, size = struct.unpack_from("<2H", extra, position)
        if kind == 1:
            field = extra[position + 4 : position + 4 + size]
            longs = iter(struct.unpack(f"<{len(field) // 8}Q", field[: len(field) // 8 * 8]))
            return tuple(next(longs, value) if value == 0xFFFFFFFF else value for value in values)
        position += 4 + size
    return values
