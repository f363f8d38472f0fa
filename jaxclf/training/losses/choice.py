"""The loss of a training step, chosen by name and checked once."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from jaxclf.training.losses.arguments import (
    check_alpha,
    check_class_weights,
    check_gamma,
    check_label_smoothing,
    paired,
    smooth,
)
from jaxclf.training.losses.cross_entropy import sigmoid_cross_entropy, soft_cross_entropy
from jaxclf.training.losses.focal import focal_loss, sigmoid_focal_loss

#: Names `make_loss` knows: one class per example, or any number of labels per example.
SINGLE_LABEL_LOSSES = ("softmax", "focal")
MULTI_LABEL_LOSSES = ("sigmoid", "sigmoid_focal")
#: (logits [b, c], targets float [b, c]) -> (losses float32 [b], weights float32 [b]); see `weighted_mean`.
Loss = Callable[[jax.typing.ArrayLike, jax.typing.ArrayLike], tuple[jax.Array, jax.Array]]


def make_loss(
    name: str = "softmax",
    *,
    label_smoothing: float = 0.0,
    class_weights: np.typing.ArrayLike | None = None,
    pos_weight: np.typing.ArrayLike | None = None,
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
      A traceable function; its targets are float [b, c] (see `targets_from_labels`).

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
    check_label_smoothing(label_smoothing)
    check_gamma(focal_gamma)
    check_alpha(focal_alpha)
    for argument, value, user in (
        ("pos_weight", pos_weight, "sigmoid"),
        ("focal_alpha", focal_alpha, "sigmoid_focal"),
    ):
        if value is not None and name != user:
            raise ValueError(f"{argument} is for the loss {user!r}, not for {name!r}; leave it out")
    class_weights = None if class_weights is None else check_class_weights(class_weights)
    pos_weight = None if pos_weight is None else check_class_weights(pos_weight, name="pos_weight")

    def loss(logits: jax.typing.ArrayLike, targets: jax.typing.ArrayLike) -> tuple[jax.Array, jax.Array]:
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
