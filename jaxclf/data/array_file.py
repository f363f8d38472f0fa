"""An array on disk, filled row by row: keyed, checksummed, atomic, resumable. What the caches are kept in.

Layout: the rows, back to back; the CRC-32 of each row; a JSON note; its length; a magic word. Everything that says what
the file is stands at its end, so a file that was cut off never looks whole.
"""

import contextlib
import json
import math
import os
import struct
import tempfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxclf._progress import OnProgress

try:
    import fcntl
except ImportError:  # no such locks on this system: every writer then writes a private copy
    fcntl = None  # type: ignore[assignment]

MAGIC = b"jaxclf-array-1\n"
_LENGTH, _ENTRY = struct.Struct("<Q"), struct.Struct("<II")


class ArrayFileError(ValueError):
    """The file itself cannot be written: a full disk, a folder without rights."""


class ArrayOnDisk:
    """A finished array file: `array[i]` reads row i, `array.shape` and `array.dtype` say what it holds.

    Rows are read when they are asked for and kept by the system's own file cache. They are not memory-mapped: a mapping
    whose file is cut off kills the process, a read only fails.

    `note` is the JSON that was stored beside the array.
    """

    def __init__(self, path: Path, shape: tuple[int, ...], dtype: np.dtype, note: dict[str, Any]):
        self.path, self.shape, self.dtype, self.note = path, shape, dtype, note
        self._row_bytes = math.prod(shape[1:]) * dtype.itemsize
        self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def __len__(self) -> int:
        return self.shape[0]

    def view(self, dtype: Any) -> "ArrayOnDisk":
        """The same rows read as another type of as many bytes: a file cannot name bfloat16."""
        return ArrayOnDisk(self.path, self.shape, np.dtype(dtype), self.note)

    def __getitem__(self, index: int) -> np.ndarray:
        """Row `index`, a copy of its own, for any number of threads. `ArrayFileError` if the file was cut off since."""
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        data = os.pread(self._file, self._row_bytes, index * self._row_bytes)
        if len(data) < self._row_bytes:
            raise ArrayFileError(f"the cache {self.path} was cut short while it was read; remove it and start again")
        return np.frombuffer(data, self.dtype).reshape(self.shape[1:])

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            os.close(self._file)


