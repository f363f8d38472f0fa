"""Files that appear whole or not at all."""

import contextlib
import io
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np


def write_atomic(path: str | os.PathLike[str], content: bytes | str) -> Path:
    """Writes a file beside its place and renames it there, so a reader finds the old content or the new, never a part.

    Args:
      path: the file; its folder must exist.
      content: bytes, or text that is written as UTF-8.
    """
    path = Path(path)
    data = content.encode() if isinstance(content, str) else content
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())  # mkstemp makes it private
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
    return path


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_npz(path: str | os.PathLike[str], arrays: Mapping[str, Any]) -> Path:
    """Writes named arrays as a compressed `.npz`, atomically and without pickles."""
    buffer = io.BytesIO()
    converted = {name: np.asarray(value) for name, value in arrays.items()}
    objects = [name for name, value in converted.items() if value.dtype == object]
    if objects:
        raise ValueError(f"cannot write {path}: {', '.join(objects)} hold Python objects")
    np.savez_compressed(buffer, **converted)  # type: ignore[arg-type]  # its stub mixes up allow_pickle
    return write_atomic(path, buffer.getvalue())
