"""The training state: arrays only, no functions inside."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxclf.models.trees import Tree, partition


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TrainState:
    """Everything a step changes.

    Attributes:
      step: int32 scalar, steps done in this phase.
      params: the full parameter tree, frozen modules included.
      batch_stats: BatchNorm's running statistics.
      opt_state: the optimizer's state, for the trainable parameters only.
      failed_at: int32 scalar, the step whose loss or gradient was not finite, see `make_train_step`; else -1.
        That step and all later ones change nothing.
      ema: the running average of `variables`, if one is kept.
    """

    step: jax.Array
    params: Tree
    batch_stats: Tree
    opt_state: Any
    failed_at: jax.Array
    ema: Tree | None = None

    @property
    def variables(self) -> Tree:
        """`{"params", "batch_stats"}`, as `model.apply` takes them."""
        return {"params": self.params, "batch_stats": self.batch_stats}

    @property
    def averaged(self) -> Tree:
        """What is evaluated and kept: `ema` where there is one, else `variables`."""
        return self.variables if self.ema is None else self.ema


def create_train_state(
    variables: Mapping[str, Any],
    optimizer: optax.GradientTransformation,
    *,
    frozen: tuple[str, ...] = (),
    ema: bool = False,
) -> TrainState:
    """A phase's first state. The arrays are copies: training donates its buffers and must not eat the caller's.

    Args:
      variables: `{"params", "batch_stats"}`.
      optimizer: from `make_optimizer` with the same `frozen`.
      frozen: modules that get no optimizer state.
      ema: keep a running average, which starts at `variables`.
    """
    start = {"params": variables["params"], "batch_stats": variables["batch_stats"]}
    copied = jax.tree.map(jnp.array, start)
    trainable, _ = partition(copied["params"], frozen)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=copied["params"],
        batch_stats=copied["batch_stats"],
        opt_state=optimizer.init(trainable),
        failed_at=jnp.full((), -1, jnp.int32),
        ema=jax.tree.map(jnp.array, start) if ema else None,
    )
