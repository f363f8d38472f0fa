"""Weights files to state dicts: safetensors and both of PyTorch's formats, without torch and without running anything;
and back, as .safetensors.

What a file is, is told by its first bytes, never by its name. The arrays are read-only views into the memory-mapped
file wherever that is possible, so reading costs next to nothing and only what is used is ever fetched.
"""

import dataclasses
import hashlib
import json
import math
import mmap
import os
import stat
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from jaxclf._files import write_atomic
from jaxclf.config import PretrainedConfig, to_json
from jaxclf.weights.torch import LEGACY_MAGIC, ZIP_MAGIC, read_legacy, read_zip
from jaxclf.weights.torch_pickle import TensorRecord

_SIZES = {"F": (8, 4, 2), "I": (8, 4, 2, 1), "U": (8, 4, 2, 1)}
_DTYPES = {
    **{f"{kind}{8 * size}": np.dtype(f"{kind.lower()}{size}") for kind, sizes in _SIZES.items() for size in sizes},
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "BOOL": np.dtype(np.bool_),
}
#: Where training scripts keep the state dict, averaged weights (EMA) first: those are what such scripts evaluate.
WRAPPERS = ("state_dict_ema", "model_ema", "ema_state_dict", "ema", "state_dict", "model_state_dict", "model", "module")
#: What DistributedDataParallel, AveragedModel and torch.compile put in front of every name.
PREFIXES = ("module.", "_orig_mod.")
_MAX_WRAPPERS = 4
_NOT_WEIGHTS = (
    (b"version https://git-lfs", "is a Git LFS pointer, not the weights themselves: fetch them with `git lfs pull`"),
    (b"\x89HDF", "is an HDF5 file (Keras); save the weights as .safetensors instead"),
    (b"\x1f\x8b", "is a gzip archive: unpack it first"),
    (b"PK\x05\x06", "is an empty zip archive"),
    (
        b"\x80",
        "is a plain pickle, which can run any program when it is loaded, and none of PyTorch's formats; it was refused",
    ),
)


