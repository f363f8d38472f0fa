"""What the questions of this folder share: two sides that take turns, their samples, and the machine they ran on.

A question is a module with this interface; `run.py` asks it:

    Case         a frozen dataclass whose fields have defaults: what varies, and what `--set NAME=VALUE` changes
    cases()      what is measured, most telling first
    ours(case)   jaxclf's side, a `Run`
    peer(case)   the side it is held against; None where that cannot run, or `peer = None`
    SMOKE        the fields of the smallest case, which only shows that both sides run

and, where the usual does not fit, TURNS, WARM_UP, prepare(), called before JAX knows its devices, and conclude(case,
turns), called after a case's turns: JSON values for its record, and the lines to print.
"""

import dataclasses
import importlib
import importlib.util
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import numpy as np

PACKAGES = (
    *("jaxclf", "jax", "jaxlib", "flax", "optax", "grain", "numpy", "pillow", "safetensors", "scikit-learn"),
    *("torch", "torchvision", "augmax"),
)
#: Above this load average before it starts, other work disturbs what is measured.
BUSY = 1.0
#: The figures of which peer / ours is taken, turn by turn.
TIMES = ("seconds", "processor")


@dataclasses.dataclass(frozen=True)
class Run:
    """One side of a comparison, ready to run.

    Attributes:
      name: of the side, in tables.
      turn: given the number of the call, does the work and waits until it is there. A dictionary that it returns has
        figures beside the measured ones; with "seconds" among them, they replace these: of another process, for one.
      items: how much one call handles, for a rate; 0 for none.
      unit: of what.
      repeat: calls in a row in one turn, so that neither side pays for the state the other leaves memory in.
      notes: figures that are known beforehand.
      close: called when all turns are over.
    """

    name: str
    turn: Callable[[int], object]
    items: float = 0
    unit: str = "images"
    repeat: int = 1
    notes: Mapping[str, float | str] = dataclasses.field(default_factory=dict)
    close: Callable[[], object] = lambda: None


def timed(run: Run, number: int) -> dict[str, float]:
    """One turn: seconds per call by the clock, and of processor time in all threads of this process."""
    figures: object = None
    clock, processor = time.perf_counter(), time.process_time()
    for call in range(run.repeat):
        figures = run.turn(number * run.repeat + call)
    clock, processor = time.perf_counter() - clock, time.process_time() - processor
    measured = {"seconds": clock / run.repeat, "processor": processor / run.repeat}
    own = figures if isinstance(figures, dict) else {}
    return own if "seconds" in own else measured | own


def measure(question: Any, case: Any, turns: int, *, with_peer: bool = True) -> dict[str, Any]:
    """Both sides of a case in turns, each going first every other time; the record that JSON keeps.

    The first turns warm up and are kept apart: what is compiled is compiled in them. A peer that fails in its first
    turn is recorded as failed.
    """
    sides = {"ours": question.ours(case), "peer": question.peer(case) if with_peer and question.peer else None}
    sides = {side: run for side, run in sides.items() if run is not None}
    record: dict[str, Any] = {"case": dataclasses.asdict(case)}
    for side, run in sides.items():
        record[side] = {"name": run.name, "items": run.items, "unit": run.unit, "notes": dict(run.notes)}
        record[side] |= {"warm_up": [], "samples": []}
    warm_up = getattr(question, "WARM_UP", 1)
    try:
        for number in range(warm_up + turns):
            for side in sorted(sides, reverse=number % 2 == 1):
                try:
                    sample = timed(sides[side], number)
                except Exception as error:
                    if side == "ours" or number:
                        raise
                    record[side]["failed"] = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
                    sides.pop(side).close()
                    continue
                record[side]["warm_up" if number < warm_up else "samples"].append(sample)
    finally:
        for run in sides.values():
            run.close()
    return record


def spread(values: Sequence[float], unit: str = "") -> str:
    """Median, and the range around it."""
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{middle:.4g}{' ' * bool(unit)}{unit} (of {len(values)}: {low:.4g} to {high:.4g})"


def table(record: Mapping[str, Any]) -> Iterator[str]:
    """A line for each side, and how they compare."""
    for side in ("ours", "peer"):
        if side not in record:
            continue
        run = record[side]
        yield f"  {run['name']}" + (f" does not run: {run['failed']}" if "failed" in run else "")
        if run["samples"]:
            columns = {name: [sample[name] for sample in run["samples"]] for name in run["samples"][0]}
            rate = run["items"] / statistics.median(columns["seconds"])
            for name, values in columns.items():
                unit = "s" if name in TIMES else ""
                extra = f"  {rate:.4g} {run['unit']}/s" if name == "seconds" and run["items"] else ""
                yield f"    {name}: {spread(values, unit)}{extra}"
            notes = {f"first turn {name}": first for name, first in run["warm_up"][0].items()} if run["warm_up"] else {}
            notes = {name: value for name, value in notes.items() if name.endswith(TIMES)} | run["notes"]
            if notes:
                shown = (
                    f"{name} {value if isinstance(value, str) else f'{value:.4g}'}" for name, value in notes.items()
                )
                yield f"    {', '.join(shown)}"
    for name in TIMES:
        if values := ratios(record, name):
            yield f"  {record['peer']['name']} / {record['ours']['name']}, {name}: {spread(values, 'x')}"


def ratios(record: Mapping[str, Any], name: str) -> list[float]:
    """The peer's figure over ours, turn by turn: above 1, jaxclf is faster. Empty without a peer."""
    pairs = zip(record["ours"]["samples"], record.get("peer", {}).get("samples", ()), strict=False)
    return [theirs[name] / mine[name] for mine, theirs in pairs if theirs.get(name) and mine.get(name)]


def machine() -> dict[str, Any]:
    """Processor, device, Python and the versions of what is installed."""
    import jax

    from jaxclf.data.cache import default_num_threads

    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
    return {
        "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "processor": model,
        "cores": default_num_threads(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {each.name: each.version for each in distributions() if each.name in PACKAGES},
        "matmul_precision": jax.config.values["jax_default_matmul_precision"] or "default",
        "commit": commit(),
    }


def commit() -> str:
    """Of this checkout; "-dirty" after it says that files have changed since."""
    status, text = subprocess.getstatusoutput(
        f"git -C '{Path(__file__).parent}' describe --always --dirty --exclude '*'"
    )
    return "unknown" if status else text


def load() -> list[float]:
    """The load averages of 1, 5 and 15 minutes; empty where the system has none."""
    return [round(value, 2) for value in os.getloadavg()] if hasattr(os, "getloadavg") else []


def find_folder(folder: str) -> Path:
    """A folder or file of data that somebody has to have."""
    if not folder or not Path(folder).exists():
        raise SystemExit(f"error: there is no {folder or 'data'}; name it with --set data=PATH")
    return Path(folder)


def pictures(number: int, side: int) -> np.ndarray:
    """uint8 [number, side, side, 3] of noise."""
    return np.random.default_rng(0).integers(0, 256, (number, side, side, 3)).astype(np.uint8)


def import_torch() -> Any:
    """torch, on all cores and with TF32 as JAX has it; None without torch and torchvision."""
    from jaxclf.data.cache import default_num_threads

    if not all(importlib.util.find_spec(name) for name in ("torch", "torchvision")):
        return None
    torch: Any = importlib.import_module("torch")
    if importlib.util.find_spec("torchvision_ops_stub"):  # for a torchvision without its compiled operators
        importlib.import_module("torchvision_ops_stub")
    torch.set_num_threads(default_num_threads())
    torch.manual_seed(0)
    if torch.cuda.is_available():
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.benchmark = True
    return torch
