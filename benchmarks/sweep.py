"""What do 64 heads at once cost beside one? Seconds per epoch of `sweep_heads`' program, and its matrix products.

Both run the same code: an epoch of batches of 64 on [2 x width] features of 2 classes, then the held-out quarter
judged. Each is timed to the point where its figures are on the host; compiling is timed apart. `own_order` is with an
order of the data for every seed, four seeds in all. concat heads are slow: --set kind=concat.
"""

import dataclasses
import functools
import time
from typing import Any

import jax
import numpy as np
from harness import Run

from jaxclf.models import create_head
from jaxclf.training.sweep import HeadTraining
from jaxclf.training.sweep.members import Examples, Members, Program, held_out_rows
from jaxclf.training.sweep.train import first_state, make_epoch, orders

FOLDS, EPOCHS = 4, 20
TURNS = 9
SMOKE = {"heads": 4, "examples": 256, "width": 8}


@dataclasses.dataclass(frozen=True)
class Case:
    """`heads` is a multiple of 4, the folds; `width` is of the average pool."""

    own_order: bool = False
    heads: int = 64
    kind: str = "linear"
    examples: int = 20_000
    width: int = 512


def cases() -> list[Case]:
    return [Case(), Case(own_order=True)]


@functools.lru_cache(1)
def _examples(count: int, width: int) -> Examples:
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 2, count)
    features = generator.normal(size=(count, 2 * width)).astype(np.float32)
    features[:, -1] += labels
    folds = (np.arange(count) % FOLDS).astype(np.int32)
    return jax.device_put(Examples(features, np.eye(2, dtype=np.float32)[labels], folds))


def ours(case: Case) -> Run:
    examples, number = _examples(case.examples, case.width), case.heads
    # A single head is judged on one fold of four, as each of many is.
    folds = FOLDS if number > 1 else 1
    head = create_head(case.kind, 2)  # type: ignore[arg-type]
    program = Program(head, False, folds, HeadTraining(epochs=EPOCHS, own_order=case.own_order))
    lrs = np.repeat(np.geomspace(1e-3, 1e-1, -(-number // FOLDS)), FOLDS)[:number].astype(np.float32)
    members = Members(lrs, np.full(number, 1e-4, np.float32), (np.arange(number) // FOLDS % 4).astype(np.int32))
    rows = orders(program, members, 0, len(examples.features))
    held_out = held_out_rows(folds, np.asarray(examples.folds))
    state: Any = first_state(program, examples.features.shape[1], members)
    started = time.perf_counter()
    run_epoch: Any = make_epoch(program, len(examples.features))
    compiled = run_epoch.lower(state, examples, members, rows, held_out, np.int32(0)).compile()
    seconds = time.perf_counter() - started

    def turn(epoch: int) -> None:
        nonlocal state
        state = compiled(state, examples, members, rows, held_out, np.int32(epoch % EPOCHS))
        np.asarray(state["loss"])

    return Run(f"{number} heads", turn, items=1, unit="epochs", notes={"compile s": seconds})


def peer(case: Case) -> Run:
    return ours(dataclasses.replace(case, heads=1, own_order=False))