def open_array(path: str | os.PathLike[str], key: str, on_progress: OnProgress | None = None) -> ArrayOnDisk | None:
    """Opens a finished array file and checks every row against its checksum.

    None if there is no such file, or it is stale (made with another `key`), cut short, or damaged anywhere.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            tail = len(MAGIC) + _LENGTH.size
            if size < tail:
                return None
            file.seek(size - tail)
            end = file.read(tail)
            (length,) = _LENGTH.unpack(end[: _LENGTH.size])
            if end[_LENGTH.size :] != MAGIC or length > size - tail:
                return None
            file.seek(size - tail - length)
            header = json.loads(file.read(length))
            shape, dtype = tuple(header["shape"]), np.dtype(header["dtype"])
            row_bytes = math.prod(shape[1:]) * dtype.itemsize
            if header["key"] != key or size != shape[0] * (row_bytes + 4) + length + tail:
                return None
            file.seek(shape[0] * row_bytes)
            checksums = np.frombuffer(file.read(4 * shape[0]), "<u4")
    except (OSError, ValueError, KeyError, TypeError):
        return None
    array = ArrayOnDisk(path, shape, dtype, header["note"])
    for index, checksum in enumerate(checksums):
        try:
            if zlib.crc32(array[index].tobytes()) != checksum:
                return None
        except ArrayFileError:
            return None
        if on_progress is not None:
            on_progress(index + 1, shape[0])
    return array


class ArrayWriter:
    """Fills an array file row by row, from any number of threads; `finish` puts it in its place.

    Rows go into a `.partial` file, each noted in a journal once it is written. If the process is killed, the next
    writer of the same key finds them and `missing` names only the rest. While one process fills a file, another that
    wants the same one writes a private copy; whichever finishes last is kept, and both hold the same rows.

    `path` is where the finished file goes (its folder is made), `key` what the array [n, ...] is made from. What cannot
    be written, here or later, is an `ArrayFileError` that names the file.
    """

    def __init__(self, path: str | os.PathLike[str], shape: tuple[int, ...], dtype: Any, key: str):
        self.path = Path(path)
        self.shape, self.dtype, self.key = tuple(shape), np.dtype(dtype), key
        self._row_bytes = math.prod(self.shape[1:]) * self.dtype.itemsize
        self._checksums = np.zeros(self.shape[0], "<u4")
        self._done = np.zeros(self.shape[0], bool)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._open()
        except OSError as error:
            raise self._unwritable(error) from error

    def _unwritable(self, error: OSError) -> ArrayFileError:
        return ArrayFileError(
            f"cannot write the cache {self.path}: {error.strerror or error}; make room or choose another folder"
        )

    def _open(self) -> None:
        self._partial = self.path.with_name(f".{self.path.name}.partial")
        self._journal = self.path.with_name(f".{self.path.name}.journal")
        self._file = os.open(self._partial, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            if fcntl is not None:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # The owner before us may have renamed the file between our open and our lock.
            owned = fcntl is not None and os.path.samestat(os.fstat(self._file), os.stat(self._partial))
        except (BlockingIOError, FileNotFoundError):
            owned = False
        if not owned:
            os.close(self._file)
            self._file, name = tempfile.mkstemp(prefix=f".{self.path.name}.", suffix=".partial", dir=self.path.parent)
            self._partial = Path(name)
            self._journal = Path(f"{name}.journal")
        self._resume()
        self._entries = os.open(self._journal, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)

    def _resume(self) -> None:
        """Takes over the rows that the journal names and whose checksums hold."""
        try:
            data = self._journal.read_bytes()
        except OSError:
            data = b""
        start = self.key.encode()
        whole = data[: len(start) + (len(data) - len(start)) // _ENTRY.size * _ENTRY.size]
        if data.startswith(start):
            for index, checksum in _ENTRY.iter_unpack(whole[len(start) :]):
                row = os.pread(self._file, self._row_bytes, index * self._row_bytes) if index < self.shape[0] else b""
                if len(row) == self._row_bytes and zlib.crc32(row) == checksum:
                    self._checksums[index], self._done[index] = checksum, True
            if len(whole) < len(data):  # the last entry was cut off: entries after it would be read askew
                os.truncate(self._journal, len(whole))
        else:
            os.ftruncate(self._file, 0)
            self._journal.write_bytes(start)

    @property
    def missing(self) -> np.ndarray:
        """int64: the rows that are still to be written, in order."""
        return np.flatnonzero(~self._done)

    def write(self, index: int, row: np.ndarray) -> None:
        """Writes one row; threads may write different rows at once. ValueError for another shape or type."""
        if row.shape != self.shape[1:] or row.dtype != self.dtype:
            raise ValueError(f"row {index} is {row.dtype} {list(row.shape)}, not {self.dtype} {list(self.shape[1:])}")
        data = np.ascontiguousarray(row).tobytes()
        checksum = zlib.crc32(data)
        try:
            _write_all(self._file, data, index * self._row_bytes)
            _write_all(self._entries, _ENTRY.pack(index, checksum), None)
        except OSError as error:
            raise self._unwritable(error) from error
        self._checksums[index], self._done[index] = checksum, True

    def finish(self, note: dict[str, Any] | None = None, *, without: Sequence[int] = ()) -> Path:
        """Puts the file in its place, with `note`, any JSON.

        Rows in `without` were left out on purpose and read as zeros; ValueError if others are missing.
        """
        missing = np.setdiff1d(self.missing, np.asarray(without, np.int64))
        if len(missing):
            raise ValueError(f"{self.path}: {len(missing)} of {self.shape[0]} rows were not written")
        header = {"key": self.key, "shape": self.shape, "dtype": self.dtype.str, "note": note or {}}
        text = json.dumps(header).encode()
        try:
            for index in self.missing:
                self._checksums[index] = zlib.crc32(bytes(self._row_bytes))
                _write_all(self._file, bytes(self._row_bytes), int(index) * self._row_bytes)
            end = self._checksums.tobytes() + text + _LENGTH.pack(len(text)) + MAGIC
            _write_all(self._file, end, self.shape[0] * self._row_bytes)
            os.ftruncate(self._file, self.shape[0] * self._row_bytes + len(end))
            os.fsync(self._file)
            os.replace(self._partial, self.path)
        except OSError as error:
            raise self._unwritable(error) from error
        self._journal.unlink(missing_ok=True)
        self.close()
        return self.path

    def close(self) -> None:
        """Lets go of the files. What was written stays for the next writer, unless it was a private copy."""
        if self._file < 0:
            return
        if self._partial.name != f".{self.path.name}.partial":
            for path in (self._partial, self._journal):
                with contextlib.suppress(OSError):
                    path.unlink(missing_ok=True)
        os.close(self._file)
        os.close(self._entries)
        self._file = -1


def _write_all(file: int, data: bytes, offset: int | None) -> None:
    """Writes all of `data`, at `offset` or appended; one system call unless the disk is nearly full."""
    view = memoryview(data)
    while len(view):
        if offset is None:
            written = os.write(file, view)
        else:
            written = os.pwrite(file, view, offset)
            offset += written
        view = view[written:]
