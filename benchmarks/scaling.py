"""What does dividing a batch among devices cost? Time per train step on 1, 2, 4 and 8 virtual devices of one CPU.

    python benchmarks/scaling.py [--arch resnet10t] [--batch-size 32] [--image-size 64] [--devices 1 2 4 8] [--turns 15]

The batch is the same for all, whole, and the devices share the machine's cores; so there is nothing to be gained, and
what a step takes longer than without a mesh is the overhead: starting more programs, each on fewer rows, and waiting
for each other at each of BatchNorm's and the gradient's sums. No speed-up is claimed or can be read from it.

A step goes from uint8 pictures on the devices to new parameters: side-on augmentation, forward, cross-entropy,
backward, Nesterov momentum, BatchNorm over the whole batch, all layers trained. All numbers of devices take turns, step
by step, in one process, each timed until its new state is there. Compile times are of the first step.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import jax
import numpy as np
from machine import describe, spread

from jaxclf.config import Phase, Settings
from jaxclf.data.devices import data_mesh
from jaxclf.data.loader import Loader
from jaxclf.data.sources import ArrayDataset
from jaxclf.inference.predict import to_device
from jaxclf.models import create_classifier, init_variables
from jaxclf.training.program import make_phase_program

NUM_CLASSES = 10


def make_run(arch: str, loader: Loader, number: int | None) -> tuple[Callable[[], float], float]:
    """A function that times one step in seconds, and how long the first one took, with compilation."""
    model = create_classifier(arch, NUM_CLASSES)
    variables = init_variables(model, jax.random.key(0), image_size=loader.preprocess.image_size)
    phase = Phase("all", lrs=(1e-3,), augment="side_on")
    mesh = None if number is None else data_mesh(number)
    program = make_phase_program(model, variables, phase, loader, Settings(), mesh=mesh)
    state = program.create_state(variables, phase, Settings())
    batch = next(iter(to_device(loader.epoch(0), mesh=mesh)))
    jax.block_until_ready((state, batch))

    def run() -> float:
        nonlocal state
        start = time.perf_counter()
        state, metrics = program.train_step(state, batch, program.key)
        jax.block_until_ready((state, metrics))
        return time.perf_counter() - start

    return run, run()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", default="resnet10t")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--devices", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--turns", type=int, default=15)
    options = parser.parse_args()
    jax.config.update("jax_num_cpu_devices", max(options.devices))
    jax.config.update("jax_platforms", "cpu")
    print(describe("optax"))
    what = f"{options.arch}, {options.image_size} px, batch {options.batch_size} in all, float32"
    print(f"{what}; {options.turns} turns; virtual devices share the cores: overhead, no speed-up\n")
    number, side = options.batch_size, options.image_size
    pictures = np.random.default_rng(0).integers(0, 256, (number, side, side, 3), dtype=np.uint8)
    data = ArrayDataset(pictures, np.arange(number) % NUM_CLASSES)
    loader = Loader(data, batch_size=number, image_size=side, train=True)
    runs, first = {}, {}
    for devices in (None, *options.devices):
        runs[devices], first[devices] = make_run(options.arch, loader, devices)
    times: dict[int | None, list[float]] = {devices: [] for devices in runs}
    for _ in range(options.turns):
        for devices, run in runs.items():
            times[devices].append(run() * 1e3)
    plain = statistics.median(times[None])
    print(f"{'devices':>8}  {'first step':>10}  {'step, ms: median (of n: range)':<40}  overhead")
    for devices, values in times.items():
        name = "no mesh" if devices is None else str(devices)
        ratios = [value / base for value, base in zip(values, times[None], strict=True)]
        extra = f"{statistics.median(values) - plain:+7.1f} ms, x {statistics.median(ratios):.2f}"
        print(f"{name:>8}  {first[devices]:>8.1f} s  {spread(values, 'ms', 1):<40}  {extra}")


if __name__ == "__main__":
    main()
