"""Losses per example, float32 [b]: of class numbers, of soft targets, and of several labels per picture."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

Weights = np.typing.ArrayLike


def softmax_cross_entropy(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    label_smoothing: float = 0.0,
    class_weights: Weights | None = None,
) -> jax.Array:
    """-log softmax(logits)[label] per example, in float32, with optional label smoothing.

    With smoothing s the target is (1 - s) for the label plus s / c spread evenly over all c classes.

    Args:
      logits: float [b, c].
      labels: int [b], class numbers 0 .. c - 1.
      label_smoothing: s in [0, 1).
      class_weights: float [c], >= 0: class k's term of the sum counts w_k times; `None` counts all once. A weighted
        mean also divides by the weights (`weighted_mean`).

    Raises:
      ValueError: for smoothing outside [0, 1), labels that are no class numbers, or weights that do not fit.

    References: Szegedy et al., arXiv:1512.00567 (label smoothing).

    >>> import numpy as np
    >>> round(float(softmax_cross_entropy(np.zeros((1, 2)), np.array([0]))[0]), 4)
    0.6931
    """
    check_ranges(label_smoothing=label_smoothing)
    labels = jnp.asarray(labels)
    if labels.ndim != 1 or not jnp.issubdtype(labels.dtype, jnp.integer):
        raise ValueError(
            f"labels of type {labels.dtype} and shape {labels.shape} are not class numbers, int [b]; targets [b, c] "
            "go to soft_cross_entropy or sigmoid_cross_entropy"
        )
    log_probs = weighted(jax.nn.log_softmax(jnp.asarray(logits, jnp.float32), axis=-1), class_weights)
    picked = jnp.take_along_axis(log_probs, labels[:, None], axis=-1)[:, 0]
    return -_smoothed(picked, log_probs, label_smoothing)


def soft_cross_entropy(
    logits: ArrayLike,
    targets: ArrayLike,
    *,
    label_smoothing: float = 0.0,
    class_weights: Weights | None = None,
) -> jax.Array:
    """-sum_k w_k t_k log softmax(logits)_k per example: cross-entropy with soft targets, as mixup makes them.

    One-hot targets give the values of `softmax_cross_entropy`.

    Args:
      logits: float [b, c].
      targets: float [b, c], >= 0, rows sum to 1.
      label_smoothing: s in [0, 1): the target becomes (1 - s) t + s / c.
      class_weights: float [c], the w_k; `None` for ones.

    Raises:
      ValueError: as `softmax_cross_entropy`, and for targets of another shape than the logits.
    """
    check_ranges(label_smoothing=label_smoothing)
    logits, targets = paired(logits, targets)
    log_probs = weighted(jax.nn.log_softmax(logits, axis=-1), class_weights)
    return -_smoothed((targets * log_probs).sum(-1), log_probs, label_smoothing)


def sigmoid_cross_entropy(
    logits: ArrayLike,
    targets: ArrayLike,
    *,
    label_smoothing: float = 0.0,
    class_weights: Weights | None = None,
    pos_weight: Weights | None = None,
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

    Raises:
      ValueError: for smoothing outside [0, 1), and for targets or weights that do not fit the logits.

    >>> import numpy as np
    >>> round(float(sigmoid_cross_entropy(np.zeros((1, 3)), np.array([[0.0, 1.0, 1.0]]))[0]), 4)
    0.6931
    """
    check_ranges(label_smoothing=label_smoothing)
    logits, targets = paired(logits, targets)
    targets = smooth(targets, label_smoothing, 0.5)
    # Two terms that are never negative: nothing cancels, and nothing overflows.
    present = weighted(targets * jax.nn.softplus(-logits), pos_weight, name="pos_weight")
    return weighted(present + (1.0 - targets) * jax.nn.softplus(logits), class_weights).mean(-1)


def focal_loss(
    logits: ArrayLike,
    targets: ArrayLike,
    *,
    gamma: float = 2.0,
    alpha: Weights | None = None,
) -> jax.Array:
    """-sum_k alpha_k t_k (1 - p_k)^gamma log p_k with p = softmax(logits): examples that are right already count less.

    gamma = 0 is `soft_cross_entropy`. Linear in the targets, so mixed targets give the mixed losses. The gradient is
    finite for every gamma and all finite logits.

    Args:
      logits: float [b, c], c >= 2.
      targets: float [b, c], rows sum to 1.
      gamma: >= 0.
      alpha: float [c], weights of the classes; `None` for ones.

    Raises:
      ValueError: for a negative gamma, and for targets or weights that do not fit the logits.

    References: Lin et al., arXiv:1708.02002, 2017.
    """
    check_ranges(gamma=gamma)
    logits, targets = paired(logits, targets)
    log_probs = jax.nn.log_softmax(logits, axis=-1)
    missing = -jnp.expm1(log_probs)  # 1 - p, with the digits it has near p = 1
    # Where nothing is missing the loss is 0, and so is its slope; 0 ** gamma has none for gamma < 1.
    factors = jnp.where(missing > 0.0, jnp.where(missing > 0.0, missing, 1.0) ** gamma, 0.0)
    return weighted(-targets * factors * log_probs, alpha, name="alpha").sum(-1)


