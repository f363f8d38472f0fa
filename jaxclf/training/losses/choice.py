"""The loss of a training step, chosen by name and checked once; its targets, its class weights and its mean."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxclf.training.losses.functions import (
    Weights,
    check_class_weights,
    check_ranges,
    focal_loss,
    paired,
    sigmoid_cross_entropy,
    sigmoid_focal_loss,
    smooth,
    soft_cross_entropy,
)

#: Names `make_loss` knows: one class per example, or any number of labels per example.
SINGLE_LABEL_LOSSES = ("softmax", "focal")
MULTI_LABEL_LOSSES = ("sigmoid", "sigmoid_focal")
#: (logits [b, c], targets float [b, c]) -> (losses float32 [b], weights float32 [b]); see `weighted_mean`. Where class
#: weights are no constants, they are its third argument.
Loss = Callable[..., tuple[jax.Array, jax.Array]]


def make_loss(
    name: str = "softmax",
    *,
    label_smoothing: float = 0.0,
    class_weights: Weights | None = None,
    pos_weight: Weights | None = None,
    focal_gamma: float = 2.0,
    focal_alpha: float | None = None,
) -> Loss:
    """The loss of a training step: `(logits, targets) -> (losses, weights)`, to be given to `weighted_mean`.

    Args:
      name: "softmax" or "focal" (targets' rows sum to 1), "sigmoid" or "sigmoid_focal" (multi-hot targets).
      label_smoothing: in [0, 1); see `soft_cross_entropy` and `sigmoid_cross_entropy`.
      class_weights: float [c]. For "softmax" and "focal" an example's weight is the sum of w_k t_k over its targets
        before smoothing, so that the mean is over weights; for the sigmoid losses every example weighs 1.
      pos_weight: float [c], for "sigmoid" only.
      focal_gamma: >= 0, for the focal losses.
      focal_alpha: in [0, 1], for "sigmoid_focal" only ("focal" takes `class_weights`).

    Returns:
      A traceable function; its targets are float [b, c] (see `targets_from_labels`). `class_weights` may be given to it
      too, in place of those given here; then they may be traced.

    Raises:
      ValueError: for an unknown name, a value out of range, or one this loss has no use for.

    >>> import numpy as np
    >>> losses, weights = make_loss("softmax", class_weights=[1, 3])(np.zeros((1, 2)), np.array([[0.0, 1.0]]))
    >>> round(float(losses[0]), 4), float(weights[0])
    (2.0794, 3.0)
    """
    if name not in SINGLE_LABEL_LOSSES + MULTI_LABEL_LOSSES:
        known = ", ".join(SINGLE_LABEL_LOSSES + MULTI_LABEL_LOSSES)
        raise ValueError(f"loss {name!r} is not known; choose one of {known}")
    check_ranges(label_smoothing=label_smoothing, gamma=focal_gamma, alpha=focal_alpha)
    for argument, value, user in (("pos_weight", pos_weight, "sigmoid"), ("focal_alpha", focal_alpha, "sigmoid_focal")):
        if value is not None and name != user:
            raise ValueError(f"{argument} is for the loss {user!r}, not for {name!r}; leave it out")
    class_weights = None if class_weights is None else check_class_weights(class_weights)
    pos_weight = None if pos_weight is None else check_class_weights(pos_weight, name="pos_weight")

    def loss(
        logits: ArrayLike, targets: ArrayLike, class_weights: Weights | None = class_weights
    ) -> tuple[jax.Array, jax.Array]:
        logits, targets = paired(logits, targets)
        weights = jnp.ones(targets.shape[:-1], jnp.float32)
        if name in SINGLE_LABEL_LOSSES and class_weights is not None:
            weights = (targets * check_class_weights(class_weights, targets.shape[-1])).sum(-1)
        if name == "softmax":
            losses = soft_cross_entropy(logits, targets, label_smoothing=label_smoothing, class_weights=class_weights)
        elif name == "sigmoid":
            losses = sigmoid_cross_entropy(
                logits, targets, label_smoothing=label_smoothing, class_weights=class_weights, pos_weight=pos_weight
            )
        elif name == "focal":
            targets = smooth(targets, label_smoothing, 1.0 / targets.shape[-1])
            losses = focal_loss(logits, targets, gamma=focal_gamma, alpha=class_weights)
        else:
            targets = smooth(targets, label_smoothing, 0.5)
            losses = sigmoid_focal_loss(
                logits, targets, gamma=focal_gamma, alpha=focal_alpha, class_weights=class_weights
            )
        return losses, weights

    return loss


def targets_from_labels(labels: ArrayLike, num_classes: int) -> jax.Array:
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


def masked_mean(values: jax.Array, mask: ArrayLike) -> jax.Array:
    """Mean of `values` [b] over the entries whose `mask` [b] is not 0; 0 where none is."""
    weights = jnp.asarray(mask, jnp.float32)
    return (values * weights).sum() / jnp.maximum(weights.sum(), 1.0)


def weighted_mean(losses: jax.Array, weights: jax.Array, mask: ArrayLike) -> jax.Array:
    """sum(losses) / sum(weights) over the rows whose `mask` is not 0, all [b]; 0 where they weigh nothing.

    `losses` hold their weights already, as those of `make_loss` do. With weights of 1 this is `masked_mean`.
    """
    mask = jnp.asarray(mask, jnp.float32)
    total = (weights * mask).sum()
    return (losses * mask).sum() / jnp.where(total > 0.0, total, 1.0)
