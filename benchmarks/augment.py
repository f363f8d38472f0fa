"""What does augmentation cost? A batch of pictures, beside other libraries where they are installed.

From uint8 pictures of 1.15 times the side to float32 in [0, 1], drawn per image. torchvision does the same work as
side_on picture by picture, as its transforms draw once per call: flip, rotation (p .75), a crop of 1/1.21 to 1 of the
area resized to the output, brightness and contrast; on uint8 tensors, in a pool of threads, with the division of
threads that a first round finds fastest. augmax composes and samples once as jaxclf does, under vmap and jit; the
nearest it has zooms by U(1, 1.1), and puts zeros, not a reflection, outside.
To compare: pip install torch torchvision augmax, in an environment that holds jaxclf.
"""

import dataclasses
import functools
import importlib
import importlib.util
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
from harness import Run, import_torch, pictures

from jaxclf.augment import make_augment
from jaxclf.data.cache import default_num_threads
from jaxclf.data.decode import presize

SMOKE = {"image_size": 24, "batch_size": 2}


@dataclasses.dataclass(frozen=True)
class Case:
    preset: str = "side_on"
    against: str = "torchvision"
    image_size: int = 224
    batch_size: int = 64
    threads: int = default_num_threads()


def cases() -> list[Case]:
    return [Case(), Case(against="augmax"), Case("random_resized_crop", against="nothing")]


def ours(case: Case) -> Run:
    augment = jax.jit(make_augment(case.preset, case.image_size))
    number = case.batch_size
    images = jnp.asarray(pictures(number, presize(case.image_size)))
    return Run(
        f"jaxclf {case.preset}", lambda n: augment(jax.random.key(n), images).block_until_ready(), number, repeat=4
    )


def peer(case: Case) -> Run | None:
    if case.against == "augmax" and importlib.util.find_spec("augmax"):
        return _augmax(case)
    torch = import_torch() if case.against == "torchvision" else None
    return _torchvision(torch, case) if torch else None


def _augmax(case: Case) -> Run:
    augmax: Any = importlib.import_module("augmax")
    size, side = case.image_size, presize(case.image_size)
    chain = augmax.Chain(
        augmax.ByteToFloat(),
        augmax.HorizontalFlip(),
        augmax.Rotate((-10, 10), p=0.75),
        augmax.RandomSizedCrop(size, size, zoom_range=(size / side, 1.1 * size / side)),
        augmax.RandomBrightness((-0.05, 0.05)),
        augmax.RandomContrast((-0.05, 0.05)),
    )
    augment = jax.jit(jax.vmap(chain))
    images = jnp.asarray(pictures(case.batch_size, side))
    keys = functools.partial(jax.random.split, num=case.batch_size)
    return Run(
        "augmax", lambda n: augment(keys(jax.random.key(n)), images).block_until_ready(), case.batch_size, repeat=4
    )


def _torchvision(torch: Any, case: Case) -> Run:
    v2: Any = importlib.import_module("torchvision.transforms.v2")
    images = pictures(case.batch_size, presize(case.image_size))
    tensors = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
    transform = v2.Compose(
        [
            v2.RandomHorizontalFlip(),
            v2.RandomApply([v2.RandomRotation(10, interpolation=v2.InterpolationMode.BILINEAR)], 0.75),
            v2.RandomResizedCrop(case.image_size, scale=(1 / 1.21, 1.0), ratio=(1.0, 1.0), antialias=False),
            v2.ColorJitter(brightness=0.05, contrast=0.05),
            v2.ToDtype(torch.float32, scale=True),
        ]
    )
    threads = case.threads
    pool = ThreadPoolExecutor(threads)

    def turn(number: int, at_a_time: int, inner: int) -> None:
        torch.set_num_threads(inner)
        torch.stack(list(map(transform, tensors) if at_a_time == 1 else pool.map(transform, tensors)))

    def seconds(way: tuple[int, int]) -> float:
        started = time.perf_counter()
        turn(0, *way)
        return time.perf_counter() - started

    ways = [(1, threads), (threads, 1), (threads, threads)]
    way = min(ways, key=lambda way: min(seconds(way), seconds(way)))
    notes = {"at a time": way[0], "threads each": way[1]}
    return Run("torchvision v2", lambda n: turn(n, *way), case.batch_size, repeat=4, notes=notes, close=pool.shutdown)
