"""What a window that is moved over a picture sees, and the way back; of convolutions and pools."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax


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


def spread(offset: int, padding: Sequence[int], stride: int, windows: int, side: int) -> tuple[int, int, int]:
    """`lax.pad`'s (before, after, between) that puts what windows found at `offset` back where they saw it."""
    before = offset - padding[0]
    return before, side - 1 - before - (windows - 1) * stride, stride - 1
