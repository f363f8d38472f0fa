"""The text of a compiled program as a table: of each operation what it reads and writes, computes, and is estimated at.

Only operations of the entry computation are counted, a fusion as one; bodies of loops and conditionals are not, so a
program that has any says so (`Program.hidden`).
"""

import dataclasses
import math
import re
from collections.abc import Iterator, Mapping

WIDTHS = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s16": 2, "u16": 2, "s32": 4, "u32": 4, "f32": 4, "s64": 8}
WIDTHS |= {"u64": 8, "f64": 8}
#: Instructions that name a value and launch nothing.
FREE = {"parameter", "constant", "get-tuple-element", "tuple", "bitcast", "after-all", "partition-id", "iota"}
#: Instructions that hold computations which are not counted.
LOOPS = {"while", "conditional", "call"}
_SHAPE = re.compile(rf"\b({'|'.join(WIDTHS)})\[([0-9,]*)\]")
_LINE = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = (\(.*?\)|\S+) ([\w\-]+)\((.*)$")
_HEAD = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")


@dataclasses.dataclass(frozen=True)
class Shape:
    """A number type and sides."""

    dtype: str
    sides: tuple[int, ...]

    @property
    def size(self) -> int:
        return math.prod(self.sides)

    @property
    def bytes(self) -> int:
        return self.size * WIDTHS[self.dtype]


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of a program.

    Attributes:
      name, kind: its own, and what it does.
      shapes: of its results.
      operands: names of what it is given.
      attributes: the rest of the line.
    """

    name: str
    kind: str
    shapes: tuple[Shape, ...]
    operands: tuple[str, ...]
    attributes: str

    def attribute(self, pattern: str) -> str:
        """The first group of a pattern in the attributes; "" without one."""
        found = re.search(pattern, self.attributes)
        return found[1] if found else ""

    @property
    def target(self) -> str:
        """What a custom call calls; else ""."""
        return self.attribute(r'custom_call_target="([^"]+)"')

    @property
    def source(self) -> str:
        """The JAX operation it comes from."""
        return self.attribute(r'op_name="([^"]*)"')


@dataclasses.dataclass(frozen=True)
class Operation:
    """What an accelerator does at a time.

    Attributes:
      kind: "convolution", "product", "reduction", "elementwise", "layout", "gather", "other".
      source: the JAX operation it comes from.
      bytes: read and written, as far as main memory has it.
      flops: of convolutions and products.
      cycles: the compiler's own estimate; 0 where it has none.
      float32: whether a convolution or product reads float32.
    """

    kind: str
    source: str
    bytes: int
    flops: float
    cycles: int
    float32: bool


def parse(text: str) -> tuple[dict[str, list[Instruction]], str]:
    """Every computation's instructions by its name, and the entry's name."""
    found: dict[str, list[Instruction]] = {}
    entry, body = "", list[Instruction]()
    for line in text.split("\n"):
        if head := _HEAD.match(line):
            body = found.setdefault(head[2], [])
            entry = head[2] if head[1] else entry
        elif match := _LINE.match(line):
            _, name, shape, kind, rest = match.groups()
            inside, attributes = _arguments(rest)
            operands = tuple(re.findall(r"%([\w.\-]+)", inside))
            body.append(Instruction(name, kind, tuple(_shapes(shape)), operands, attributes))
    return found, entry


def operations(text: str) -> list[Operation]:
    """What the program does, one after another."""
    computations, entry = parse(text)
    heavy = {name: list(_heavy(body)) for name, body in computations.items()}
    shapes = {each.name: each.shapes for each in computations[entry]}
    rows = []
    for each in computations[entry]:
        if each.kind in FREE or each.kind in LOOPS:
            continue
        called = each.attribute(r"calls=%?([\w.\-]+)")
        products = list(_heavy([each], shapes)) + heavy.get(called, [])
        moved = sum(shape.bytes for shape in each.shapes)
        moved += sum(shape.bytes for name in each.operands for shape in shapes.get(name, ()))
        inside = [inner.kind for inner in computations.get(called, [])] or [each.kind]
        cycles = int(each.attribute(r'"estimated_cycles":"(\d+)"') or 0)
        flops, float32 = sum(flops for _, flops, _ in products), any(wide for *_, wide in products)
        kind = products[0][0] if products else _kind(inside, each.source)
        rows.append(Operation(kind, each.source, moved, flops, cycles, float32))
    return rows


def hidden(text: str) -> int:
    """Loops and conditionals of the entry computation, whose bodies `operations` leaves out."""
    computations, entry = parse(text)
    return sum(each.kind in LOOPS for each in computations[entry])


def _kind(inside: list[str], source: str) -> str:
    """What a fusion of these instructions is, or one instruction alone."""
    does = {kind for kind in inside if kind not in FREE}
    if "gather" in does:
        return "gather"
    if does & {"reduce", "reduce-window", "select-and-scatter"}:
        return "reduction"
    if does and does <= {"copy", "transpose", "reshape", "copy-start", "copy-done", "slice", "concatenate", "pad"}:
        return "layout"
    return "elementwise" if does else "other"


def _heavy(
    body: list[Instruction], outer: Mapping[str, tuple[Shape, ...]] | None = None
) -> Iterator[tuple[str, float, bool]]:
    """(kind, FLOPs, whether it reads float32) of the convolutions and products among some instructions."""
    shapes = dict(outer or {}) | {each.name: each.shapes for each in body}
    for each in body:
        given = [shapes[name][0] for name in each.operands if shapes.get(name)]
        if len(given) < 2:
            continue
        wide = given[0].dtype == "f32" or given[1].dtype == "f32"
        if each.kind == "convolution" or "$conv" in each.target:
            yield "convolution", _convolution_flops(each, given), wide
        elif each.kind == "dot" or "$gemm" in each.target or "matmul" in each.target:
            yield "product", 2.0 * math.sqrt(given[0].size * given[1].size * each.shapes[0].size), wide


def _convolution_flops(each: Instruction, given: list[Shape]) -> float:
    """2 for each element of the output and of a kernel's window; zeros between dilated inputs are not counted."""
    labels = each.attribute(r"dim_labels=(\w+->\w+)")
    kernel, output = given[1], each.shapes[0]
    if "BackwardInput" in each.target:
        output = given[0]
    elif "BackwardFilter" in each.target:
        kernel, output = each.shapes[0], given[1]
    channels = kernel.sides[labels.split("_")[1].split("->")[0].index("o")]
    dilated = math.prod(map(int, re.findall(r"\d+", each.attribute(r"lhs_dilate=([\dx]+)")))) or 1
    return 2.0 * output.size * kernel.size / channels / dilated


def _shapes(text: str) -> Iterator[Shape]:
    for dtype, sides in _SHAPE.findall(text):
        yield Shape(dtype, tuple(int(side) for side in sides.split(",") if side))


def _arguments(rest: str) -> tuple[str, str]:
    """What stands before the bracket that closes the operands, and after it."""
    depth = 1
    for place, letter in enumerate(rest):
        depth += (letter == "(") - (letter == ")")
        if not depth:
            return rest[:place], rest[place + 1 :]
    return rest, ""
