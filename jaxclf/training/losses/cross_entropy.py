"""Cross-entropy per example: of class numbers, of soft targets, and of several labels per picture."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxclf.training.losses.arguments import check_class_weights, check_label_smoothing, class_mean, paired, smooth


def softmax_cross_entropy(
    logits: jax.typing.ArrayLike,
    labels: jax.typing.ArrayLike,
    *,
    label_smoothing: float = 0.0,
    class_weights: np.typing.ArrayLike | None = None,
) -> jax.Array:
    """-log softmax(logits)[label] per example, in float32, with optional label smoothing.

    With smoothing s the target is (1 - s) for the label plus s / c spread evenly over all c classes.

    Args:
      logits: float [b, c].
      labels: int [b], class numbers 0 .. c - 1.
      label_smoothing: s in [0, 1).
      class_weights: float [c], >= 0: class k's term of the sum counts w_k times; `None` counts all once. A weighted
        mean also divides by the weights (`weighted_mean`).

    Returns:
      float32 [b].

    Raises:
      ValueError: for smoothing outside [0, 1), labels that are no class numbers, or weights that do not fit.

    References: Szegedy et al., arXiv:1512.00567 (label smoothing).

    >>> import numpy as np
    >>> round(float(softmax_cross_entropy(np.zeros((1, 2)), np.array([0]))[0]), 4)
    0.6931
    """
    check_label_smoothing(label_smoothing)
    labels = jnp.asarray(labels)
    if labels.ndim != 1 or not jnp.issubdtype(labels.dtype, jnp.integer):
        raise ValueError(
            f"labels of type {labels.dtype} and shape {labels.shape} are not class numbers, int [b]; targets [b, c] "
            "go to soft_cross_entropy or sigmoid_cross_entropy"
        )
    log_probs = jax.nn.log_softmax(jnp.asarray(logits, jnp.float32), axis=-1)
    if class_weights is not None:
        log_probs *= check_class_weights(class_weights, log_probs.shape[-1])
    picked = jnp.take_along_axis(log_probs, labels[:, None], axis=-1)[:, 0]
    return -_smoothed(picked, log_probs, label_smoothing)


def soft_cross_entropy(
    logits: jax.typing.ArrayLike,
    targets: jax.typing.ArrayLike,
    *,
    label_smoothing: float = 0.0,
    class_weights: np.typing.ArrayLike | None = None,
) -> jax.Array:
    """-sum_k w_k t_k log softmax(logits)_k per example: cross-entropy with soft targets, as mixup makes them.

    One-hot targets give the values of `softmax_cross_entropy`.

    Args:
      logits: float [b, c].
      targets: float [b, c], >= 0, rows sum to 1.
      label_smoothing: s in [0, 1): the target becomes (1 - s) t + s / c.
      class_weights: float [c], the w_k; `None` for ones.

    Returns:
      float32 [b].

    Raises:
      ValueError: as `softmax_cross_entropy`, and for targets of another shape than the logits.
    """
    check_label_smoothing(label_smoothing)
    logits, targets = paired(logits, targets)
    log_probs = jax.nn.log_softmax(logits, axis=-1)
    if class_weights is not None:
        log_probs *= check_class_weights(class_weights, log_probs.shape[-1])
    return -_smoothed((targets * log_probs).sum(-1), log_probs, label_smoothing)


def sigmoid_cross_entropy(
    logits: jax.typing.ArrayLike,
    targets: jax.typing.ArrayLike,
    *,
    label_smoothing: float = 0.0,
    class_weights: np.typing.ArrayLike | None = None,
    pos_weight: np.typing.ArrayLike | None = None,
) -> jax.Array:
    """Binary cross-entropy of every class, averaged over the classes: the loss for several labels per picture.

    Per example (1 / c) sum_k w_k (-q_k t_k log sigmoid(z_k) - (1 - t_k) log sigmoid(-z_k)). The division is by c, not
    by the sum of the w_k, so weights with a mean of 1 keep the scale.

    Args:
      logits: float [b, c].
      targets: float [b, c] in [0, 1], multi-hot or soft.
      label_smoothing: s in [0, 1): the target becomes (1 - s) t + s / 2.
      class_weights: float [c], the w_k; `None` for ones.
      pos_weight: float [c], the q_k, weight of a present label against an absent one; `None` for ones.

    Returns:
      float32 [b].

    Raises:
      ValueError: for smoothing outside [0, 1), and for targets or weights that do not fit the logits.

    >>> import numpy as np
    >>> round(float(sigmoid_cross_entropy(np.zeros((1, 3)), np.array([[0.0, 1.0, 1.0]]))[0]), 4)
    0.6931
    """
    check_label_smoothing(label_smoothing)
    logits, targets = paired(logits, targets)
    targets = smooth(targets, label_smoothing, 0.5)
    # Two terms that are never negative: nothing cancels, and nothing overflows.
    present = targets * jax.nn.softplus(-logits)
    if pos_weight is not None:
        present *= check_class_weights(pos_weight, logits.shape[-1], name="pos_weight")
    return class_mean(present + (1.0 - targets) * jax.nn.softplus(logits), class_weights)


def _smoothed(picked: jax.Array, log_probs: jax.Array, label_smoothing: float) -> jax.Array:
    if label_smoothing == 0.0:
        return picked
    return (1.0 - label_smoothing) * picked + label_smoothing * log_probs.mean(-1)
