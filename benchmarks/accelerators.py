"""What does a step cost on an H100 or a TPU, as far as its compiler tells, beside Flax's ImageNet example?

Both compilers run on this machine, the devices are not here: kernels, bytes and memory are those of the real programs,
a TPU's cycles are its compiler's estimate, and no figure is a time on the wall but that of compiling. The roofline is
the sum over operations of the larger of bytes / bandwidth and FLOPs / peak, both from data sheets, as if nothing stayed
in a cache. Bytes and roofline are a GPU's alone: a TPU's text counts what is in its fast memory, and copies twice.

    make accelerators        # an environment of its own, about 7 GB
    .venv-accelerators/bin/python benchmarks/run.py accelerators --only h100

A program's table and text are kept in `runs/accelerators` by the hash of what was lowered, versions and device, so
what has not changed is not compiled again. `--set top=12` prints as many of the costliest operations.
"""

import dataclasses
import functools
import hashlib
import json
import time
from collections import Counter
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from accel.devices import BANDWIDTH, CLOCK, PEAK, lower_for, prepare
from accel.flax_example import SIZES, example_step
from accel.hlo import Operation, hidden, operations
from accel.steps import own_program
from harness import Run
from steps import PARTS

from jaxclf._files import write_atomic

__all__ = ["SMOKE", "TURNS", "WARM_UP", "Case", "cases", "conclude", "ours", "peer", "prepare"]
TURNS, WARM_UP = 1, 0
KEPT = Path("runs") / "accelerators"
SMOKE = {"device": "h100", "arch": "resnet18", "part": "eval", "image_size": 32, "batch_size": 2}


@dataclasses.dataclass(frozen=True)
class Case:
    device: str = "h100"
    arch: str = "resnet50"
    part: str = "full"
    dtype: str = "bfloat16"
    augment: str = "none"
    batch_size: int = 64
    image_size: int = 224
    top: int = 0


def cases() -> list[Case]:
    found = []
    for device in ("h100", "v5e"):
        for arch in ("resnet50", "resnet34", "resnet18"):
            found += [Case(device, arch, part) for part in (*PARTS, "eval")]
            found += [Case(device, arch, augment="side_on")]
        found += [Case(device, dtype="float32")]
    return [*found, Case("v6e")]


def ours(case: Case) -> Run:
    return Run("jaxclf", lambda number: _figures(case, _own(case)))


def peer(case: Case) -> Run | None:
    if case.part != "full" or case.augment != "none" or case.arch not in SIZES:
        return None

    def turn(number: int) -> dict[str, float]:
        function, arguments = example_step(case.arch, case.image_size, case.batch_size, case.dtype)
        return _figures(case, _program(case, function, arguments, donate=(0, 1, 2)))

    return Run("Flax's example", turn)


def conclude(case: Case, turns: int) -> tuple[dict[str, Any], Iterable[str]]:
    """The kinds of our operations, and the costliest of them."""
    rows = [Operation(**row) for row in _own(case)["operations"]]
    found, lines = {}, [f"  {'':14s} {'number':>6s} {'GB':>8s} {'GFLOP':>8s} {'M cycles':>9s} {'roofline ms':>11s}"]
    for kind, number in Counter(row.kind for row in rows).most_common():
        some = [row for row in rows if row.kind == kind]
        totals = [sum(row.bytes for row in some) / 1e9, sum(row.flops for row in some) / 1e9]
        totals += [sum(row.cycles for row in some) / 1e6, 1e3 * sum(_least(case, row) for row in some)]
        found[kind] = [number, *totals]
        lines += [f"  {kind:14s} {number:6d} {totals[0]:8.2f} {totals[1]:8.1f} {totals[2]:9.2f} {totals[3]:11.3f}"]
    for row in sorted(rows, key=lambda row: -(row.cycles or _least(case, row)))[: case.top]:
        cost = f"{row.cycles / 1e6:.2f} M cycles" if row.cycles else f"{1e3 * _least(case, row):.3f} ms"
        lines += [f"    {row.bytes / 1e6:8.1f} MB  {cost:>16s}  {row.kind:12s} {row.source[-100:]}"]
    return {"kinds": found}, lines


@functools.lru_cache(1)  # for the figures, and for what they conclude
def _own(case: Case) -> dict[str, Any]:
    fields = (case.part, case.arch, case.image_size, case.batch_size, case.dtype, case.augment)
    function, arguments = own_program(*fields)
    return _program(case, function, arguments, donate=() if case.part == "eval" else (0,))


def _program(case: Case, function: Any, arguments: tuple[Any, ...], *, donate: tuple[int, ...]) -> dict[str, Any]:
    """What the compiled program is, from the folder or compiled now."""
    lowered = lower_for(case.device, function, *arguments, donate=donate)
    text = lowered.as_text()
    identity = "\n".join([text, case.device, *map(_version, ("jaxlib", "libtpu", "jax-cuda12-plugin"))])
    path = KEPT / f"{hashlib.sha256(identity.encode()).hexdigest()[:16]}.json"
    if path.is_file():
        kept: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return kept
    started = time.perf_counter()
    compiled = lowered.compile()
    seconds, memory, hlo = time.perf_counter() - started, compiled.memory_analysis(), compiled.as_text()
    rows = [dataclasses.asdict(row) for row in operations(hlo)]
    program = {"compile": seconds, "temporary": memory.temp_size_in_bytes, "loops": hidden(hlo), "operations": rows}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path.with_suffix(".txt"), hlo)
    write_atomic(path, json.dumps(program))
    return program


def _figures(case: Case, program: dict[str, Any]) -> dict[str, float]:
    """A program's figures, for the runner."""
    rows = [Operation(**row) for row in program["operations"]]
    counts = Counter(row.kind for row in rows)
    found = {"seconds": program["compile"], "temporary GB": program["temporary"] / 1e9}
    if case.device in CLOCK:
        cycles = sum(row.cycles for row in rows)
        found |= {"M cycles": cycles / 1e6, "ms by its cycles": 1e3 * cycles / CLOCK[case.device]}
    else:
        found |= {"kernels": len(rows), "MB per picture": sum(row.bytes for row in rows) / case.batch_size / 1e6}
        found["roofline ms"] = 1e3 * sum(_least(case, row) for row in rows)
    wide = sum(row.float32 for row in rows if row.kind == "convolution")
    more = {"gathers": counts["gather"], "layout": counts["layout"], "float32 convolutions": wide}
    return found | more | {"loops": program["loops"]}


def _least(case: Case, row: Operation) -> float:
    """Seconds of an operation by the roofline; none of a TPU's."""
    if case.device in CLOCK:
        return 0.0
    peak = PEAK[case.device] / (2 if row.float32 and case.device == "h100" else 1)
    return max(row.bytes / BANDWIDTH[case.device], row.flops / peak)


def _version(package: str) -> str:
    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:
        return f"{package}: none"
