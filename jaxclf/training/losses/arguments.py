"""What the losses ask of their arguments, and what they do with targets and class weights alike."""

import math

import jax
import jax.numpy as jnp
import numpy as np


def check_label_smoothing(label_smoothing: float) -> None:
    """Raises ValueError unless `label_smoothing` lies in [0, 1)."""
    if not 0.0 <= label_smoothing < 1.0:
        raise ValueError(f"label_smoothing={label_smoothing!r} must lie in [0, 1)")


def check_gamma(gamma: float) -> None:
    """Raises ValueError unless `gamma` is finite and not negative."""
    if not (gamma >= 0.0 and math.isfinite(gamma)):
        raise ValueError(f"focal gamma={gamma!r} must be at least 0 and finite")


def check_alpha(alpha: float | None) -> None:
    """Raises ValueError unless `alpha` is None or lies in [0, 1]."""
    if alpha is not None and not 0.0 <= alpha <= 1.0:
        raise ValueError(f"focal alpha={alpha!r} must lie in [0, 1]")


def check_class_weights(
    weights: np.typing.ArrayLike, num_classes: int | None = None, *, name: str = "class_weights"
) -> np.ndarray:
    """`weights` as float32 [c]. Raises ValueError unless finite, >= 0, not all 0, and one per class."""
    array = np.asarray(weights, np.float32)
    if array.ndim != 1 or (num_classes is not None and len(array) != num_classes):
        wanted = "one number per class" if num_classes is None else f"{num_classes} numbers, one per class"
        raise ValueError(f"{name} of shape {array.shape} must be {wanted}")
    if not np.isfinite(array).all() or (array < 0.0).any() or not array.any():
        raise ValueError(f"{name}={array.tolist()} must be finite, at least 0, and not all 0")
    return array


def paired(logits: jax.typing.ArrayLike, targets: jax.typing.ArrayLike) -> tuple[jax.Array, jax.Array]:
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


def class_mean(terms: jax.Array, class_weights: np.typing.ArrayLike | None) -> jax.Array:
    """Mean over the classes of weight * term: [b, c] -> [b]."""
    if class_weights is not None:
        terms *= check_class_weights(class_weights, terms.shape[-1])
    return terms.mean(-1)
