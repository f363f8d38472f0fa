"""What do jaxclf's forms of convolution and max-pool save over XLA's own? Forwards, and forwards and backwards.

    python benchmarks/small_maps.py [--repeats 7]

Both compute the same values (tests/models/test_conv.py). The two take turns in one run; batch 32, float32.
"""

import argparse
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import lax
from machine import describe, spread

from jaxclf.models.conv import convolution
from jaxclf.models.pool import max_pool

NUMBERS = lax.ConvDimensionNumbers((0, 3, 1, 2), (3, 2, 0, 1), (0, 3, 1, 2))
Sides = tuple[int, int]
Padding = tuple[tuple[int, int], ...]
#: side of the map, channels in, channels out, kernel, stride
CASES = ((2, 512, 512, 3, 1), (3, 512, 512, 3, 1), (4, 512, 512, 3, 1), (4, 256, 512, 3, 2))


def seconds(function: Callable[..., jax.Array], *args: jax.Array) -> float:
    started = time.perf_counter()
    jax.block_until_ready(function(*args))
    return time.perf_counter() - started


def compare(name: str, ours: Callable[..., jax.Array], theirs: Callable[..., jax.Array], *args: jax.Array) -> None:
    repeats = REPEATS
    for label, wrap in (
        ("forward", lambda f: f),
        ("gradient", lambda f: jax.grad(lambda *a: (f(*a) ** 2).sum(), argnums=tuple(range(len(args))))),
    ):
        pair = [jax.jit(wrap(function)) for function in (ours, theirs)]
        for function in pair:
            seconds(function, *args)  # compiles
        times = [[seconds(function, *args) * 1e3 for function in pair] for _ in range(repeats)]
        mine, xla = zip(*times, strict=True)
        print(f"{name:34s} {label:9s} ours {spread(mine, 'ms', 1)}  XLA's {spread(xla, 'ms', 1)}")


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--repeats", type=int, default=7)
REPEATS = parser.parse_args().repeats
print(describe())
generator = np.random.default_rng(0)
for side, inputs, outputs, kernel, stride in CASES:
    x = jnp.asarray(generator.normal(size=(32, side, side, inputs)), jnp.float32)
    k = jnp.asarray(generator.normal(size=(kernel, kernel, inputs, outputs)), jnp.float32)
    strides, padding = (stride, stride), ((kernel // 2, kernel // 2),) * 2

    def ours(x: jax.Array, k: jax.Array, s: Sides = strides, p: Padding = padding) -> jax.Array:
        return convolution(x, k, s, p, dimension_numbers=NUMBERS)

    def theirs(x: jax.Array, k: jax.Array, s: Sides = strides, p: Padding = padding) -> jax.Array:
        return lax.conv_general_dilated(x, k, s, p, dimension_numbers=NUMBERS)

    compare(f"{kernel}x{kernel} /{stride}, {inputs} -> {outputs}, {side} x {side}", ours, theirs, x, k)

pooled = jnp.asarray(generator.normal(size=(32, 48, 48, 64)), jnp.float32)
compare("max-pool 3x3 /2, 64, 48 x 48", max_pool, lambda x: nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1))), pooled)
