"""What does augmentation cost? Images/s of the preset side_on on a batch, beside other libraries where installed.

    python benchmarks/augment.py [--image-size 224] [--batch-size 64] [--repeats 9] [--threads 2]

From uint8 pictures of 1.15 times the side to float32 in [0, 1], drawn per image. torchvision does the same work picture
by picture, as its transforms draw once per call: flip, rotation (p .75), a crop of 1/1.21 to 1 of the area resized to
the output, brightness and contrast; on uint8 tensors, in a pool of threads, with the division of threads that a first
round finds fastest. augmax composes and samples once as jaxclf does, under vmap and jit. They take turns; each is timed
until its pixels are there, by the clock and in processor time, which other work on the machine disturbs less. To
compare: pip install torch torchvision augmax, in an environment that holds jaxclf.
"""

import argparse
import functools
import importlib
import importlib.util
import os
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from machine import describe, spread

from jaxclf.augment import make_augment
from jaxclf.data.cache import default_num_threads
from jaxclf.data.decode import presize

#: Given the number of the round, does the whole batch and waits for it.
Run = Callable[[int], Any]

#: Batches in a row before the next library has its turn, so that none pays for the state another leaves memory in.
BATCHES = 4


def ours(images: np.ndarray, size: int, name: str) -> Run:
    augment = jax.jit(make_augment(name, size))
    on_device = jnp.asarray(images)
    return lambda number: augment(jax.random.key(number), on_device).block_until_ready()


def augmax_run(images: np.ndarray, size: int) -> Run:
    """The nearest it has: zooms by U(1, 1.1), rotates with p .75 about the middle; zero, not reflection, outside."""
    augmax = importlib.import_module("augmax")
    side = images.shape[1]
    zoom = (size / side, 1.1 * size / side)
    chain = augmax.Chain(
        augmax.ByteToFloat(),
        augmax.HorizontalFlip(),
        augmax.Rotate((-10, 10), p=0.75),
        augmax.RandomSizedCrop(size, size, zoom_range=zoom),
        augmax.RandomBrightness((-0.05, 0.05)),
        augmax.RandomContrast((-0.05, 0.05)),
    )
    augment = jax.jit(jax.vmap(chain))
    on_device = jnp.asarray(images)
    return lambda number: augment(jax.random.split(jax.random.key(number), len(images)), on_device).block_until_ready()


def torchvision_run(images: np.ndarray, size: int, threads: int) -> tuple[str, Run]:
    torch: Any = importlib.import_module("torch")
    if importlib.util.find_spec("torchvision_ops_stub"):  # for a torchvision without its compiled operators
        importlib.import_module("torchvision_ops_stub")
    v2: Any = importlib.import_module("torchvision.transforms.v2")
    torch.manual_seed(0)
    tensors = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
    transform = v2.Compose(
        [
            v2.RandomHorizontalFlip(),
            v2.RandomApply([v2.RandomRotation(10, interpolation=v2.InterpolationMode.BILINEAR)], 0.75),
            v2.RandomResizedCrop(size, scale=(1 / 1.21, 1.0), ratio=(1.0, 1.0), antialias=False),
            v2.ColorJitter(brightness=0.05, contrast=0.05),
            v2.ToDtype(torch.float32, scale=True),
        ]
    )

    def run(number: int, pool: ThreadPoolExecutor | None, inner: int) -> Any:
        torch.set_num_threads(inner)
        return torch.stack(list(map(transform, tensors) if pool is None else pool.map(transform, tensors)))

    pool = ThreadPoolExecutor(threads)
    ways: dict[str, Run] = {
        f"one after the other, {threads} threads each": functools.partial(run, pool=None, inner=threads),
        f"{threads} at a time, 1 thread each": functools.partial(run, pool=pool, inner=1),
        f"{threads} at a time, {threads} threads each": functools.partial(run, pool=pool, inner=threads),
    }
    fastest = min(ways, key=lambda way: min(timed(ways[way], number)[0] for number in range(2)))
    return fastest, ways[fastest]


def timed(run: Run, number: int) -> tuple[float, float]:
    """Seconds per batch, of BATCHES in a row: by the clock, and of processor time in all threads."""
    clock, processor = time.perf_counter(), time.process_time()
    for batch in range(BATCHES):
        run(number * BATCHES + batch)
    return (time.perf_counter() - clock) / BATCHES, (time.process_time() - processor) / BATCHES


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--threads", type=int, default=default_num_threads())
    args = parser.parse_args()
    size, number = args.image_size, args.batch_size
    side = presize(size)
    images = np.random.default_rng(0).integers(0, 256, (number, side, side, 3)).astype(np.uint8)

    peers = [name for name in ("torch", "torchvision", "augmax") if importlib.util.find_spec(name)]
    print(describe(*peers))
    print(f"side_on, {number} pictures of {side} px to {size} px, uint8 -> float32, {args.threads} threads")
    print(f"turns of {BATCHES} batches; load average before: {os.getloadavg()[0]:.1f}")
    runs: dict[str, Run] = {"jaxclf side_on": ours(images, size, "side_on")}
    runs["jaxclf random_resized_crop"] = ours(images, size, "random_resized_crop")
    if "torch" in peers and "torchvision" in peers:
        way, runs["torchvision v2"] = torchvision_run(images, size, args.threads)
        print(f"torchvision: {way}")
    else:
        print("torch and torchvision are not both installed: jaxclf alone")
    if "augmax" in peers:
        runs["augmax"] = augmax_run(images, size)

    times: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    for round_number in range(args.repeats + 2):
        for name, run in runs.items():
            times[name].append(timed(run, round_number))
    times = {name: values[2:] for name, values in times.items()}  # the first compile and warm up
    for name, values in times.items():
        clock, processor = zip(*values, strict=True)
        speed = number / statistics.median(clock)
        print(f"{name:27s} {spread(clock)}  {speed:5.0f} images/s  processor {spread(processor)}")
    own = times["jaxclf side_on"]
    for name in [name for name in runs if not name.startswith("jaxclf")]:
        pairs = list(zip(times[name], own, strict=True))
        for column, what in enumerate(("time by the clock", "processor time")):
            ratios = [theirs[column] / mine[column] for theirs, mine in pairs]
            print(f"{name} / jaxclf side_on, {what}, pair by pair: {spread(ratios, 'x', 2)}")


if __name__ == "__main__":
    main()
