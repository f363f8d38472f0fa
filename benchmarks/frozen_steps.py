"""What does freezing save? Compile time, step time and FLOPs of a train step, by how much of the body is frozen.

    python benchmarks/frozen_steps.py [--arch resnet18] [--image-size 96] [--batch-size 32] [--repeats 7]

The steps take turns, so a noisy machine hits them alike. Each is timed to the point where its loss is on the host.
"""

import argparse
import time

import jax
import numpy as np
from machine import describe, spread

from jaxclf import schedules
from jaxclf.augment import make_augment
from jaxclf.config import Preprocess, frozen_prefix
from jaxclf.data.batches import Batch
from jaxclf.data.decode import presize
from jaxclf.models import create_classifier, init_variables
from jaxclf.training.optimizer import make_optimizer
from jaxclf.training.state import create_train_state
from jaxclf.training.step import make_train_step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", default="resnet18")
    parser.add_argument("--image-size", type=int, default=96)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=7)
    args = parser.parse_args()
    print(describe("optax"))
    print(f"{args.arch}, {args.image_size} px, batch {args.batch_size}, float32, side_on augmentation in the step")

    model = create_classifier(args.arch, 2)
    variables = init_variables(model, jax.random.key(0))
    side = presize(args.image_size)
    number = args.batch_size
    images = np.random.default_rng(0).integers(0, 256, (number, side, side, 3)).astype(np.uint8)
    batch = Batch(images, np.arange(number, dtype=np.int32) % 2, np.ones(number, np.float32), np.arange(number))
    key = jax.random.key(1)
    runs = {}
    for through in (None, "stage1", "stage3", "stage4"):
        frozen = frozen_prefix(through)
        optimizer = make_optimizer(variables["params"], schedules.constant(), (1e-3,), frozen=frozen)
        step = make_train_step(
            model,
            optimizer,
            preprocess=Preprocess(image_size=args.image_size),
            frozen=frozen,
            augment=make_augment("side_on", args.image_size),
        )
        state = create_train_state(variables, optimizer, frozen=frozen)
        started = time.perf_counter()
        compiled = step.lower(state, batch, key).compile()  # type: ignore[attr-defined]
        compile_seconds = time.perf_counter() - started
        runs[through or "nothing"] = [compiled, state, compile_seconds, []]
    for _ in range(args.repeats + 1):
        for run in runs.values():
            started = time.perf_counter()
            run[1], metrics = run[0](run[1], batch, key)
            float(metrics["loss"])
            run[3].append(time.perf_counter() - started)
    full = runs["nothing"][0].cost_analysis()["flops"]
    print("frozen through   compile   FLOPs    step")
    for name, (compiled, _, seconds, times) in runs.items():
        share = compiled.cost_analysis()["flops"] / full
        speed = number / sorted(times[1:])[len(times[1:]) // 2]
        print(f"{name:15s}  {seconds:5.1f} s  {share:5.2f}  {spread(times[1:])}  {speed:.0f} images/s")


if __name__ == "__main__":
    main()
