"""Convolution in the form that XLA runs fast; the results are the same.

XLA's CPU convolution falls back to a naive loop on feature maps smaller than about 4 x 4, which is what small pictures
leave for the last stage: 3x3, 512 -> 512 channels, batch 32 on a 2 x 2 map takes 276 ms forwards and 583 ms with its
gradients, as one matrix product 5 and 12 ms. Measured by `benchmarks/small_maps.py`, see `benchmarks/results/`. So
small a map is one product on every platform, so that a network computes by the same formulas wherever it is trained:
GPU and TPU do it as a product anyway. For larger ones see `products.py`.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxclf.models.products import Window, convolve
from jaxclf.models.windows import shifted

#: Output positions up to which a convolution is written as a matrix product over its patches.
MAX_PRODUCT_POSITIONS = 16


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
    if feature_group_count == 1:
        return convolve(x, kernel, Window.of(x, kernel, strides, padding, precision))
    return lax.conv_general_dilated(
        x, kernel, strides, padding, feature_group_count=feature_group_count, precision=precision, **others
    )
