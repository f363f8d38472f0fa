"""What torch's pickles say, without running anything: a small machine for plain values.

Python's own unpickler imports what a file names and calls it, so a hostile file runs any program; restricted to a list
of names it still hashes whatever a file builds as keys, which can take for ever, and its plain Python form is private.
Here a pickle is only a list of instructions, as `pickletools` reads them, for a stack of plain values. A name out of
the file becomes a `Symbol` if it is on the list below and is refused otherwise, and "calling" a symbol builds one of
these records. Nothing is ever imported or called on the file's behalf, so there is no way from a file to code.
"""

import math
import pickletools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

#: More than any checkpoint needs (a resnet152 with its optimizer takes fewer than 100,000), and read in about a second.
MAX_OPCODES = 500_000
MAX_RANK = 16
MAX_VALUES = 2**48


class Symbol(NamedTuple):
    """A name out of the allow-list that the file asks for, "module.name"."""

    name: str


class Opaque(NamedTuple):
    """A value of a harmless kind but no weights, such as an `argparse.Namespace`. Its content is dropped."""

    name: str


class Storage(NamedTuple):
    """A stretch of values that the container holds under `key`."""

    key: str
    dtype: np.dtype
    num_values: int

    @property
    def num_bytes(self) -> int:
        return self.num_values * self.dtype.itemsize


