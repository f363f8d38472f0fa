"""Training as an iterator of events, and `fit`, which drains it. No host sync inside an epoch but on logging steps."""

import contextlib
import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxclf.config import Phase, Settings, cycle_boundaries
from jaxclf.data.activations import AnyLoader
from jaxclf.inference.predict import predict
from jaxclf.metrics import Predictions, summarize
from jaxclf.models.classifier import Classifier
from jaxclf.training.events import ZERO, Best, Epoch, Event, Row, Snapshot, Step, Totals, copied
from jaxclf.training.program import Program, make_program
from jaxclf.training.state import TrainState
from jaxclf.training.step import Metrics


class NonFiniteLoss(ValueError):
    """Training diverged. `state` is the last good one: the step that failed and those after it changed nothing."""

    def __init__(self, message: str, state: TrainState):
        super().__init__(message)
        self.state = state


def train(
    program: Program,
    state: TrainState | Snapshot,
    train: AnyLoader,
    valid: AnyLoader | None = None,
    *,
    log_every: int = 10,
) -> Iterator[Event]:
    """Trains one phase; yields a `Step` after each dispatched step and an `Epoch` after each epoch's validation.

    Whoever wants to log, save or stop does it in the loop: `break` stops, and closes the loader's threads. Where a
    whole epoch is one dispatch (a head on activations that lie on the device), it yields its `Epoch` only.

    Args:
      program: from `make_program`.
      state: from `program.init`; it is donated. Or a snapshot of the same training, to go on from; that is copied.
      train: the loader that `make_program` was given, made with `train=True`, and `presized=phase.augment != "none"`.
        Or an `ActivationLoader`: then everything above its cut is trained, as it would be from the pictures with what
        is below frozen.
      valid: loader made with `train=False`, evaluated after each epoch; of pictures or of activations.
      log_every: the device is asked for figures every so many steps, and at the end of each epoch.

    Raises:
      NonFiniteLoss: if the loss or the gradient stops being finite, naming the step and the rates. That step was not
        applied; the error's `state` holds what there was before it.
      ValueError: for a phase that needs a validation set without one, or a loss that does not fit the labels.

    Example: figures to any writer that has `add_scalar`, and a stop of one's own:

        for event in jaxclf.train(program, program.init(variables), train, valid):
            for row in event.rows:
                writer.add_scalar(row["kind"], row.get("loss", row.get("valid_loss")), row["step"])
            if isinstance(event, jaxclf.Epoch) and event.figures["valid_accuracy"] > 0.99:
                break
    """
    phase = program.phase
    if valid is None and (phase.keep_best or phase.patience is not None):
        raise ValueError(
            f"phase {phase.name!r} asks for the best epoch (keep_best, patience): give a validation loader"
        )
    if valid is not None:
        program.settings.check_labels(valid.dataset.multi_label)
    if isinstance(state, Snapshot):
        start = state._replace(state=copied(state.state))
    else:
        start = Snapshot(state, 0, 0, ZERO, Best())
    return _events(program, start, train, valid, log_every)


_train = train  # inside `fit` the name is the loader's


def _events(
    program: Program, start: Snapshot, train: AnyLoader, valid: AnyLoader | None, log_every: int
) -> Iterator[Event]:
    phase, state, best = program.phase, start.state, start.best
    cycle_ends = cycle_boundaries(phase.cycle_epochs, phase.num_cycles, phase.cycle_mult)
    log, step = _Log(program), start.epoch * len(train) + start.batch
    first_batch, totals = start.batch, start.totals
    for epoch in range(start.epoch, phase.num_epochs):
        log.start_epoch(epoch, first_batch, totals)
        end, whole_rows = (epoch + 1) * len(train), list[Row]()
        with contextlib.closing(program.epoch(state, train, epoch, start_batch=first_batch)) as steps:
            for state, metrics in steps:
                step += 1
                log.add(metrics)
                rows = [log.row(state, step)] if step % log_every == 0 or step == end else []
                if program.scanned_steps is not None:  # there is no state in between
                    whole_rows += rows
                    continue
                take = functools.partial(log.snapshot, state, best)
                yield Step(step, program.num_steps, train.batch_size, metrics, tuple(rows), step == end, take)
        figures, predictions = log.figures(step) | {"cycle_end": epoch + 1 in cycle_ends}, None
        if valid is not None:
            predictions = predict(program.model, state.averaged, valid, threshold=program.settings.threshold)
            scores = summarize(predictions)
            figures |= {"valid_loss": scores["loss"], "valid_accuracy": scores["accuracy"]}
            best = best.updated(epoch, scores["loss"], state if phase.keep_best else None, predictions)
        stopped = _out_of_patience(phase, cycle_ends, epoch, best)
        yield Epoch(
            epoch=epoch,
            step=step,
            num_steps=program.num_steps,
            examples=train.batch_size,
            figures=figures,
            rows=(*whole_rows, figures),
            state=state,
            predictions=predictions,
            best=best,
            stopped=stopped,
            last=bool(stopped) or epoch + 1 == phase.num_epochs,
            keep_best=phase.keep_best,
        )
        if stopped:
            return
        first_batch, totals = 0, ZERO


def _out_of_patience(phase: Phase, cycle_ends: Sequence[int], epoch: int, best: Best) -> str:
    """Why the phase ends after this epoch though there are more; "" if it does not, as ever inside a cycle."""
    if phase.patience is None or best.epoch is None or epoch + 1 not in cycle_ends[:-1]:
        return ""
    whole = sum(best.epoch + 1 <= end <= epoch for end in cycle_ends)  # cycles that began and ended after the best
    words = "a cycle" if phase.patience == 1 else f"{phase.patience} cycles"
    return f"no lower validation loss in {words}" if whole >= phase.patience else ""


