"""What do 64 heads at once cost beside one? Seconds per epoch of `sweep_heads`' program, and its matrix products.

    python benchmarks/sweep.py [--examples 20000] [--width 512] [--heads 64] [--repeats 9] [--concat]

One head and many take turns, so a noisy machine hits them alike; the ratio is taken within each turn. Both run the
same code: an epoch of batches of 64, then the held-out quarter judged. Each is timed to the point where its figures
are on the host; compiling is timed apart. `own order` is the same with an order of the data for every seed, four seeds
in all.
"""

import argparse
import os
import time
from typing import Any

import jax
import numpy as np
from machine import describe, spread

from jaxclf.models import HeadKind, create_head
from jaxclf.training.losses import make_loss
from jaxclf.training.sweep.judge import held_out_rows
from jaxclf.training.sweep.members import _first_state, _make_epoch, _orders
from jaxclf.training.sweep.training import Examples, Members, Training

FOLDS, EPOCHS = 4, 20


class Run:
    """A compiled epoch of `number` heads, its state, and the seconds of every turn."""

    def __init__(self, examples: Examples, number: int, kind: HeadKind, *, own_order: bool = False):
        # A single head is judged on one fold of four, as each of many is.
        folds = FOLDS if number > 1 else 1
        training = Training(
            create_head(kind, 2), make_loss(), False, "sgd", 0.9, folds, 64, EPOCHS, None, own_order, order_seed=0
        )
        lrs = np.repeat(np.geomspace(1e-3, 1e-1, -(-number // FOLDS)), FOLDS)[:number].astype(np.float32)
        seeds = (np.arange(number) // FOLDS % 4).astype(np.int32)
        self.members = Members(lrs, np.full(number, 1e-4, np.float32), seeds)
        self.examples, self.epoch, self.seconds = examples, 0, list[float]()
        self.rows = _orders(training, self.members, 0, len(examples.features))
        self.held_out = held_out_rows(training, np.asarray(examples.folds))
        self.state: Any = _first_state(training, examples.features.shape[1], self.members)
        started = time.perf_counter()
        arguments = (self.state, examples, self.members, self.rows, self.held_out, np.int32(0))
        program: Any = _make_epoch(training, len(examples.features))
        self.compiled = program.lower(*arguments).compile()
        self.compile_seconds = time.perf_counter() - started

    def turn(self) -> None:
        number = np.int32(self.epoch % EPOCHS)
        started = time.perf_counter()
        self.state = self.compiled(self.state, self.examples, self.members, self.rows, self.held_out, number)
        np.asarray(self.state["loss"])
        self.seconds.append(time.perf_counter() - started)
        self.epoch += 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", type=int, default=20_000)
    parser.add_argument("--width", type=int, default=512, help="of the average pool; the features have twice as many")
    parser.add_argument("--heads", type=int, default=64, help="a multiple of 4, the folds")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--concat", action="store_true", help="concat heads too: slow")
    args = parser.parse_args()
    print(describe("optax"))
    print(f"{args.examples} x [2 x {args.width}] features, 2 classes, batch 64, {args.heads} heads, float32")
    print(f"load average at the start: {os.getloadavg()[0]:.1f}")

    generator = np.random.default_rng(0)
    labels = generator.integers(0, 2, args.examples)
    features = generator.normal(size=(args.examples, 2 * args.width)).astype(np.float32)
    features[:, -1] += labels
    folds = (np.arange(args.examples) % FOLDS).astype(np.int32)
    examples = jax.device_put(Examples(features, np.eye(2, dtype=np.float32)[labels], folds))

    runs = {
        "linear, 1": Run(examples, 1, "linear"),
        f"linear, {args.heads}": Run(examples, args.heads, "linear"),
        f"linear, {args.heads}, own order": Run(examples, args.heads, "linear", own_order=True),
    }
    if args.concat:
        runs |= {"concat, 1": Run(examples, 1, "concat"), f"concat, {args.heads}": Run(examples, args.heads, "concat")}
    for _ in range(args.repeats + 1):
        for run in runs.values():
            run.turn()
    print("heads                    compile   epoch                              ratio to one")
    for name, run in runs.items():
        one = runs[f"{name.split(',')[0]}, 1"]
        ratios = [many / single for many, single in zip(run.seconds[1:], one.seconds[1:], strict=True)]
        print(f"{name:23s}  {run.compile_seconds:5.1f} s  {spread(run.seconds[1:])}  {spread(ratios, 'x', 2)}")


if __name__ == "__main__":
    main()
