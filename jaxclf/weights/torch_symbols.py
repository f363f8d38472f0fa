"""The names that PyTorch's weights may ask for, and what each stands for: records of plain values, never code.

This is the whole allow-list of `torch_pickle`. A file that asks for any other name is refused, and the name is said.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

MAX_RANK = 16
MAX_VALUES = 2**48


class Symbol(NamedTuple):
    """A name out of the allow-list that the file asks for, "module.name"."""

    name: str


class Storage(NamedTuple):
    """A stretch of values that the container holds under `key`."""

    key: str
    dtype: np.dtype
    num_values: int


class TensorRecord(NamedTuple):
    """A view into a storage; offset and strides count values, not bytes."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class Opaque(NamedTuple):
    """A value of a harmless kind but no weights, such as an `argparse.Namespace`. Its content is dropped."""

    name: str


_STORAGES = {
    "torch.DoubleStorage": np.dtype(np.float64),
    "torch.FloatStorage": np.dtype(np.float32),
    "torch.HalfStorage": np.dtype(np.float16),
    "torch.BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "torch.LongStorage": np.dtype(np.int64),
    "torch.IntStorage": np.dtype(np.int32),
    "torch.ShortStorage": np.dtype(np.int16),
    "torch.CharStorage": np.dtype(np.int8),
    "torch.ByteStorage": np.dtype(np.uint8),
    "torch.BoolStorage": np.dtype(np.bool_),
}
#: Kinds that training scripts leave beside the weights: arguments, scores, paths, dates. They become `Opaque`.
_HARMLESS = frozenset(
    f"{module}.{name}"
    for modules, names in (
        (("argparse",), ("Namespace",)),
        (("builtins", "__builtin__"), ("dict", "float", "frozenset", "int", "list", "set", "str", "tuple")),
        (("_codecs",), ("encode",)),
        (("collections",), ("Counter", "defaultdict")),
        (("datetime",), ("date", "datetime", "timedelta")),
        (("numpy",), ("dtype", "ndarray")),
        (("numpy.core.multiarray", "numpy._core.multiarray"), ("_reconstruct", "scalar")),
        (("pathlib", "pathlib._local"), ("Path", "PosixPath", "WindowsPath")),
        (("torch",), ("Size", "bfloat16", "device", "float16", "float32", "float64", "int32", "int64")),
    )
    for module in modules
    for name in names
)


def _natural(value: Any, what: str) -> int:
    if type(value) is not int or not 0 <= value < MAX_VALUES:
        raise ValueError(f"is damaged: a tensor's {what} is not a whole number from 0 to {MAX_VALUES - 1}")
    return value


def _naturals(values: Any, what: str) -> tuple[int, ...]:
    if not isinstance(values, tuple | list) or len(values) > MAX_RANK:
        raise ValueError(f"is damaged: a tensor's {what} is not a tuple of at most {MAX_RANK} numbers")
    return tuple(_natural(value, what) for value in values)


def _rebuild_tensor(args: tuple[Any, ...]) -> TensorRecord:
    """(storage, offset, shape, strides[, requires_grad, hooks[, metadata]]), checked to lie inside the storage."""
    if len(args) < 4 or not isinstance(args[0], Storage):
        raise ValueError("is damaged: a tensor without a storage")
    if len(args) > 6 and args[6]:
        raise ValueError("holds a conjugate or negated view of a tensor; save it again after .resolve_neg()")
    record = TensorRecord(
        args[0], _natural(args[1], "offset"), _naturals(args[2], "shape"), _naturals(args[3], "strides")
    )
    if len(record.shape) != len(record.strides):
        raise ValueError("is damaged: a tensor has more dimensions than strides, or fewer")
    num_values = 1
    for length in record.shape:
        num_values *= length
    last = record.offset + sum((n - 1) * stride for n, stride in zip(record.shape, record.strides, strict=True))
    if num_values and (last >= record.storage.num_values or num_values > record.storage.num_values):
        raise ValueError(
            f"is damaged: a tensor of shape {list(record.shape)} reaches past its storage of "
            f"{record.storage.num_values} values"
        )
    return record


def _rebuild_parameter(args: tuple[Any, ...]) -> TensorRecord:
    if not args or not isinstance(args[0], TensorRecord):
        raise ValueError("is damaged: a parameter without a tensor")
    return args[0]


def _ordered_dict(args: tuple[Any, ...]) -> dict[Any, Any]:
    """`OrderedDict()`, or `OrderedDict([[key, value], ...])` as Python 2 wrote it."""
    pairs = args[0] if args else []
    if not isinstance(pairs, list) or not all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in pairs):
        raise ValueError("is damaged: an OrderedDict of neither nothing nor pairs")
    table = {_key(key): value for key, value in pairs}
    pairs.clear()  # so that no file can have one long list read again and again
    return table


_CALLS: dict[str, Callable[[tuple[Any, ...]], Any]] = {
    "collections.OrderedDict": _ordered_dict,
    "torch._utils._rebuild_tensor": _rebuild_tensor,
    "torch._utils._rebuild_tensor_v2": _rebuild_tensor,
    "torch._utils._rebuild_parameter": _rebuild_parameter,
}


def make_symbol(module: Any, name: Any) -> Symbol:
    """The symbol for a name of the allow-list; a ValueError that says the name for any other."""
    full = f"{module}.{name}" if isinstance(module, str) and isinstance(name, str) else "a name that is no text"
    if full in _CALLS or full in _STORAGES or full in _HARMLESS:
        return Symbol(full)
    raise ValueError(
        f"asks for {full[:200]!r}, which plain weights do not need; it was refused and nothing in the file was run. "
        "If you trust the file, load it in PyTorch and save model.state_dict()"
    )


def apply_symbol(function: Any, args: Any) -> Any:
    """What calling the symbol would make, as a plain value or a record."""
    if not isinstance(function, Symbol) or not isinstance(args, tuple):
        raise ValueError("is damaged: it calls something that is not a function")
    if function.name in _CALLS:
        return _CALLS[function.name](args)
    return Opaque(function.name)


def make_storage(pid: Any) -> Storage:
    """`("storage", class, key, device, number of values[, view])`, the only persistent id that weights have."""
    if not isinstance(pid, tuple) or len(pid) not in (5, 6) or pid[0] != "storage":
        raise ValueError("holds a whole pickled module, not only its weights: save model.state_dict() instead")
    kind, key, num_values = pid[1], pid[2], pid[4]
    name = kind.name if isinstance(kind, Symbol) else "an unknown class"
    if name not in _STORAGES:
        raise ValueError(f"holds a storage of {name}; known are {', '.join(_STORAGES)}")
    if not isinstance(key, str) or (len(pid) == 6 and pid[5] is not None):
        raise ValueError("holds a storage that is a view of another; save it again with a current PyTorch")
    return Storage(key, _STORAGES[name], _natural(num_values, "storage size"))


def _key(key: Any) -> Any:
    """Only keys whose hash is cheap and spreads: a tuple of tuples of tuples could take for ever."""
    if not isinstance(key, str | int | float | bytes | None) or (isinstance(key, int) and key.bit_length() > 60):
        raise ValueError(f"is damaged: a dictionary key of type {type(key).__name__}")
    return key


def dict_of(items: list[Any]) -> dict[Any, Any]:
    """A dictionary from [key, value, key, value, ...]."""
    if len(items) % 2:
        raise ValueError("is damaged: a dictionary key without a value")
    return {_key(key): value for key, value in zip(items[::2], items[1::2], strict=True)}
