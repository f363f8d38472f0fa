"""From labels to targets and class weights, and from losses per example to one number."""

import jax
import jax.numpy as jnp
import numpy as np


def targets_from_labels(labels: jax.typing.ArrayLike, num_classes: int) -> jax.Array:
    """One-hot targets: class numbers int [b] -> float32 [b, c]. A number outside 0 .. c - 1 gives a row of zeros."""
    return jax.nn.one_hot(jnp.asarray(labels), num_classes, dtype=jnp.float32)


def balanced_class_weights(labels: np.typing.ArrayLike, num_classes: int) -> np.ndarray:
    """Weights under which every class has the same share of the data: w_k = n / (c * examples of class k).

    Args:
      labels: int [n], class numbers 0 .. c - 1.
      num_classes: c.

    Returns:
      float64 [c]; their mean over the examples is 1.

    Raises:
      ValueError: for a label out of range, or a class without examples.

    >>> balanced_class_weights([0, 0, 0, 1], 2).tolist()
    [0.6666666666666666, 2.0]
    """
    labels = np.asarray(labels)
    if labels.size and (labels.min() < 0 or labels.max() >= num_classes):
        raise ValueError(f"labels from {labels.min()} to {labels.max()} do not fit num_classes={num_classes}")
    counts = np.bincount(labels.astype(np.int64), minlength=num_classes)
    if (counts == 0).any():
        raise ValueError(f"class number {counts.argmin()} has no examples, so it has no balanced weight; leave it out")
    return len(labels) / (num_classes * counts)


def masked_mean(values: jax.Array, mask: jax.typing.ArrayLike) -> jax.Array:
    """Mean of `values` [b] over the entries whose `mask` [b] is not 0; 0 where none is."""
    weights = jnp.asarray(mask, jnp.float32)
    return (values * weights).sum() / jnp.maximum(weights.sum(), 1.0)


def weighted_mean(losses: jax.Array, weights: jax.Array, mask: jax.typing.ArrayLike) -> jax.Array:
    """sum(losses) / sum(weights) over the rows whose `mask` is not 0, all [b]; 0 where they weigh nothing.

    `losses` hold their weights already, as those of `make_loss` do. With weights of 1 this is `masked_mean`.
    """
    mask = jnp.asarray(mask, jnp.float32)
    total = (weights * mask).sum()
    return (losses * mask).sum() / jnp.where(total > 0.0, total, 1.0)
