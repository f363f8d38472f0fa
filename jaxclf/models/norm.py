"""Batch normalisation with masked statistics, read in one pass, and torch's running variance.

Flax's own `BatchNorm` keeps the biased running variance and by default computes it as E[x^2] - E[x]^2, which loses
all digits where the mean is far from zero. This one follows torch to the letter, so that a network fine-tuned here
and one fine-tuned there keep the same running statistics, and it leaves padded examples out.

The statistics are sums over x - shift, with the running mean as shift: it is near the batch's mean and is known before
x is, so an accelerator can add them up while it still computes x. The gradient is written out, as the automatic one
keeps several float32 arrays of the size of x for it, and reads x more often.
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxclf.models.sums import channel_sums


class Moments(NamedTuple):
    """Of every channel: mean and biased variance, float32 [c], and n, how many positions they are of, float32 []."""

    mean: jax.Array
    variance: jax.Array
    n: jax.Array


def masked_moments(x: jax.Array, mask: jax.Array | None = None, shift: jax.Array | None = None) -> Moments:
    """Mean and biased variance of every channel over all valid positions, in float32.

    With V the valid positions (the examples whose mask is not zero, times all spatial positions), n = |V| and
    d = x - shift: mean = shift + sum_V d / n, variance = sum_V d^2 / n - (sum_V d / n)^2, which for every shift is
    sum_V (x - mean)^2 / n. How many digits are left depends on the shift: the variance's relative error is at most
    about 16 (1 + ((mean - shift) / deviation)^2) 2^-24, the mean's error 16 max(|mean - shift|, deviation) 2^-24. So a
    shift within three deviations of the mean costs one digit of six, one that is a hundred off costs four. An empty V
    gives mean `shift` and variance 0, never NaN. Under jit with a sharded batch the sums run over the global batch; no
    axis name is needed.

    Args:
      x: [b, ..., c], any float dtype.
      mask: [b], 0 or 1 (bool, integer or float). None: every example is valid.
      shift: float32 [c], near the mean. None: the mean itself, which takes a pass of its own.

    Raises:
      ValueError: if mask is not of shape [b].

    Example:
      >>> mean, variance, n = masked_moments(jnp.array([[1.0], [3.0], [100.0]]), jnp.array([1, 1, 0]))
      >>> float(mean[0]), float(variance[0]), float(n)
      (2.0, 1.0, 2.0)

    References:
      Chan, Golub & LeVeque, 1983, Algorithms for Computing the Sample Variance (shifted data).
    """
    if shift is None:
        shift = _from_shift(x, mask, jnp.zeros(x.shape[-1], jnp.float32)).mean
    mean, variance, n = _from_shift(x, mask, shift)
    return Moments(shift + mean, variance, n)


def _from_shift(x: jax.Array, mask: jax.Array | None, shift: jax.Array) -> Moments:
    """The moments of x - shift."""
    valid = _valid(x, mask)
    n = jnp.sum(valid, dtype=jnp.float32) * math.prod(x.shape[1:-1])

    def terms(x: jax.Array, valid: jax.Array, shift: jax.Array) -> tuple[jax.Array, jax.Array]:
        # `where` before the squares, not a product with the mask after them: padding may hold anything, even NaN.
        from_shift = jnp.where(valid, x.astype(jnp.float32) - shift, 0.0)
        return from_shift, jnp.square(from_shift)

    mean, square = channel_sums(terms, x, valid, shift) / jnp.maximum(n, 1.0)
    return Moments(mean, jnp.maximum(square - jnp.square(mean), 0.0), n)


def _valid(x: jax.Array, mask: jax.Array | None) -> jax.Array:
    """bool [b, 1, ..., 1]: which examples count."""
    if mask is None:
        mask = jnp.ones(x.shape[0], bool)
    if mask.shape != x.shape[:1]:
        raise ValueError(f"mask: expected shape {x.shape[:1]}, one entry per example, got {mask.shape}")
    return mask.astype(bool).reshape(-1, *(1,) * (x.ndim - 1))


@functools.partial(jax.custom_vjp, nondiff_argnums=(5, 6))
def normalize_batch(
    x: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    mask: jax.Array | None,
    running: tuple[jax.Array, jax.Array],
    epsilon: float,
    dtype: Any,
) -> tuple[jax.Array, Moments]:
    """x [b, ..., c] normalised by its own moments, in `dtype`, and these; by the running ones if all of it is masked.

    Where the variance is not finite, y is not a number.

    The moments are there to be kept: only y has a gradient, with respect to x, scale and bias. With y' its cotangent,
    a = scale / sqrt(variance + epsilon), z = (x - mean) / sqrt(variance + epsilon) and sums over all positions:
    bias' = sum y', scale' = sum y' z, and x' = a (y' - (bias' + z scale') / n) at valid positions, a y' at others.

    Args:
      x: [b, ..., c], any float dtype.
      scale, bias: float32 [c].
      mask: [b] of 0/1, or None.
      running: mean (also the shift of `masked_moments`) and variance, float32 [c].
      epsilon: added to the variance.
      dtype: of the output.
    """
    return _forward(x, scale, bias, mask, running, epsilon, dtype)[0]


def _forward(
    x: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    mask: jax.Array | None,
    running: tuple[jax.Array, jax.Array],
    epsilon: float,
    dtype: Any,
) -> tuple[tuple[jax.Array, Moments], Any]:
    shift = running[0]
    from_shift = _from_shift(x, mask, shift)
    variance = jnp.where(from_shift.n > 0, from_shift.variance, running[1])
    # Of a variance that overflows the inverse root would be 0, and nobody would see that it had.
    inverse = jnp.where(jnp.isfinite(variance), jax.lax.rsqrt(variance + epsilon), jnp.nan)
    y = _centred(x, shift, from_shift.mean) * (inverse * scale) + bias
    moments = from_shift._replace(mean=shift + from_shift.mean)
    return (y.astype(dtype), moments), (x, scale, mask, shift, from_shift.mean, inverse, from_shift.n)


def _centred(x: jax.Array, shift: jax.Array, mean: jax.Array) -> jax.Array:
    """x - (shift + mean): 0 without rounding where a single position makes the mean."""
    return (x.astype(jnp.float32) - shift) - mean


def _backward(epsilon: float, dtype: Any, kept: Any, cotangents: tuple[jax.Array, Moments]) -> tuple[Any, ...]:
    x, scale, mask, shift, mean, inverse, n = kept
    at_y, centred = cotangents[0].astype(jnp.float32), _centred(x, shift, mean)

    def terms(at_y: jax.Array, x: jax.Array, shift: jax.Array, mean: jax.Array) -> tuple[jax.Array, jax.Array]:
        at_y = at_y.astype(jnp.float32)
        return at_y, at_y * _centred(x, shift, mean)

    at_bias, at_scale = channel_sums(terms, cotangents[0], x, shift, mean)
    at_scale = at_scale * inverse
    # Through mean and variance: what every valid position has a share of.
    divisor = jnp.maximum(n, 1.0)
    shared = at_bias / divisor + centred * (at_scale * inverse / divisor)
    at_x = (at_y - jnp.where(_valid(x, mask), shared, 0.0)) * (inverse * scale)
    return at_x.astype(x.dtype), at_scale, at_bias, None, None


normalize_batch.defvjp(_forward, _backward)


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

        mean, variance = running_mean.value.astype(jnp.float32), running_var.value.astype(jnp.float32)
        if use_running_average or self.is_initializing():
            gain = jax.lax.rsqrt(variance + self.epsilon) * scale
            return ((x.astype(jnp.float32) - mean) * gain + bias).astype(self.dtype)
        y, batch = normalize_batch(x, scale, bias, mask, (mean, variance), self.epsilon, self.dtype)
        unbiased = batch.variance * batch.n / jnp.maximum(batch.n - 1.0, 1.0)
        running_mean.value = jnp.where(batch.n > 0, self._move(mean, batch.mean), mean)
        running_var.value = jnp.where(batch.n > 1, self._move(variance, unbiased), variance)
        return y

    def _move(self, old: jax.Array, new: jax.Array) -> jax.Array:
        return self.momentum * old + (1.0 - self.momentum) * new
