"""Heads on their own, without a body: to be trained on pooled features."""

import jax
import jax.numpy as jnp

from jaxclf.models.classifier import Variables, _draw
from jaxclf.models.heads import HEADS, ConcatHead, HeadKind, LinearHead


def create_head(kind: HeadKind, num_classes: int, *, dropout: float = 0.0) -> LinearHead | ConcatHead:
    """The head that a `Classifier` with the same arguments has.

    Args:
      kind: "linear" or "concat".
      num_classes: logits per example.
      dropout: of the linear head, in [0, 1); the concat head has its own.

    Raises:
      ValueError: for an unknown kind.
    """
    if kind not in HEADS:
        raise ValueError(f"head: expected one of {HEADS}, got {kind!r}")
    return LinearHead(num_classes, dropout) if kind == "linear" else ConcatHead(num_classes)


def init_head(head: LinearHead | ConcatHead, key: jax.Array, width: int) -> Variables:
    """Random initial variables of a head: to the bit what `init_variables(classifier, key)` gives its head.

    Args:
      head: from `create_head`.
      key: random key.
      width: 2c, columns of the pooled features.

    Returns:
      `{"params": .., "batch_stats": ..}` of the head alone, float32; a linear head has no statistics, `{}`.
    """
    pooled = jax.ShapeDtypeStruct((1, width), jnp.float32)
    shapes = jax.eval_shape(lambda key, x: head.init(key, x, train=False), jax.random.key(0), pooled)
    return {
        "params": _draw(jax.random.fold_in(key, 1), shapes["params"]),
        "batch_stats": _draw(key, shapes["batch_stats"]) if "batch_stats" in shapes else {},
    }
