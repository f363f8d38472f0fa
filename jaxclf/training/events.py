"""What training tells while it goes, and all that it needs to go on from there, to the bit."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxclf.metrics import Predictions
from jaxclf.training.state import TrainState
from jaxclf.training.step import Metrics

#: A line of the record: plain JSON values.
Row = dict[str, Any]

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
    """All that training needs to go on to the bit where it was: hand it to `train` or `fit(..., start=snapshot)`.

    Attributes:
      state: the state, a copy of its own.
      epoch, batch: the epoch under way, within the phase, and how many of its batches are done.
      totals: the epoch's sums so far, of loss * weight, weight, correct and count.
      best: the best epoch so far.
    """

    state: TrainState
    epoch: int
    batch: int
    totals: Totals
    best: Best


def copied(state: TrainState) -> TrainState:
    """The state in arrays of its own: training donates its buffers and must not eat anybody's."""
    return jax.tree.map(jnp.array, state)


@dataclasses.dataclass(frozen=True)
class Step:
    """A step was dispatched; the device may still be at work on it.

    Attributes:
      step, num_steps: steps dispatched in this phase, and in all.
      examples: examples of a batch.
      metrics: of this step, on the device: see `make_train_step`. Reading one waits for it.
      rows: the record's line, every `log_every` steps and at the end of each epoch; else empty. `phase`, `epoch`,
        `step`, `loss`, `momentum` and `lrs` (one rate per layer group).
      ends_epoch: whether the epoch's validation comes next.
    """

    step: int
    num_steps: int
    examples: int
    metrics: Metrics
    rows: tuple[Row, ...]
    ends_epoch: bool
    _take: Callable[[], Snapshot] = dataclasses.field(repr=False)

    def snapshot(self) -> Snapshot:
        """All that is needed to go on from here, copied; waits for the device.

        Raises:
          ValueError: at an epoch's last step: take the snapshot of the `Epoch` that follows.
        """
        if self.ends_epoch:
            raise ValueError(f"step {self.step} ends its epoch: take the snapshot of the Epoch that comes next")
        return self._take()


@dataclasses.dataclass(frozen=True)
class Epoch:
    """An epoch has ended, and its validation.

    Attributes:
      epoch: its number within the phase.
      step, num_steps, examples: as of `Step`.
      figures: `phase`, `epoch`, `step`, `train_loss` and `train_accuracy` over the epoch's examples, `cycle_end`, and
        `valid_loss`, `valid_accuracy` where there is a validation set.
      rows: the record's lines that no `Step` had: of the steps, where the epoch was one dispatch, and `figures`.
      state: valid until the next event is asked for, which donates it. `snapshot()` copies.
      predictions: for the validation set, by what `state.averaged` holds; None without one.
      best: the epoch with the lowest validation loss so far.
      stopped: why the phase ends here, before its time; else "".
      last: whether this is the last event.
    """

    epoch: int
    step: int
    num_steps: int
    examples: int
    figures: Row
    rows: tuple[Row, ...]
    state: TrainState
    predictions: Predictions | None
    best: Best
    stopped: str
    last: bool
    keep_best: bool

    def snapshot(self) -> Snapshot:
        """All that is needed to go on from here, copied; waits for the device."""
        return Snapshot(copied(self.state), self.epoch + 1, 0, ZERO, self.best)

    def result(self) -> tuple[TrainState, Predictions | None]:
        """What the phase has brought so far, and its predictions: with `keep_best` of the best epoch."""
        if not self.keep_best:
            return self.state, self.predictions
        return dataclasses.replace(self.state, **self.best.kept), self.best.predictions


#: What training yields.
Event = Step | Epoch
