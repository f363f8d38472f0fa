"""What torch's pickles say, without running anything: a small machine for plain values.

Python's own unpickler imports what a file names and calls it; a hostile file so runs any program. Here a pickle is only
a list of instructions for a stack of plain values. A name out of the file becomes a `Symbol` if it is on the list in
`torch_symbols` and is refused otherwise, and "calling" a symbol builds one of the records there. Nothing is ever
imported or called on the file's behalf, so there is no way from a file to code.
"""

import pickletools
from collections.abc import Iterator
from typing import Any, NamedTuple

from jaxclf.weights.torch_symbols import Opaque, Storage, apply_symbol, dict_of, make_storage, make_symbol

#: More than any checkpoint needs (a resnet152 with its optimizer takes fewer than 100,000), and read in about a second.
MAX_OPCODES = 500_000


class Unpickled(NamedTuple):
    """A pickle's value, made of dicts, lists, tuples, numbers, strings and this module's records; and its storages."""

    value: Any
    storages: dict[str, Storage]


_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}


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
    stack: list[Any] = []
    below: list[list[Any]] = []  # the stacks under each mark
    memo: dict[int, Any] = {}
    storages: dict[str, Storage] = {}

    def from_mark() -> list[Any]:
        nonlocal stack
        items, stack = stack, below.pop()
        return items

    for count, (name, arg) in enumerate(_opcodes(file)):
        if count >= MAX_OPCODES:
            raise ValueError(f"is not weights: its pickle has more than {MAX_OPCODES} instructions")
        match name:
            case "PROTO" | "FRAME":
                pass
            case "PUT" | "BINPUT" | "LONG_BINPUT":
                memo[arg] = stack[-1]
            case "MEMOIZE":
                memo[len(memo)] = stack[-1]
            case "GET" | "BINGET" | "LONG_BINGET":
                stack.append(memo[arg])
            case "DUP":
                stack.append(stack[-1])
            case "POP":
                stack.pop()
            case "MARK":
                below.append(stack)
                stack = []
            case "POP_MARK":
                from_mark()
            case "EMPTY_LIST" | "EMPTY_SET":
                stack.append([])
            case "EMPTY_DICT":
                stack.append({})
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                items = [stack.pop() for _ in range(int(name[-1]))]
                stack.append(tuple(reversed(items)))
            case "TUPLE":
                items = from_mark()
                stack.append(tuple(items))
            case "LIST" | "FROZENSET":
                items = from_mark()
                stack.append(items)
            case "DICT":
                items = from_mark()
                stack.append(dict_of(items))
            case "APPENDS" | "ADDITEMS":
                items = from_mark()
                _extend(stack[-1], items)
            case "APPEND":
                item = stack.pop()
                _extend(stack[-1], [item])
            case "SETITEMS":
                items = from_mark()
                _update(stack[-1], items)
            case "SETITEM":
                value, key = stack.pop(), stack.pop()
                _update(stack[-1], [key, value])
            case "GLOBAL" | "INST":
                stack.append(make_symbol(*arg.split(" ", 1)))
                if name == "INST":
                    raise ValueError("uses an instruction of Python 1 (INST), which torch never writes; it was refused")
            case "STACK_GLOBAL":
                attribute, module = stack.pop(), stack.pop()
                stack.append(make_symbol(module, attribute))
            case "REDUCE" | "NEWOBJ":
                args, function = stack.pop(), stack.pop()
                stack.append(apply_symbol(function, args))
            case "BUILD":
                stack.pop()  # attributes of an OrderedDict or of something opaque: not needed
            case "BINPERSID":
                storage = make_storage(stack.pop())
                if storages.setdefault(storage.key, storage) != storage:
                    raise ValueError(f"is damaged: it describes storage {storage.key[:100]!r} in two ways")
                stack.append(storage)
            case "STOP":
                return Unpickled(stack.pop(), storages)
            case _ if name in _CONSTANTS:
                stack.append(_CONSTANTS[name])
            case "INT" | "BININT" | "BININT1" | "BININT2" | "LONG" | "LONG1" | "LONG4" | "FLOAT" | "BINFLOAT":
                stack.append(arg)
            case "STRING" | "BINSTRING" | "SHORT_BINSTRING" | "BINBYTES" | "SHORT_BINBYTES" | "BINBYTES8":
                stack.append(arg)
            case "UNICODE" | "BINUNICODE" | "SHORT_BINUNICODE" | "BINUNICODE8":
                stack.append(arg)
            case _:
                raise ValueError(f"uses the pickle instruction {name}, which torch never writes; it was refused")
    raise ValueError("is damaged: its pickle has no end")


def _opcodes(file: Any) -> Iterator[tuple[str, Any]]:
    """Name and argument of each instruction, from `pickletools.genops`; its ValueErrors in this module's form."""
    operations = pickletools.genops(file)
    while True:
        try:
            opcode, arg, _ = next(operations)
        except StopIteration:
            return
        except ValueError as error:
            raise ValueError(f"is cut short or damaged: its pickle cannot be read ({str(error)[:200]})") from error
        yield opcode.name, arg


def _extend(target: Any, items: list[Any]) -> None:
    if not isinstance(target, list | Opaque):
        raise ValueError("is damaged: it appends to something that is not a list")
    if isinstance(target, list):
        target.extend(items)


def _update(target: Any, items: list[Any]) -> None:
    if not isinstance(target, dict | Opaque):
        raise ValueError("is damaged: it sets an item of something that is not a dictionary")
    values = dict_of(items)
    if isinstance(target, dict):
        target.update(values)
