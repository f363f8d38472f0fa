"""Classification heads: from the pooled activation to logits.

A head reads `pooled`, float32 [b, 2c]: the maximum pool first, then the average pool. Both kinds get the same input,
so features cached at `pooled` serve either. Heads compute in float32 whatever the body does: they cost next to
nothing, and logits in bfloat16 would lose the digits that the loss needs.
"""

from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from jaxclf.models.norm import BatchNorm
from jaxclf.models.pool import average_half

HEADS = ("linear", "pools", "concat")
"""Kinds of head that `create_classifier` knows."""

_lecun_normal = nn.initializers.variance_scaling(1.0, "fan_in", "normal")

HeadKind = Literal["linear", "pools", "concat"]


#: Up to so many outputs a dense layer's kernel is multiplied from its transposed form.
MAX_NARROW = 256


def narrow_product(x: jax.Array, kernel: jax.Array, dimension_numbers: Any, precision: Any = None) -> jax.Array:
    """`x @ kernel`, [b, k] by [k, c], in a form whose gradient is fast on a CPU where c is small.

    The kernel's gradient is then computed as (g^T x)^T and not as x^T g, which XLA's CPU backend runs up to six times
    slower: batch 64, 2 outputs, 512 inputs 88 us against 16, 37 outputs 242 against 67, 1000 outputs alike. The barrier
    keeps XLA from turning one into the other. Linen's `nn.Dense` takes it as its `dot_general`.
    """
    if kernel.shape[-1] > MAX_NARROW:
        return lax.dot_general(x, kernel, dimension_numbers, precision=precision)
    transposed = lax.optimization_barrier(kernel.T)  # [c, k]
    return lax.dot_general(x, transposed, (((x.ndim - 1,), (1,)), ((), ())), precision=precision)


class LinearHead(nn.Module):
    """Average pool -> dropout -> Dense, what torchvision and timm call `fc`; or both pools in front of the same.

    Attributes:
      num_classes: logits per image.
      dropout: share of the features dropped in training, in [0, 1).
      pools: read the maximum pool beside the average pool, as the concat head does.
    """

    num_classes: int
    dropout: float = 0.0
    pools: bool = False

    @nn.compact
    def __call__(self, pooled: jax.Array, *, train: bool, mask: jax.Array | None = None) -> jax.Array:
        """Logits, float32 [b, num_classes], of pooled [b, 2c]. `mask` is not used: nothing here mixes examples."""
        x = (pooled if self.pools else average_half(pooled)).astype(jnp.float32)
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        name = "fc_pools" if self.pools else "fc"
        return nn.Dense(self.num_classes, kernel_init=_lecun_normal, dot_general=narrow_product, name=name)(x)


class ConcatHead(nn.Module):
    """fastai's head: [maximum, average] pool -> BN -> dropout -> Dense -> ReLU -> BN -> dropout -> Dense.

    Attributes:
      num_classes: logits per image.
      hidden: width of the inner layer.
      dropouts: share dropped in training before the first and before the second Dense.

    References:
      Howard & Gugger, fastai: a layered API for deep learning, 2020, arXiv:2002.04688.
    """

    num_classes: int
    hidden: int = 512
    dropouts: tuple[float, float] = (0.25, 0.5)

    @nn.compact
    def __call__(self, pooled: jax.Array, *, train: bool, mask: jax.Array | None = None) -> jax.Array:
        """Logits, float32 [b, num_classes], of pooled [b, 2c]; `mask` [b] leaves padded rows out of the statistics."""
        x = pooled.astype(jnp.float32)
        x = BatchNorm(name="bn1")(x, use_running_average=not train, mask=mask)
        x = nn.Dropout(self.dropouts[0], deterministic=not train)(x)
        x = nn.relu(nn.Dense(self.hidden, kernel_init=_lecun_normal, name="fc1")(x))  # [b, hidden]
        x = BatchNorm(name="bn2")(x, use_running_average=not train, mask=mask)
        x = nn.Dropout(self.dropouts[1], deterministic=not train)(x)
        return nn.Dense(self.num_classes, kernel_init=_lecun_normal, dot_general=narrow_product, name="fc2")(x)


def create_head(kind: HeadKind, num_classes: int, *, dropout: float = 0.0) -> LinearHead | ConcatHead:
    """The head that a `Classifier` with the same arguments has.

    Args:
      kind: "linear" (average pool, one dense layer), "pools" (maximum and average pool, one dense layer) or "concat".
      num_classes: logits per example.
      dropout: of the linear heads, in [0, 1); the concat head has its own.

    Raises:
      ValueError: for an unknown kind.
    """
    if kind not in HEADS:
        raise ValueError(f"head: expected one of {HEADS}, got {kind!r}")
    return ConcatHead(num_classes) if kind == "concat" else LinearHead(num_classes, dropout, kind == "pools")
