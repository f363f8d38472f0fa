"""Convolution as one matrix product for each entry of the kernel, where a CPU is faster so.

XLA's own convolution is slow there in two ways:

- for a kernel's gradient it first moves the channels of picture and gradient in front of everything else. Of a 1x1
  kernel the gradient is a product of what lies there already; forwards and backwards it then is 1.5 to 2.6 times as
  fast. (Of a 3x3 kernel with
  a stride it would be nine, which gain nothing over a whole step and take longer to compile.)
- in bfloat16 it does not use what a CPU has for that (AMX), and products that keep their sums in float32 do: 3x3, 128
  and 256 channels, on 12 x 12 maps are 1.1 to 1.7 times as fast as nine products.

Measured by `benchmarks/small_maps.py`, see `benchmarks/results/`. It is decided when a program is compiled for a CPU,
and no branch is left of it; GPU and TPU get the convolution and its own gradients.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxclf.models.windows import shifted, spread

#: Entries of a kernel up to which one product for each of them is worth it in bfloat16.
MAX_PRODUCTS = 9
#: Input channels from which on bfloat16 products are faster than a convolution over more than one position.
MIN_CHANNELS = 128


class Window(NamedTuple):
    """How a kernel of a shape [kh, kw, c, o] is moved over an input of a shape [b, h, w, c]; hashable."""

    kernel: tuple[int, ...]
    input: tuple[int, ...]
    strides: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    precision: Any

    @classmethod
    def of(
        cls,
        x: jax.Array,
        kernel: jax.Array,
        strides: Sequence[int],
        padding: Sequence[tuple[int, int]],
        precision: Any = None,
    ) -> "Window":
        """The window of a convolution of x with the kernel."""
        pads = tuple((before, after) for before, after in padding)
        return cls(kernel.shape, x.shape, tuple(strides), pads, precision)

    @property
    def entries(self) -> int:
        """Entries of the kernel."""
        return math.prod(self.kernel[:2])

    @property
    def kernel_gains(self) -> bool:
        """Whether a product is faster for the gradient of the kernel, and no slower for that of the input."""
        return self.entries == 1

    def input_gains(self, dtype: Any) -> bool:
        """Whether they are faster forwards as well, and for the gradient of the input."""
        enough = self.entries == 1 or (self.entries <= MAX_PRODUCTS and self.kernel[2] >= MIN_CHANNELS)
        return bool(dtype == jnp.bfloat16) and enough


def convolve(x: jax.Array, kernel: jax.Array, window: Window) -> jax.Array:
    """The convolution of x [b, h, w, c] with the kernel [kh, kw, c, o]: [b, oh, ow, o], on a CPU by the faster form."""
    if window.kernel_gains or window.input_gains(x.dtype):
        return _with_products(x, kernel, window)
    return _convolution(window, x, kernel)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _with_products(x: jax.Array, kernel: jax.Array, window: Window) -> jax.Array:
    convolution = functools.partial(_convolution, window)
    if not window.input_gains(x.dtype):
        return convolution(x, kernel)
    return lax.platform_dependent(x, kernel, cpu=functools.partial(_products, window), default=convolution)


def _convolution(window: Window, x: jax.Array, kernel: jax.Array) -> jax.Array:
    numbers, precision = ("NHWC", "HWIO", "NHWC"), window.precision
    return lax.conv_general_dilated(
        x, kernel, window.strides, window.padding, dimension_numbers=numbers, precision=precision
    )


def _forward(x: Any, kernel: Any, window: Window) -> tuple[jax.Array, tuple[jax.Array | None, jax.Array | None]]:
    """Keeps what the gradients that are wanted need: of a frozen layer's output none is."""
    kept = (x.value if kernel.perturbed else None, kernel.value if x.perturbed else None)
    return _with_products(x.value, kernel.value, window), kept


def _backward(
    window: Window, kept: tuple[jax.Array | None, jax.Array | None], gradient: Any
) -> tuple[jax.Array | None, jax.Array | None]:
    x, kernel = kept
    if isinstance(gradient, jax.custom_derivatives.SymbolicZero):
        gradient = jnp.zeros(gradient.shape, gradient.dtype)
    at_x = at_kernel = None
    if kernel is not None:
        to_x = functools.partial(_transposed_to_x, window)
        at_x = lax.platform_dependent(kernel, gradient, cpu=functools.partial(_to_x, window), default=to_x)
    if x is not None:
        to_kernel = functools.partial(_transposed_to_kernel, window)
        forms = {"cpu": functools.partial(_to_kernel, window)} if window.kernel_gains else {}
        at_kernel = lax.platform_dependent(x, gradient, default=to_kernel, **forms)
    return at_x, at_kernel


_with_products.defvjp(_forward, _backward, symbolic_zeros=True)


def _transposed_to_x(window: Window, kernel: jax.Array, gradient: jax.Array) -> jax.Array:
    x = jax.ShapeDtypeStruct(window.input, gradient.dtype)
    at_x: jax.Array = jax.linear_transpose(lambda x: _convolution(window, x, kernel), x)(gradient)[0]
    return at_x


def _transposed_to_kernel(window: Window, x: jax.Array, gradient: jax.Array) -> jax.Array:
    kernel = jax.ShapeDtypeStruct(window.kernel, gradient.dtype)
    at_kernel: jax.Array = jax.linear_transpose(lambda kernel: _convolution(window, x, kernel), kernel)(gradient)[0]
    return at_kernel


def _products(window: Window, x: jax.Array, kernel: jax.Array) -> jax.Array:
    """What every entry of the kernel makes of what it sees, added up."""
    views = shifted(x, window.kernel[:2], window.strides, window.padding)
    total = jnp.zeros((), jnp.float32)
    for view, entry in zip(views, kernel.reshape(-1, *window.kernel[2:]), strict=True):
        total = total + jnp.matmul(view, entry, precision=window.precision, preferred_element_type=jnp.float32)
    return total.astype(x.dtype)


def _to_x(window: Window, kernel: jax.Array, gradient: jax.Array) -> jax.Array:
    """What every entry of the kernel carries back, added up where it saw the input."""
    sides = (window.padding, window.strides, gradient.shape[1:3], window.input[1:3])
    total = jnp.zeros((), jnp.float32)
    for entry in range(window.entries):
        at = divmod(entry, window.kernel[1])
        back = jnp.matmul(gradient, kernel[at].T, precision=window.precision, preferred_element_type=jnp.float32)
        edges = [spread(*sizes) for sizes in zip(at, *sides, strict=True)]
        total = total + lax.pad(back, jnp.zeros((), back.dtype), [(0, 0, 0), *edges, (0, 0, 0)])
    return total.astype(gradient.dtype)


def _to_kernel(window: Window, x: jax.Array, gradient: jax.Array) -> jax.Array:
    """Of a 1x1 kernel: one product over all positions."""
    (seen,) = shifted(x, window.kernel[:2], window.strides, window.padding)
    _, _, inputs, outputs = window.kernel
    over_positions = (((0,), (0,)), ((), ()))
    product = lax.dot_general(
        seen.reshape(-1, inputs), gradient.reshape(-1, outputs), over_positions, precision=window.precision
    )
    return product.reshape(window.kernel)
