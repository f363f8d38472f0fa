"""The file of an exported classifier: a header that describes it, its program, and its arrays.

Layout: magic (8 bytes), format version (uint32), sha256 of the header (32 bytes), size of the header (uint64), the
header (JSON, with the size and the sha256 of what follows), the program (see `inference.export`) and the arrays (as
safetensors). All integers are little-endian. Nothing in it is Python, so nothing is run by reading it; the checksums
find damage, and do not say who wrote a file.
"""

import dataclasses
import hashlib
import os
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from jaxclf._files import write_atomic
from jaxclf.config import Preprocess, from_json, to_json
from jaxclf.inference.decision import calibrated_threshold

MAGIC = b"\x89jaxclf\n"
FORMAT_VERSION = 1
_PREFIX = struct.Struct("<8sI32sQ")
_MAX_HEADER = 2**26


@dataclasses.dataclass(frozen=True)
class Payload:
    """Size in bytes and checksum of a part of the file."""

    size: int
    sha256: str

    @classmethod
    def of(cls, data: bytes) -> "Payload":
        return cls(len(data), hashlib.sha256(data).hexdigest())


@dataclasses.dataclass(frozen=True)
class Description:
    """What is to be known about an exported classifier.

    Attributes:
      arch, precision: the network, and the type of its arithmetic.
      classes: names, in the order of the probabilities.
      preprocess: how pictures are prepared.
      temperature: what the logits are divided by.
      multi_label: whether pictures can have several labels.
      threshold: from which probability on, at temperature 1, a label counts.
      platforms: where it can run.
      jax_version: of the JAX that wrote its program.
    """

    arch: str
    precision: str
    classes: tuple[str, ...]
    preprocess: Preprocess
    temperature: float
    multi_label: bool
    threshold: float
    platforms: tuple[str, ...]
    jax_version: str

    def __post_init__(self) -> None:
        calibrated_threshold(self.threshold, self.temperature)  # refuses both out of range


@dataclasses.dataclass(frozen=True)
class _Header:
    classifier: Description
    program: Payload
    arrays: Payload


def write_export(
    path: str | os.PathLike[str], description: Description, program: bytes, arrays: Mapping[str, np.ndarray]
) -> Path:
    """Writes all of it, atomically.

    Args:
      path: the file; its folder must exist.
      description: of the classifier.
      program: from `jax.export`.
      arrays: its arguments by name.
    """
    from safetensors.numpy import save

    packed = save({name: np.ascontiguousarray(array) for name, array in arrays.items()})
    header = to_json(_Header(description, Payload.of(program), Payload.of(packed))).encode()
    prefix = _PREFIX.pack(MAGIC, FORMAT_VERSION, hashlib.sha256(header).digest(), len(header))
    return write_atomic(path, b"".join((prefix, header, program, packed)))


def read_export(path: str | os.PathLike[str]) -> tuple[Description, bytes, dict[str, np.ndarray]]:
    """Back from `write_export`: the description, the program, and the arrays by name. Every checksum is verified.

    Raises:
      ValueError: saying what is wrong with a file that is missing, something else, damaged, or from a newer jaxclf. The
        path is not named: the caller has it.
    """
    path = Path(path)
    if path.is_dir():
        raise ValueError("is a folder; give a file that `jaxclf export` wrote (load_run opens a RUN folder)")
    if not path.is_file():
        raise ValueError("is not a regular file" if path.exists() else "does not exist")
    try:
        with open(path, "rb") as file:
            header, program, packed = _read(file, os.fstat(file.fileno()).st_size)
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror or error}") from error
    return header.classifier, program, _unpack(packed)


def is_export(path: str | os.PathLike[str]) -> bool:
    """Whether a file begins as `write_export` lets it begin."""
    path = Path(path)
    if not path.is_file():
        return False
    with open(path, "rb") as file:
        return file.read(len(MAGIC)) == MAGIC


def _read(file: BinaryIO, size: int) -> tuple[_Header, bytes, bytes]:
    """Header, program and arrays of a file of `size` bytes, all checksums verified."""
    start = file.read(_PREFIX.size)
    if not start.startswith(MAGIC[: len(start)]) or not start:
        raise ValueError("is not a file that `jaxclf export` wrote")
    if len(start) < _PREFIX.size:
        raise ValueError(f"is cut short: it has {size} bytes")
    _, version, digest, header_size = _PREFIX.unpack(start)
    if version != FORMAT_VERSION:
        raise ValueError(
            f"has format version {version}, and this jaxclf reads {FORMAT_VERSION}: update jaxclf, or export it again"
        )
    if header_size > min(_MAX_HEADER, size):
        raise ValueError("is cut short or damaged: its header does not fit into it")
    text = file.read(header_size)
    if hashlib.sha256(text).digest() != digest:
        raise ValueError("is damaged: its header does not match its checksum")
    try:
        header = from_json(_Header, text.decode())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"has a header that makes no sense: {error}") from error
    expected = _PREFIX.size + header_size + header.program.size + header.arrays.size
    if size != expected or min(header.program.size, header.arrays.size) < 0:
        raise ValueError(f"is cut short or damaged: it has {size} bytes, and should have {expected}")
    payloads = []
    for name, payload in (("program", header.program), ("arrays", header.arrays)):
        data = file.read(payload.size)
        if Payload.of(data) != payload:
            raise ValueError(f"is damaged: its {name} does not match the checksum; export or fetch it again")
        payloads.append(data)
    return header, payloads[0], payloads[1]


def _unpack(data: bytes) -> dict[str, np.ndarray]:
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        loaded: dict[str, Any] = load(data)
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"is damaged: its arrays cannot be read ({error})") from error
    return loaded
