"""What varies from step to step and from run to run: rates, momentum and class weights, arguments of a compiled step.

None of it is a constant of the compiled program, so the learning-rate finder, every phase that freezes the same and the
next run share one. The schedule is evaluated beside the step, by a tiny program of its own.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxclf.schedules import Schedule


class Hyperparameters(NamedTuple):
    """Of one step, or with a leading axis of several.

    Attributes:
      lrs: float32 [groups], the rate of each layer group.
      momentum: float32 [], SGD's momentum or AdamW's b1.
      class_weights: float32 [c], of the loss; None weighs all classes alike.
    """

    lrs: jax.Array
    momentum: jax.Array
    class_weights: jax.Array | None = None


#: Steps int32 [] or [n] -> their hyperparameters, on the device; nothing waits for it.
HyperparametersAt = Callable[[jax.typing.ArrayLike], Hyperparameters]


def make_hyperparameters(
    schedule: Schedule,
    lrs: Sequence[float],
    momentum: float | Schedule,
    class_weights: np.typing.ArrayLike | None = None,
) -> HyperparametersAt:
    """A jitted step -> `Hyperparameters`: group g has the rate lrs[g] * schedule(step).

    >>> from jaxclf.schedules import cosine
    >>> at = make_hyperparameters(cosine(4), (0.1, 1.0), 0.9)
    >>> at(2).lrs.round(3).tolist(), at(np.arange(3)).momentum.shape
    ([0.05000000074505806, 0.5], (3,))
    """

    @jax.jit
    def hyperparameters(step: jax.typing.ArrayLike) -> Hyperparameters:
        step = jnp.asarray(step, jnp.int32)
        factor = schedule(step)
        weights = None
        if class_weights is not None:
            weights = jnp.asarray(class_weights, jnp.float32)
            weights = jnp.broadcast_to(weights, (*step.shape, *weights.shape))
        value = momentum(step) if callable(momentum) else jnp.full(step.shape, momentum, jnp.float32)
        return Hyperparameters(factor[..., None] * jnp.asarray(lrs, jnp.float32), value, weights)

    return hyperparameters
