"""Where a `fit` may be interrupted, and all that it needs to go on from there to the bit."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxclf.metrics import Predictions
from jaxclf.training.state import TrainState

#: Sums over an epoch's examples: loss * weight, weight, correct, count.
Totals = tuple[float, float, float, float]
ZERO: Totals = (0.0, 0.0, 0.0, 0.0)


class Best(NamedTuple):
    """The epoch with the lowest validation loss so far, the first of equals; no epoch before the first ended.

    Attributes:
      epoch, loss: which, and its validation loss.
      kept: with `keep_best`, what it had learned: `params`, `batch_stats` and, if there is one, `ema`; else {}.
      predictions: with `keep_best`, its predictions for the validation set; else None.
    """

    epoch: int | None = None
    loss: float = math.inf
    kept: dict[str, Any] = {}  # noqa: RUF012  # never changed
    predictions: Predictions | None = None

    def updated(self, epoch: int, loss: float, state: TrainState | None, predictions: Predictions) -> "Best":
        """After an epoch; given a state, the variables of a better one are copied."""
        if self.epoch is not None and not loss < self.loss:
            return self
        if state is None:
            return Best(epoch, loss)
        kept = {"params": state.params, "batch_stats": state.batch_stats}
        kept |= {} if state.ema is None else {"ema": state.ema}
        return Best(epoch, loss, jax.tree.map(jnp.array, kept), predictions)


class Snapshot(NamedTuple):
    """All that a `fit` needs to go on to the bit where it was: hand it to `fit(..., start=snapshot)`.

    Attributes:
      state: the state. It is donated to the next step: copy what you keep, before you return.
      epoch, batch: the epoch under way, within the phase, and how many of its batches are done.
      totals: the epoch's sums so far, of loss * weight, weight, correct and count.
      best: the best epoch so far.
    """

    state: TrainState
    epoch: int
    batch: int
    totals: Totals
    best: Best


class Boundary(NamedTuple):
    """Where a `fit` may be interrupted: after a step, or, with `epoch_end`, after an epoch and its validation.

    Attributes:
      step: steps done in this phase.
      epoch: the epoch, within the phase, that the step belonged to.
      epoch_end, cycle_end: whether that epoch ended here, and a cycle of SGDR with it.
      valid_loss: of the epoch that ended; None without one.
    """

    step: int
    epoch: int
    epoch_end: bool
    cycle_end: bool
    valid_loss: float | None