def sigmoid_focal_loss(
    logits: ArrayLike,
    targets: ArrayLike,
    *,
    gamma: float = 2.0,
    alpha: float | None = None,
    class_weights: Weights | None = None,
) -> jax.Array:
    """The focal loss of every class by itself, averaged over the classes.

    Per class -a t (1 - p)^gamma log p - b (1 - t) p^gamma log(1 - p) with p = sigmoid(logit).

    Args:
      logits: float [b, c].
      targets: float [b, c] in [0, 1], multi-hot or soft.
      gamma: >= 0; 0 without alpha is `sigmoid_cross_entropy`.
      alpha: in [0, 1]: a = alpha, b = 1 - alpha (the paper's 0.25 counts present labels less); `None`: both 1.
      class_weights: as in `sigmoid_cross_entropy`.

    Raises:
      ValueError: for gamma or alpha out of range, and for targets or weights that do not fit the logits.

    References: Lin et al., arXiv:1708.02002, 2017 (which sums over boxes instead of averaging over classes).
    """
    check_ranges(gamma=gamma, alpha=alpha)
    logits, targets = paired(logits, targets)
    of_present, of_absent = (1.0, 1.0) if alpha is None else (alpha, 1.0 - alpha)
    below, above = jax.nn.softplus(-logits), jax.nn.softplus(logits)  # -log p, -log(1 - p)
    present = of_present * targets * jnp.exp(-gamma * above) * below
    absent = of_absent * (1.0 - targets) * jnp.exp(-gamma * below) * above
    return weighted(present + absent, class_weights).mean(-1)


def _smoothed(picked: jax.Array, log_probs: jax.Array, label_smoothing: float) -> jax.Array:
    if label_smoothing == 0.0:
        return picked
    return (1.0 - label_smoothing) * picked + label_smoothing * log_probs.mean(-1)


def check_ranges(*, label_smoothing: float = 0.0, gamma: float = 0.0, alpha: float | None = None) -> None:
    """Raises ValueError for smoothing outside [0, 1), a gamma below 0 or infinite, an alpha outside [0, 1]."""
    if not 0.0 <= label_smoothing < 1.0:
        raise ValueError(f"label_smoothing={label_smoothing!r} must lie in [0, 1)")
    if not (gamma >= 0.0 and math.isfinite(gamma)):
        raise ValueError(f"focal gamma={gamma!r} must be at least 0 and finite")
    if alpha is not None and not 0.0 <= alpha <= 1.0:
        raise ValueError(f"focal alpha={alpha!r} must lie in [0, 1]")


def check_class_weights(weights: Any, num_classes: int | None = None, *, name: str = "class_weights") -> Any:
    """`weights` as float32 [c]. Raises ValueError unless finite, >= 0, not all 0, and one per class.

    Of what is traced only the shape can be checked.
    """
    traced = isinstance(weights, jax.core.Tracer)
    array: Any = weights if traced else np.asarray(weights, np.float32)
    if array.ndim != 1 or (num_classes is not None and len(array) != num_classes):
        wanted = "one number per class" if num_classes is None else f"{num_classes} numbers, one per class"
        raise ValueError(f"{name} of shape {array.shape} must be {wanted}")
    if not traced and (not np.isfinite(array).all() or (array < 0.0).any() or not array.any()):
        raise ValueError(f"{name}={array.tolist()} must be finite, at least 0, and not all 0")
    return array


def paired(logits: ArrayLike, targets: ArrayLike) -> tuple[jax.Array, jax.Array]:
    """Logits and targets as float32 [b, c]. Raises ValueError if their shapes differ."""
    logits, targets = jnp.asarray(logits, jnp.float32), jnp.asarray(targets, jnp.float32)
    if logits.shape != targets.shape:
        raise ValueError(
            f"targets of shape {targets.shape} do not fit logits of shape {logits.shape}; make them of class numbers "
            "with targets_from_labels"
        )
    return logits, targets


def smooth(targets: jax.Array, label_smoothing: float, level: float) -> jax.Array:
    """Targets drawn towards `level`: (1 - s) t + s level."""
    return targets if label_smoothing == 0.0 else (1.0 - label_smoothing) * targets + label_smoothing * level


def weighted(terms: jax.Array, weights: Weights | None, *, name: str = "class_weights") -> jax.Array:
    """The terms [b, c], each times the weight of its class; as they are for `None`."""
    return terms if weights is None else terms * check_class_weights(weights, terms.shape[-1], name=name)
