"""The training state: arrays only, no functions inside."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxclf.trees import Tree, partition


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TrainState:
    """Everything a step changes.

    Attributes:
      step: int32 scalar, steps done in this phase.
      params: the full parameter tree, frozen modules included.
      batch_stats: BatchNorm's running statistics.
      opt_state: the optimizer's state, for the trainable parameters only.
    """

    step: jax.Array
    params: Tree
    batch_stats: Tree
    opt_state: Any

    @property
    def variables(self) -> Tree:
        """`{"params", "batch_stats"}`, as `model.apply` takes them."""
        return {"params": self.params, "batch_stats": self.batch_stats}


def create_train_state(
    variables: Mapping[str, Any], optimizer: optax.GradientTransformation, *, frozen: tuple[str, ...] = ()
) -> TrainState:
    """A phase's first state. The arrays are copies: training donates its buffers and must not eat the caller's.

    Args:
      variables: `{"params", "batch_stats"}`.
      optimizer: from `make_optimizer` with the same `frozen`.
      frozen: modules that get no optimizer state.
    """
    params, batch_stats = jax.tree.map(jnp.array, (variables["params"], variables["batch_stats"]))
    trainable, _ = partition(params, frozen)
    return TrainState(jnp.zeros((), jnp.int32), params, batch_stats, optimizer.init(trainable))
