"""Pools: the stem's maximum, the D variants' 2x2 mean, and both global pools with the half of them a head may want."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from jaxclf.models.windows import shifted, spread


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def max_pool(x: jax.Array, size: int = 3, stride: int = 2, padding: int = 1) -> jax.Array:
    """Maximum over `size` x `size` windows of [b, h, w, c], padded with -inf.

    Of equal maxima the first, row by row, gets the gradient, as in torch. The gradient follows the winner's number,
    kept in a byte: on a CPU that takes less than half of what the gradients of `reduce_window` and of shifted maxima
    take.
    """
    return _winners(x, size, stride, padding)[0]


def _winners(x: jax.Array, size: int, stride: int, padding: int) -> tuple[jax.Array, jax.Array]:
    """The maxima, and uint8 of the same shape: which of a window's positions each comes from."""
    first, *others = shifted(x, (size, size), (stride, stride), ((padding, padding),) * 2, fill=-jnp.inf)
    largest, winner = first, jnp.zeros(first.shape, jnp.uint8)
    for number, view in enumerate(others, 1):
        winner = jnp.where(view > largest, jnp.uint8(number), winner)
        largest = jnp.maximum(largest, view)
    return largest, winner


def _max_pool_forward(
    x: jax.Array, size: int, stride: int, padding: int
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    largest, winner = _winners(x, size, stride, padding)
    return largest, (winner, jnp.zeros((*x.shape[1:3], 0)))  # empty: only its shape is wanted


def _max_pool_backward(
    size: int, stride: int, padding: int, kept: tuple[jax.Array, jax.Array], gradient: jax.Array
) -> tuple[jax.Array]:
    """Each position of the windows gets back what it won, spread out to where the windows saw it.

    In float32 throughout, also as a CPU takes more than twice as long to spread bfloat16.
    """
    winner, empty = kept
    dtype, gradient, total = gradient.dtype, gradient.astype(jnp.float32), None
    for number in range(size * size):
        won = jnp.where(winner == number, gradient, 0.0)
        sides = zip(divmod(number, size), gradient.shape[1:3], empty.shape[:2], strict=True)
        edges = [spread(offset, (padding, padding), stride, windows, side) for offset, windows, side in sides]
        back = jax.lax.pad(won, jnp.zeros((), gradient.dtype), [(0, 0, 0), *edges, (0, 0, 0)])
        total = back if total is None else total + back
    assert total is not None  # a window has at least one position
    return (total.astype(dtype),)


max_pool.defvjp(_max_pool_forward, _max_pool_backward)


def average_pool_2x2(x: jax.Array) -> jax.Array:
    """2x2 mean of [b, h, w, c] with stride 2; an odd last row or column averages the pixels there are."""
    height, width = x.shape[1:3]
    padding = ((0, 0), (0, height % 2), (0, width % 2), (0, 0))
    total = jax.lax.reduce_window(x, 0.0, jax.lax.add, (1, 2, 2, 1), (1, 2, 2, 1), padding)
    rows, columns = (np.minimum(size - np.arange(0, size, 2), 2) for size in (height, width))
    return total / jnp.asarray(np.outer(rows, columns)[..., None], x.dtype)


def concat_pool(x: jax.Array) -> jax.Array:
    """Global pools of [b, h, w, c] as float32 [b, 2c]: the maximum first, then the average."""
    x = x.astype(jnp.float32)
    return jnp.concatenate([x.max((1, 2)), x.mean((1, 2))], axis=-1)


def average_half(pooled: jax.Array) -> jax.Array:
    """The average pool [b, c] out of the pooled activation [b, 2c]."""
    return pooled[:, pooled.shape[-1] // 2 :]