def read_state_dict(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """The tensors of a weights file by name, in the file's order and with its dtypes.

    Reads .safetensors, and PyTorch's zip and legacy formats (.pth, .pt, .bin), whatever the file is called. State dicts
    inside `state_dict`, `model` and their like are found (averaged ones first), and `module.` and `_orig_mod.` in front
    of every name are dropped.

    Args:
      path: the file.

    Returns:
      Name -> read-only array; bfloat16 as `ml_dtypes.bfloat16`. The arrays keep the file mapped while they live.

    Raises:
      ValueError: naming the path, if the file is missing, empty, cut short, damaged or something else than weights, or
        if it asks for anything but plain tensors, which is then named. Nothing in it is ever run.
    """
    path = Path(path)
    try:
        return _strip_prefixes(_read(_map(path)))
    except (RecursionError, struct.error) as error:
        raise ValueError(f"weights file {path} is damaged ({type(error).__name__})") from error
    except ValueError as error:
        raise ValueError(f"weights file {path} {error}") from error


def file_sha256(path: str | os.PathLike[str]) -> str:
    """The SHA-256 of a file's bytes, 64 hexadecimal digits.

    Raises:
      ValueError: if it cannot be read.
    """
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ValueError(f"weights file {path} cannot be read: {error.strerror or error}") from error


def save_state_dict(
    path: str | os.PathLike[str],
    state_dict: Mapping[str, np.ndarray],
    config: PretrainedConfig,
    *,
    overwrite: bool = False,
) -> Path:
    """Writes a state dict as .safetensors, and `config` as .json beside it; `load_weights` reads both.

    Args:
      path: the file; it must end in .safetensors.
      state_dict: entry name -> array, from `to_state_dict`; `load_state_dict(.., strict=True)` takes it in PyTorch.
      config: what is to be known about the weights; its `sha256` is replaced by the file's.
      overwrite: replace files that exist.

    Returns:
      The path.

    Raises:
      ValueError: for another suffix, a missing folder, or a file that exists.
    """
    from safetensors.numpy import save

    path = Path(path)
    description = path.with_suffix(".json")
    if path.suffix != ".safetensors":
        raise ValueError(f"file {path} must end in .safetensors")
    if not path.parent.is_dir():
        raise ValueError(f"folder {path.parent} does not exist; make it first")
    existing = next((file for file in (path, description) if file.exists()), None)
    if existing is not None and not overwrite:
        raise ValueError(f"file {existing} exists already; choose another name, or replace it with --overwrite")
    write_atomic(path, save(dict(state_dict), {"format": "pt"}))
    write_atomic(description, to_json(dataclasses.replace(config, sha256=file_sha256(path))))
    return path


def _map(path: Path) -> mmap.mmap:
    """The file in memory, read-only."""
    try:
        with open(path, "rb", opener=_open_at_once) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise ValueError("is not a regular file")
            if status.st_size == 0:
                raise ValueError("is empty (0 bytes); download or save it again")
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except FileNotFoundError as error:
        raise ValueError("does not exist") from error
    except IsADirectoryError as error:
        raise ValueError("is a folder; name the file in it") from error
    except OSError as error:
        raise ValueError(f"cannot be opened: {error.strerror or error}") from error


def _open_at_once(path: str, flags: int) -> int:
    """Opens without waiting for a writer, should the path be a named pipe."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _read(data: mmap.mmap) -> dict[str, np.ndarray]:
    """The tensors of a mapped file; which format it has, its first bytes say."""
    start = data[:512]
    if start.startswith((ZIP_MAGIC, LEGACY_MAGIC)):
        value, to_array = read_zip(data) if start.startswith(ZIP_MAGIC) else read_legacy(data)
        return {name: to_array(record) for name, record in _find_state_dict(value).items()}
    if start[3:9] == bytes(5) + b"{":  # a header of less than 2^24 bytes
        return _read_safetensors(data)
    for magic, description in _NOT_WEIGHTS:
        if start.startswith(magic):
            raise ValueError(description)
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        raise ValueError(
            "is a web page, not weights: the download was answered with HTML; check the address or sign in"
        )
    if start[257:262] == b"ustar":
        raise ValueError("is a tar archive (PyTorch before 0.2 wrote such): unpack it, or save it again with PyTorch")
    if len(data) < 16:
        raise ValueError(f"is cut short: it has {len(data)} bytes")
    raise ValueError("is neither safetensors nor a file of PyTorch's; known are .safetensors, .pth, .pt and .bin")


def _read_safetensors(data: mmap.mmap) -> dict[str, np.ndarray]:
    """Header length (8 bytes), JSON header, then the tensors' bytes without gaps."""
    (header_size,) = struct.unpack_from("<Q", data, 0)
    start = 8 + header_size
    if start > len(data):
        raise ValueError(f"is cut short: {len(data)} bytes, and its header alone has {header_size}")
    try:
        header = json.loads(data[8:start].decode("utf-8"), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"is damaged: its safetensors header cannot be read ({str(error)[:200]})") from error
    if not isinstance(header, dict):
        raise ValueError("is damaged: its safetensors header is not a table")
    header.pop("__metadata__", None)
    if not header:
        raise ValueError("holds no tensors")
    spans = {name: _safetensors_entry(name, entry) for name, entry in header.items()}
    position = 0
    for name, (_, _, begin, end) in sorted(spans.items(), key=lambda item: item[1][2:]):
        if begin != position:
            raise ValueError(f"is damaged: tensor {name[:100]!r} begins at byte {begin}, not at {position}")
        position = end
    if start + position != len(data):
        which = "cut short" if start + position > len(data) else "damaged"
        raise ValueError(f"is {which}: its header promises {position} bytes of tensors and it has {len(data) - start}")
    return {
        name: np.frombuffer(data, dtype, math.prod(shape), start + begin).reshape(shape)
        if begin < end
        else np.zeros(shape, dtype)
        for name, (dtype, shape, begin, end) in spans.items()
    }


def _safetensors_entry(name: str, entry: Any) -> tuple[np.dtype, tuple[int, ...], int, int]:
    """(dtype, shape, begin, end) of one tensor, checked against each other."""
    fault = ValueError(f"is damaged: the description of tensor {name[:100]!r} makes no sense")
    if not isinstance(entry, dict) or not {"dtype", "shape", "data_offsets"} <= entry.keys():
        raise fault
    shape, offsets = entry["shape"], entry["data_offsets"]
    if not all(
        isinstance(values, list) and all(type(v) is int and 0 <= v < 2**63 for v in values)
        for values in (shape, offsets)
    ):
        raise fault
    if entry["dtype"] not in _DTYPES:
        raise ValueError(
            f"holds tensor {name[:100]!r} of type {str(entry['dtype'])[:100]}; known are {', '.join(_DTYPES)}"
        )
    dtype = _DTYPES[entry["dtype"]]
    if len(shape) > 16 or len(offsets) != 2 or offsets[1] - offsets[0] != math.prod(shape) * dtype.itemsize:
        raise fault
    return dtype, tuple(shape), offsets[0], offsets[1]


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        raise ValueError("a name is there twice")
    return table


def _find_state_dict(value: Any, depth: int = 0) -> Mapping[str, TensorRecord]:
    """The dictionary of tensors in what a checkpoint holds, through at most a few wrappers."""
    if not isinstance(value, dict):
        raise ValueError(f"holds a {type(value).__name__}, not a state dict: save model.state_dict() in PyTorch")
    if not value:
        raise ValueError("holds no tensors: an empty state dict")
    if any(isinstance(entry, TensorRecord) for entry in value.values()):
        for name, entry in value.items():
            if not isinstance(name, str) or not isinstance(entry, TensorRecord):
                kind = type(entry).__name__
                raise ValueError(
                    f"is not a plain state dict: its entry {str(name)[:100]!r} is of type {kind}, not a tensor"
                )
        return value
    for key in WRAPPERS:
        if isinstance(value.get(key), dict) and depth < _MAX_WRAPPERS:
            return _find_state_dict(value[key], depth + 1)
    names = ", ".join(str(name)[:100] for name in list(value)[:10])
    raise ValueError(f"has no state dict: looked for {', '.join(WRAPPERS)} among its entries {names}")


def _strip_prefixes(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Drops prefixes that all names share, and the counter that `torch.optim.swa_utils.AveragedModel` adds."""
    if "n_averaged" in tensors and all(name.startswith("module.") for name in tensors if name != "n_averaged"):
        tensors = {name: array for name, array in tensors.items() if name != "n_averaged"}
    for _ in range(_MAX_WRAPPERS):
        prefix = next((p for p in PREFIXES if all(name.startswith(p) for name in tensors)), "")
        tensors = {name.removeprefix(prefix): array for name, array in tensors.items()}
    return tensors
