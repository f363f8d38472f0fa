"""Losses per example. Summing, masking and dividing is the caller's, and happens once."""

import jax
import jax.numpy as jnp


def softmax_cross_entropy(
    logits: jax.typing.ArrayLike, labels: jax.typing.ArrayLike, *, label_smoothing: float = 0.0
) -> jax.Array:
    """-log softmax(logits)[label] per example, in float32, with optional label smoothing.

    With smoothing s the target is (1 - s) for the label plus s / c spread evenly over all c classes.

    Args:
      logits: float [b, c].
      labels: int [b], class numbers 0 .. c - 1.
      label_smoothing: s in [0, 1).

    Returns:
      float32 [b].

    References: Szegedy et al., arXiv:1512.00567 (label smoothing).

    >>> import numpy as np
    >>> round(float(softmax_cross_entropy(np.zeros((1, 2)), np.array([0]))[0]), 4)
    0.6931
    """
    if not 0.0 <= label_smoothing < 1.0:
        raise ValueError(f"label_smoothing={label_smoothing!r} must lie in [0, 1)")
    log_probs = jax.nn.log_softmax(jnp.asarray(logits, jnp.float32), axis=-1)
    picked = jnp.take_along_axis(log_probs, jnp.asarray(labels)[:, None], axis=-1)[:, 0]
    if label_smoothing == 0.0:
        return -picked
    return -((1.0 - label_smoothing) * picked + label_smoothing * log_probs.mean(-1))


def masked_mean(values: jax.Array, mask: jax.typing.ArrayLike) -> jax.Array:
    """Mean of `values` [b] over the entries whose `mask` [b] is not 0; 0 where none is."""
    weights = jnp.asarray(mask, jnp.float32)
    return (values * weights).sum() / jnp.maximum(weights.sum(), 1.0)
