"""Batch normalisation with masked, exact statistics and torch's running variance.

Flax's own `BatchNorm` keeps the biased running variance and by default computes it as E[x^2] - E[x]^2, which loses
all digits where the mean is far from zero. This one follows torch to the letter, so that a network fine-tuned here
and one fine-tuned there keep the same running statistics, and it leaves padded examples out.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn


def masked_moments(x: jax.Array, mask: jax.Array | None = None) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Mean and biased variance of every channel over all valid positions, in two passes and in float32.

    With V the valid positions (the examples whose mask is not zero, times all spatial positions) and n = |V|:
    mean = sum_V x / n, variance = sum_V (x - mean)^2 / n. An empty V gives zeros, never NaN. Under jit with a sharded
    batch the sums run over the global batch; no axis name is needed.

    Args:
      x: [b, ..., c], any float dtype.
      mask: [b], 0 or 1 (bool, integer or float). None: every example is valid.

    Returns:
      mean float32 [c], variance float32 [c], n float32 [] (the number of valid positions).

    Raises:
      ValueError: if mask is not of shape [b].

    Example:
      >>> mean, variance, n = masked_moments(jnp.array([[1.0], [3.0], [100.0]]), jnp.array([1, 1, 0]))
      >>> float(mean[0]), float(variance[0]), float(n)
      (2.0, 1.0, 2.0)
    """
    x = x.astype(jnp.float32)
    axes = tuple(range(x.ndim - 1))
    positions = float(x.size // (x.shape[0] * x.shape[-1])) if x.size else 0.0
    if mask is None:
        mask = jnp.ones(x.shape[0], bool)
    if mask.shape != x.shape[:1]:
        raise ValueError(f"mask: expected shape {x.shape[:1]}, one entry per example, got {mask.shape}")
    valid = mask.astype(bool).reshape(-1, *(1,) * (x.ndim - 1))  # [b, 1, ..., 1]
    n = jnp.sum(valid, dtype=jnp.float32) * positions
    divisor = jnp.maximum(n, 1.0)
    # `where` before the squares, not a product with the mask after them: padding may hold anything, even NaN.
    mean = jnp.sum(jnp.where(valid, x, 0.0), axes) / divisor
    variance = jnp.sum(jnp.square(jnp.where(valid, x - mean, 0.0)), axes) / divisor
    return mean, variance, n


class BatchNorm(nn.Module):
    """Batch normalisation over all axes but the last: y = (x - mean) / sqrt(variance + epsilon) * scale + bias.

    Training normalises with the batch's own mean and biased variance and moves the running statistics:
    new = momentum * old + (1 - momentum) * batch, where the batch's variance is the unbiased one, n / (n - 1) times
    the biased. Two corner cases are defined: with n = 0 (every example masked) the running statistics normalise and
    stay as they are; with n = 1 the output is `bias`, the running mean moves and the running variance stays, since
    one value says nothing about a variance.

    Params `scale`, `bias` and batch_stats `mean`, `var` are float32 [c]; arithmetic is float32 whatever `dtype` is.

    Attributes:
      momentum: share of the old running statistics that is kept at each update.
      epsilon: added to the variance.
      dtype: of the output.

    References:
      Ioffe & Szegedy, 2015, arXiv:1502.03167.
    """

    momentum: float = 0.9
    epsilon: float = 1e-5
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, use_running_average: bool, mask: jax.Array | None = None) -> jax.Array:
        """Normalise x [b, ..., c].

        Args:
          x: [b, ..., c].
          use_running_average: normalise with the running statistics and update nothing.
          mask: [b] of 0/1; examples with 0 are left out of the statistics (they are still normalised).

        Returns:
          `dtype`, the shape of x.
        """
        shape = (x.shape[-1],)
        scale = self.param("scale", nn.initializers.ones, shape, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, shape, jnp.float32)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, shape, jnp.float32)
        running_var = self.variable("batch_stats", "var", jnp.ones, shape, jnp.float32)

        mean, variance = running_mean.value, running_var.value
        if not use_running_average and not self.is_initializing():
            batch_mean, batch_variance, n = masked_moments(x, mask)
            unbiased = batch_variance * n / jnp.maximum(n - 1.0, 1.0)
            running_mean.value = jnp.where(n > 0, self._move(mean, batch_mean), mean)
            running_var.value = jnp.where(n > 1, self._move(variance, unbiased), variance)
            mean = jnp.where(n > 0, batch_mean, mean)
            variance = jnp.where(n > 0, batch_variance, variance)
        gain = jax.lax.rsqrt(variance.astype(jnp.float32) + self.epsilon) * scale.astype(jnp.float32)
        y = (x.astype(jnp.float32) - mean.astype(jnp.float32)) * gain + bias.astype(jnp.float32)
        return y.astype(self.dtype)

    def _move(self, old: jax.Array, new: jax.Array) -> jax.Array:
        return self.momentum * old + (1.0 - self.momentum) * new