class FitResult(NamedTuple):
    """What a `fit` returns.

    Attributes:
      state: the state after the last step; with `keep_best`, its variables (and their average) are the best epoch's.
      steps: the logged rows of `Step.rows`.
      epochs: `Epoch.figures`, a row per epoch.
      predictions: of the validation set by what `state.averaged` holds; None without one.
      best_epoch: the epoch with the lowest validation loss, the first of equals; None without a validation set.
      stopped: why it ended before its time, or "".
    """

    state: TrainState
    steps: list[Row]
    epochs: list[Row]
    predictions: Predictions | None
    best_epoch: int | None
    stopped: str


def fit(
    model: Classifier,
    variables: Mapping[str, Any],
    phase: Phase,
    train: AnyLoader,
    valid: AnyLoader | None = None,
    *,
    settings: Settings | None = None,
    phase_number: int = 0,
    first_epoch: int = 0,
    log_every: int = 10,
    start: Snapshot | None = None,
) -> FitResult:
    """Trains one phase and returns the new state; `variables` stay as they were. The drained iterator of `train`.

    Args:
      model: the classifier.
      variables: `{"params", "batch_stats"}` to start from.
      phase: what is frozen, the rates per layer group, the cycles, the augmentation, when to stop.
      train, valid, log_every: as for `jaxclf.train`.
      settings: loss, optimizer, momentum, weight decay, clipping, mixing, averaging and seed; default: `Settings()`.
      phase_number, first_epoch: as for `make_program`.
      start: a snapshot of the same fit, to go on from; `variables` then go unused.

    Returns:
      The state, the rows logged by this call, and the predictions for `valid`.

    Raises:
      NonFiniteLoss, ValueError: as `jaxclf.train` and `make_program`; for a snapshot of a phase that had ended.
    """
    program = make_program(model, phase, train, settings, phase_number=phase_number, first_epoch=first_epoch)
    steps, epochs = list[Row](), list[Row]()
    event: Event | None = None
    first = program.init(variables) if start is None else start
    for event in _train(program, first, train, valid, log_every=log_every):
        steps += [row for row in event.rows if row["kind"] == "step"]
        epochs += [event.figures] if isinstance(event, Epoch) else []
    if not isinstance(event, Epoch):
        raise ValueError(f"start is the end of phase {phase.name!r}: there is nothing left to train")
    state, predictions = event.result()
    return FitResult(state, steps, epochs, predictions, event.best.epoch, event.stopped)


class _Log:
    """Fetches metrics from the device, sums them up over an epoch, and stops a run that has diverged."""

    def __init__(self, program: Program):
        self.phase, self.momentum = program.phase, program.momentum

    def start_epoch(self, epoch: int, batch: int, totals: Totals) -> None:
        """Begins to sum up an epoch, or goes on with one."""
        self.epoch, self.batch, self.totals = epoch, batch, totals
        self.pending = list[Metrics]()  # on the device until they are fetched

    def add(self, metrics: Metrics) -> None:
        """Of a step that was dispatched."""
        self.pending.append(metrics)
        self.batch += 1

    def fetch(self, state: TrainState) -> Any:
        """Adds the pending metrics one step at a time: how they are grouped changes no bit. Returns the last ones."""
        fetched, self.pending = jax.device_get(self.pending), []
        if fetched and fetched[-1]["failed_at"] >= 0:
            self._raise(fetched, state)
        sums = np.array(self.totals, np.float64)
        for m in fetched:
            sums += np.array([np.float64(m["loss"]) * m["weight"], m["weight"], m["correct"], m["count"]])
        loss, weight, correct, count = sums.tolist()
        self.totals = (loss, weight, correct, count)
        return fetched[-1] if fetched else None

    def row(self, state: TrainState, step: int) -> Row:
        """The record's line of the last added step, which was number `step - 1` of the phase."""
        last = self.fetch(state)
        return {
            "kind": "step",
            "phase": self.phase.name,
            "epoch": self.epoch,
            "step": step - 1,
            "loss": float(last["loss"]),
            "momentum": float(self.momentum(step - 1)) if callable(self.momentum) else self.momentum,
            "lrs": [float(lr) for lr in last["lrs"]],
        }

    def figures(self, step: int) -> Row:
        """The record's line of the epoch, after `step` steps of the phase."""
        loss, weight, correct, count = self.totals
        return {
            "kind": "epoch",
            "phase": self.phase.name,
            "epoch": self.epoch,
            "step": step,
            "train_loss": loss / weight,
            "train_accuracy": correct / count,
        }

    def snapshot(self, state: TrainState, best: Best) -> Snapshot:
        """In the middle of an epoch."""
        self.fetch(state)
        return Snapshot(copied(state), self.epoch, self.batch, self.totals, best)

    def _raise(self, fetched: list[Any], state: TrainState) -> None:
        failed = next(metrics for metrics in fetched if metrics["failed_at"] >= 0)
        lrs = ", ".join(f"{lr:.3g}" for lr in failed["lrs"])
        where = f"step {int(failed['failed_at'])} of phase {self.phase.name!r} (learning rates {lrs})"
        raise NonFiniteLoss(
            f"training diverged at {where}: the loss was {failed['loss']}, or its gradient or update was not "
            "finite. That step was not applied; use a lower rate",
            state,
        )