class TensorRecord(NamedTuple):
    """A view into a storage; offset and strides count values, not bytes."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class Unpickled(NamedTuple):
    """A pickle's value, made of dicts, lists, tuples, numbers, strings and this module's records; and its storages."""

    value: Any
    storages: dict[str, Storage]


def unpickle(file: Any) -> Unpickled:
    """Reads one pickle from `file` (anything with `read`, `readline` and `tell`) and leaves it right behind its end.

    Raises:
      ValueError: for a name that is not on the list, a broken or endless pickle. The message is a sentence without its
        subject, for the caller to put the file's name in front of.
    """
    try:
        return _run(file)
    except (IndexError, KeyError, TypeError, AttributeError, OverflowError, UnicodeError) as error:
        raise ValueError(f"is damaged: its pickle breaks off or makes no sense ({type(error).__name__})") from error


def _run(file: Any) -> Unpickled:
    stacks: list[list[Any]] = [[]]  # the current one last, those under each mark before it
    memo: dict[int, Any] = {}
    storages: dict[str, Storage] = {}
    for count, (opcode, arg) in enumerate(_instructions(file)):
        if count >= MAX_OPCODES:
            raise ValueError(f"is not weights: its pickle has more than {MAX_OPCODES} instructions")
        match opcode.name:
            case name if name in _BUILDERS:
                items = _operands(stacks, opcode)
                stacks[-1].append(_BUILDERS[name](items))
            case "PROTO" | "FRAME":
                pass
            case "INT" | "BININT" | "BININT1" | "BININT2" | "LONG" | "LONG1" | "LONG4" | "FLOAT" | "BINFLOAT":
                stacks[-1].append(arg)
            case "STRING" | "BINSTRING" | "SHORT_BINSTRING" | "BINBYTES" | "SHORT_BINBYTES" | "BINBYTES8":
                stacks[-1].append(arg)
            case "UNICODE" | "BINUNICODE" | "SHORT_BINUNICODE" | "BINUNICODE8":
                stacks[-1].append(arg)
            case "PUT" | "BINPUT" | "LONG_BINPUT":
                memo[arg] = stacks[-1][-1]
            case "MEMOIZE":
                memo[len(memo)] = stacks[-1][-1]
            case "GET" | "BINGET" | "LONG_BINGET":
                stacks[-1].append(memo[arg])
            case "DUP":
                stacks[-1].append(stacks[-1][-1])
            case "MARK":
                stacks.append([])
            case "POP" | "POP_MARK":
                _operands(stacks, opcode)
            case "GLOBAL" | "INST":
                stacks[-1].append(_symbol(arg.split(" ", 1)))
                if opcode.name == "INST":
                    raise ValueError("uses an instruction of Python 1 (INST), which torch never writes; it was refused")
            case "BINPERSID":
                storage = _storage(stacks[-1].pop())
                if storages.setdefault(storage.key, storage) != storage:
                    raise ValueError(f"is damaged: it describes storage {storage.key[:100]!r} in two ways")
                stacks[-1].append(storage)
            case "STOP":
                return Unpickled(stacks[-1].pop(), storages)
            case name:
                raise ValueError(f"uses the pickle instruction {name}, which torch never writes; it was refused")
    raise ValueError("is damaged: its pickle has no end")


def _instructions(file: Any) -> Iterator[tuple[pickletools.OpcodeInfo, Any]]:
    """Each instruction and its argument; `pickletools`' own ValueErrors in this module's form."""
    try:
        for opcode, arg, _ in pickletools.genops(file):
            yield opcode, arg
    except ValueError as error:
        raise ValueError(f"is cut short or damaged: its pickle cannot be read ({str(error)[:200]})") from error


def _operands(stacks: list[list[Any]], opcode: pickletools.OpcodeInfo) -> list[Any]:
    """Takes from the stack what an instruction works on, all above the last mark included if it reads so far."""
    above: list[Any] = []
    num_below = len(opcode.stack_before)
    if pickletools.markobject in opcode.stack_before:
        above, num_below = stacks.pop(), opcode.stack_before.index(pickletools.markobject)
    return [stacks[-1].pop() for _ in range(num_below)][::-1] + above


def _symbol(names: list[Any]) -> Symbol:
    """The symbol for [module, name] of the allow-list; a ValueError that says the name for any other."""
    full = ".".join(names) if all(isinstance(name, str) for name in names) else "a name that is no text"
    if full in _CALLS or full in _STORAGES or full in _HARMLESS:
        return Symbol(full)
    raise ValueError(
        f"asks for {full[:200]!r}, which plain weights do not need; it was refused and nothing in the file was run. "
        "If you trust the file, load it in PyTorch and save model.state_dict()"
    )


def _apply(items: list[Any]) -> Any:
    """What calling [symbol, arguments] would make, as a plain value or a record."""
    function, args = items
    if not isinstance(function, Symbol) or not isinstance(args, tuple):
        raise ValueError("is damaged: it calls something that is not a function")
    return _CALLS[function.name](args) if function.name in _CALLS else Opaque(function.name)


def _extended(items: list[Any]) -> Any:
    """[list, item, ...] as the list with these items."""
    target, *more = items
    if isinstance(target, list):
        target.extend(more)
    elif not isinstance(target, Opaque):
        raise ValueError("is damaged: it appends to something that is not a list")
    return target


def _updated(items: list[Any]) -> Any:
    """[dictionary, key, value, ...] as the dictionary with these items."""
    target, *more = items
    if isinstance(target, dict):
        target.update(_dictionary(more))
    elif not isinstance(target, Opaque):
        raise ValueError("is damaged: it sets an item of something that is not a dictionary")
    return target


def _dictionary(items: list[Any]) -> dict[Any, Any]:
    """A dictionary from [key, value, key, value, ...]."""
    if len(items) % 2:
        raise ValueError("is damaged: a dictionary key without a value")
    return {_key(key): value for key, value in zip(items[::2], items[1::2], strict=True)}


def _key(key: Any) -> Any:
    """Only keys whose hash is cheap and spreads: a tuple of tuples of tuples could take for ever."""
    if not isinstance(key, str | int | float | bytes | None) or (isinstance(key, int) and key.bit_length() > 60):
        raise ValueError(f"is damaged: a dictionary key of type {type(key).__name__}")
    return key


def _ordered_dict(args: tuple[Any, ...]) -> dict[Any, Any]:
    """`OrderedDict()`, or `OrderedDict([[key, value], ...])` as Python 2 wrote it."""
    pairs = args[0] if args else []
    if not isinstance(pairs, list) or not all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in pairs):
        raise ValueError("is damaged: an OrderedDict of neither nothing nor pairs")
    table = _dictionary([part for pair in pairs for part in pair])
    pairs.clear()  # so that no file can have one long list read again and again
    return table


def _storage(pid: Any) -> Storage:
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


def _tensor(args: tuple[Any, ...]) -> TensorRecord:
    """(storage, offset, shape, strides[, requires_grad, hooks[, metadata]]), checked to lie inside the storage."""
    if len(args) < 4 or not isinstance(args[0], Storage):
        raise ValueError("is damaged: a tensor without a storage")
    if len(args) > 6 and args[6]:
        raise ValueError("holds a conjugate or negated view of a tensor; save it again after .resolve_neg()")
    storage, offset = args[0], _natural(args[1], "offset")
    shape, strides = _naturals(args[2], "shape"), _naturals(args[3], "strides")
    if len(shape) != len(strides):
        raise ValueError("is damaged: a tensor has more dimensions than strides, or fewer")
    last = offset + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
    if 0 not in shape and max(last + 1, math.prod(shape)) > storage.num_values:
        raise ValueError(
            f"is damaged: a tensor of shape {list(shape)} reaches past its storage of {storage.num_values} values"
        )
    return TensorRecord(storage, offset, shape, strides)


def _parameter(args: tuple[Any, ...]) -> TensorRecord:
    if not args or not isinstance(args[0], TensorRecord):
        raise ValueError("is damaged: a parameter without a tensor")
    return args[0]


def _natural(value: Any, what: str) -> int:
    if type(value) is not int or not 0 <= value < MAX_VALUES:
        raise ValueError(f"is damaged: a tensor's {what} is not a whole number from 0 to {MAX_VALUES - 1}")
    return value


def _naturals(values: Any, what: str) -> tuple[int, ...]:
    if not isinstance(values, tuple | list) or len(values) > MAX_RANK:
        raise ValueError(f"is damaged: a tensor's {what} is not a tuple of at most {MAX_RANK} numbers")
    return tuple(_natural(value, what) for value in values)


#: Instructions that put on the stack what they make of their operands.
_BUILDERS: dict[str, Callable[[list[Any]], Any]] = {
    "NONE": lambda _: None,
    "NEWTRUE": lambda _: True,
    "NEWFALSE": lambda _: False,
    **dict.fromkeys(("EMPTY_TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "TUPLE"), tuple),
    **dict.fromkeys(("EMPTY_LIST", "EMPTY_SET", "LIST", "FROZENSET"), list),
    **dict.fromkeys(("EMPTY_DICT", "DICT"), _dictionary),
    **dict.fromkeys(("APPEND", "APPENDS", "ADDITEMS"), _extended),
    **dict.fromkeys(("SETITEM", "SETITEMS"), _updated),
    **dict.fromkeys(("REDUCE", "NEWOBJ"), _apply),
    "STACK_GLOBAL": _symbol,
    "BUILD": lambda items: items[0],  # attributes of an OrderedDict or of something opaque: not needed
}
_CALLS: dict[str, Callable[[tuple[Any, ...]], Any]] = {
    "collections.OrderedDict": _ordered_dict,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": _parameter,
}
_STORAGES = {
    f"torch.{name}Storage": np.dtype(kind)
    for kinds, names in (
        (("f8", "f4", "f2", ml_dtypes.bfloat16), "Double Float Half BFloat16"),
        (("i8", "i4", "i2", "i1", "u1", "?"), "Long Int Short Char Byte Bool"),
    )
    for kind, name in zip(kinds, names.split(), strict=True)
}
#: Kinds that training scripts leave beside the weights: arguments, scores, paths, dates. They become `Opaque`.
_HARMLESS = frozenset(
    f"{module}.{name}"
    for modules, names in (
        ("argparse", "Namespace"),
        ("builtins __builtin__", "dict float frozenset int list set str tuple"),
        ("_codecs", "encode"),
        ("collections", "Counter defaultdict"),
        ("datetime", "date datetime timedelta"),
        ("numpy", "dtype ndarray"),
        ("numpy.core.multiarray numpy._core.multiarray", "_reconstruct scalar"),
        ("pathlib pathlib._local", "Path PosixPath WindowsPath"),
        ("torch", "Size bfloat16 device float16 float32 float64 int32 int64"),
    )
    for module in modules.split()
    for name in names.split()
)
