"""Convolution in the form that XLA runs fast, forwards and backwards; the results are the same.

Two of XLA's convolutions are slow on a CPU:

- on feature maps smaller than about 4 x 4, which is what small pictures leave for the last stage, it falls back to a
  naive loop: 3x3, 512 -> 512 channels, batch 32 on a 2 x 2 map takes 276 ms forwards and 583 ms with its gradients, as
  one matrix product 5 and 12 ms;
- for a kernel's gradient it first moves the channels of picture and gradient in front of everything else. Where the
  kernel is 1x1, or has a stride, products of what lies there already take a tenth to two thirds of the time; so does
  the gradient of the input of a convolution with a stride, which XLA spreads by zeros and then convolves.

In bfloat16 products that keep their sums in float32 use what a CPU has for it (AMX, AVX-512 BF16), convolutions do not:
3x3, 256 -> 256 channels, runs at 150 GFLOP/s as one and at 460 as nine products on two cores of a Sapphire Rapids.

Measured by `benchmarks/small_maps.py`, see `benchmarks/results/`. Small maps are products on every platform, so that a
network computes by the same formulas wherever it is trained: GPU and TPU do so small convolutions as products anyway.
The rest is by products on CPUs only, which is decided when a program is compiled for one, and no branch is left of it.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

#: Output positions up to which a convolution is written as a matrix product over its patches.
MAX_PRODUCT_POSITIONS = 16
#: Entries of a kernel up to which one product for each of them is worth it on a CPU.
MAX_PRODUCTS = 9
#: Input channels from which on bfloat16 products are faster there than a convolution over more than one position.
MIN_CHANNELS = 128


class _Window(NamedTuple):
    """How a kernel is moved over a picture."""

    strides: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    precision: Any


def convolution(
    x: jax.Array,
    kernel: jax.Array,
    strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
    *,
    feature_group_count: int = 1,
    precision: Any = None,
    **others: Any,
) -> jax.Array:
    """`lax.conv_general_dilated` in NHWC / HWIO, as matrix products where that is faster.

    Linen's `nn.Conv` takes it as its `conv_general_dilated`.

    Args:
      x: [b, h, w, c].
      kernel: [kh, kw, c / groups, o].
      strides, padding: of the two spatial axes; padding as (before, after).
      feature_group_count: groups; more than one always runs as a convolution.
      precision: of the product.
      others: `lax.conv_general_dilated`'s remaining arguments, of which only the undilated NHWC form occurs.

    Returns:
      [b, oh, ow, o].
    """
    sides = zip(x.shape[1:3], padding, kernel.shape[:2], strides, strict=True)
    height, width = ((side + sum(pad) - size) // stride + 1 for side, pad, size, stride in sides)
    if feature_group_count == 1 and height * width <= MAX_PRODUCT_POSITIONS:
        patches = jnp.concatenate(shifted(x, kernel.shape[:2], strides, padding), axis=-1)  # [b, oh, ow, kh * kw * c]
        return jnp.matmul(patches, kernel.reshape(-1, kernel.shape[-1]), precision=precision)
    if feature_group_count == 1 and (_gradient_by_products(kernel, strides) or _all_by_products(x, kernel)):
        return _with_products(
            x, kernel, _Window(tuple(strides), tuple((before, after) for before, after in padding), precision)
        )
    return lax.conv_general_dilated(
        x, kernel, strides, padding, feature_group_count=feature_group_count, precision=precision, **others
    )


def _gradient_by_products(kernel: jax.Array, strides: Sequence[int]) -> bool:
    """Whether a CPU gains by products for the gradient of the kernel, and does not lose by them for the input's."""
    entries = math.prod(kernel.shape[:2])
    return entries == 1 or (max(strides) > 1 and entries <= MAX_PRODUCTS)


def _all_by_products(x: jax.Array, kernel: jax.Array) -> bool:
    """Whether a CPU gains by products forwards, and for the gradient of the input."""
    entries, channels = math.prod(kernel.shape[:2]), kernel.shape[2]
    enough = entries == 1 or (entries <= MAX_PRODUCTS and channels >= MIN_CHANNELS)
    return x.dtype == jnp.bfloat16 and enough


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _with_products(x: jax.Array, kernel: jax.Array, window: _Window) -> jax.Array:
    """The convolution, which on a CPU is products where they are faster, forwards or backwards."""
    convolve = functools.partial(_convolve, window)
    if not _all_by_products(x, kernel):
        return convolve(x, kernel)
    return lax.platform_dependent(x, kernel, cpu=functools.partial(_by_products, window), default=convolve)


def _convolve(window: _Window, x: jax.Array, kernel: jax.Array) -> jax.Array:
    strides, padding, precision = window
    numbers = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=numbers, precision=precision)


def _forward(x: jax.Array, kernel: jax.Array, window: _Window) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _with_products(x, kernel, window), (x, kernel)


def _backward(window: _Window, kept: tuple[jax.Array, jax.Array], gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, kernel = kept

    def transposed_to_x(kernel: jax.Array, gradient: jax.Array) -> jax.Array:
        at_x: jax.Array = jax.linear_transpose(lambda x: _convolve(window, x, kernel), x)(gradient)[0]
        return at_x

    def transposed_to_kernel(x: jax.Array, gradient: jax.Array) -> jax.Array:
        at_kernel: jax.Array = jax.linear_transpose(lambda kernel: _convolve(window, x, kernel), kernel)(gradient)[0]
        return at_kernel

    # Apart, so that each can be left out where nobody wants it.
    to_x = functools.partial(_to_x, window, x.shape)
    at_x = lax.platform_dependent(kernel, gradient, cpu=to_x, default=transposed_to_x)
    if not _gradient_by_products(kernel, window.strides):
        return at_x, transposed_to_kernel(x, gradient)
    to_kernel = functools.partial(_to_kernel, window, kernel.shape)
    return at_x, lax.platform_dependent(x, gradient, cpu=to_kernel, default=transposed_to_kernel)


_with_products.defvjp(_forward, _backward)


def _by_products(window: _Window, x: jax.Array, kernel: jax.Array) -> jax.Array:
    """What every entry of the kernel makes of what it sees, added up."""
    strides, padding, precision = window
    entries = kernel.reshape(-1, *kernel.shape[2:])
    total = jnp.zeros((), jnp.float32)
    for view, entry in zip(shifted(x, kernel.shape[:2], strides, padding), entries, strict=True):
        total = total + jnp.matmul(view, entry, precision=precision, preferred_element_type=jnp.float32)
    return total.astype(x.dtype)


def _to_x(window: _Window, shape: tuple[int, ...], kernel: jax.Array, gradient: jax.Array) -> jax.Array:
    """What every entry of the kernel carries back, added up where it saw the input."""
    strides, padding, precision = window
    total = jnp.zeros((), jnp.float32)
    for entry in range(math.prod(kernel.shape[:2])):
        at = divmod(entry, kernel.shape[1])
        back = jnp.matmul(gradient, kernel[at].T, precision=precision, preferred_element_type=jnp.float32)
        edges = [spread(*sizes) for sizes in zip(at, padding, strides, gradient.shape[1:3], shape[1:3], strict=True)]
        total = total + lax.pad(back, jnp.zeros((), back.dtype), [(0, 0, 0), *edges, (0, 0, 0)])
    return total.astype(gradient.dtype)


def _to_kernel(window: _Window, shape: tuple[int, ...], x: jax.Array, gradient: jax.Array) -> jax.Array:
    """One product an entry of the kernel, over all positions."""
    strides, padding, precision = window
    flat, over_positions = gradient.reshape(-1, shape[-1]), (((0,), (0,)), ((), ()))
    views = [view.reshape(-1, shape[2]) for view in shifted(x, shape[:2], strides, padding)]
    products = [lax.dot_general(view, flat, over_positions, precision=precision) for view in views]
    return jnp.concatenate(products).reshape(shape)


def spread(offset: int, padding: Sequence[int], stride: int, windows: int, side: int) -> tuple[int, int, int]:
    """`lax.pad`'s (before, after, between) that puts what windows found at `offset` back where they saw it."""
    before = offset - padding[0]
    return before, side - 1 - before - (windows - 1) * stride, stride - 1


def shifted(
    x: jax.Array,
    window: Sequence[int],
    strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
    *,
    fill: float = 0.0,
) -> list[jax.Array]:
    """What each position of a window sees at every output position, row by row: kh * kw arrays [b, oh, ow, c]."""
    if any(before or after for before, after in padding):
        x = jnp.pad(x, ((0, 0), *padding, (0, 0)), constant_values=fill)
    batch, height, width, channels = x.shape
    rows, columns = ((s - k) // t + 1 for s, k, t in zip((height, width), window, strides, strict=True))
    return [
        lax.slice(
            x,
            (0, i, j, 0),
            (batch, i + (rows - 1) * strides[0] + 1, j + (columns - 1) * strides[1] + 1, channels),
            (1, strides[0], strides[1], 1),
        )
        for i in range(window[0])
        for j in range(window[1])
    ]
