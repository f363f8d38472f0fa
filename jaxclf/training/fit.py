"""fit: the loop over batches and epochs. No host sync inside an epoch but on logging steps."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxclf.config import Phase, Settings, cycle_boundaries
from jaxclf.data.activations import AnyLoader
from jaxclf.inference.predict import predict
from jaxclf.metrics import Predictions, summarize
from jaxclf.models.classifier import Classifier
from jaxclf.training.program import PhaseProgram, check_labels, make_phase_program
from jaxclf.training.snapshot import ZERO, Best, Boundary, Snapshot, Totals
from jaxclf.training.state import TrainState
from jaxclf.training.step import Metrics

#: A line of the record: plain JSON values.
Row = dict[str, Any]


class NonFiniteLoss(ValueError):
    """Training diverged. `state` is the last good one: the step that failed and those after it changed nothing."""

    def __init__(self, message: str, state: TrainState):
        super().__init__(message)
        self.state = state


class FitResult(NamedTuple):
    """What a `fit` returns.

    Attributes:
      state: the state after the last step; with `keep_best`, its variables (and their average) are the best epoch's.
      steps: a row per logged step: `phase`, `epoch`, `step`, `loss`, `momentum` and `lrs` (one rate per layer group).
      epochs: a row per epoch: `phase`, `epoch`, `step`, `train_loss` and `train_accuracy` over the epoch's examples,
        `cycle_end`, and `valid_loss`, `valid_accuracy` where there is a validation set.
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


class Progress(NamedTuple):
    """Where a `fit` is, for a progress bar: handed to `on_step` after each dispatched step.

    Attributes:
      step, num_steps: steps dispatched in this phase, and in all.
      examples: examples of this step.
      latest: the last logged row, or None before the first.
    """

    step: int
    num_steps: int
    examples: int
    latest: Row | None


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
    mesh: Mesh | None = None,
    on_step: Callable[[Progress], None] | None = None,
    on_log: Callable[[Row], None] | None = None,
    on_epoch: Callable[[Row, TrainState], None] | None = None,
    on_boundary: Callable[[Boundary, Callable[[], Snapshot]], None] | None = None,
    start: Snapshot | None = None,
) -> FitResult:
    """Trains one phase and returns the new state; `variables` stay as they were.

    Args:
      model: the classifier.
      variables: `{"params", "batch_stats"}` to start from.
      phase: what is frozen, the rates per layer group, the cycles, the augmentation, when to stop.
      train: loader made with `train=True`, and with `presized=phase.augment != "none"`. Or an `ActivationLoader`:
        then everything above its cut is trained, as it would be from the pictures with what is below frozen.
      valid: loader made with `train=False`, evaluated after each epoch; of pictures or of activations.
      settings: loss, optimizer, momentum, weight decay, clipping, mixing, averaging and seed; default: `Settings()`.
      phase_number: which phase of the run this is; part of every random key.
      first_epoch: epochs the run has done before; the order of epoch e is `epoch_order(loader.seed, first_epoch + e)`.
      log_every: the device is asked for figures every so many steps, and at the end of each epoch.
      mesh: devices that share each batch, see `jaxclf.data.devices`, that of `valid` too; None: the default device.
      on_step: called after each dispatched step; must not touch the device. Where a whole epoch is one dispatch (a
        head on activations that lie on the device), for all of its steps at the end.
      on_log: called with each logged row (write it to TensorBoard, W&B, a file, ...).
      on_epoch: called with each epoch's row and the state, which is donated to the next step: copy or save what you
        keep. `row["cycle_end"]` marks the snapshots of SGDR.
      on_boundary: called after each step but an epoch's last, and after each epoch but the phase's last, with where
        that is and a function that takes a snapshot; asking for one waits for the device. May raise, to stop here. Of
        an epoch that is one dispatch, only the end is a boundary.
      start: a snapshot of the same fit, to go on from; `variables` then serve for their structure only.

    Returns:
      The state, the rows logged by this call, and the predictions for `valid`.

    Raises:
      NonFiniteLoss: if the loss or the gradient stops being finite, naming the step and the rates. That step was not
        applied; the error's `state` holds what there was before it.
      ValueError: for a phase that needs a validation set without one, a loss that does not fit the labels, or
        activations that do not fit the phase's augmentation or what it freezes.

    Example: figures to TensorBoard, with any writer that has `add_scalar`:

        def log(row):
            writer.add_scalar("loss", row["loss"], row["step"])

        fit(model, variables, phase, train, valid, on_log=log)
    """
    settings = settings or Settings()
    if valid is None and (phase.keep_best or phase.patience is not None):
        raise ValueError(
            f"phase {phase.name!r} asks for the best epoch (keep_best, patience): give a validation loader"
        )
    program = make_phase_program(model, variables, phase, train, settings, phase_number=phase_number, mesh=mesh)
    if valid is not None:
        check_labels(settings, valid.dataset)
    cycle_ends = cycle_boundaries(phase.cycle_epochs, phase.num_cycles, phase.cycle_mult)
    if start is None:
        start = Snapshot(program.create_state(variables, phase, settings), 0, 0, ZERO, Best())
    else:  # training donates its buffers and must not eat the caller's
        start = start._replace(state=jax.tree.map(jnp.array, start.state))
    state, best = start.state, start.best
    log = _Log(phase, program, on_log)
    epochs: list[Row] = []
    latest: Predictions | None = None
    step, stopped = start.epoch * len(train) + start.batch, ""
    for epoch in range(start.epoch, phase.num_epochs):
        first_batch = start.batch if epoch == start.epoch else 0
        log.start_epoch(epoch, start.totals if epoch == start.epoch else ZERO)
        end = (epoch + 1) * len(train)
        steps = program.epoch(state, train, first_epoch + epoch, start_batch=first_batch)
        for state, metrics in steps:
            log.pending.append(metrics)
            step += 1
            if step % log_every == 0 or step == end:
                log.fetch(state, row=step)
            if on_step is not None:
                on_step(Progress(step, program.num_steps, train.batch_size, log.rows[-1] if log.rows else None))
            if on_boundary is not None and step < end and not program.whole_epochs(train):
                taken = functools.partial(log.snapshot, state, len(train) - (end - step), best)
                on_boundary(Boundary(step, epoch, False, False, None), taken)
        loss, weight, correct, count = log.totals
        row: Row = {
            "kind": "epoch",
            "phase": phase.name,
            "epoch": epoch,
            "step": step,
            "train_loss": loss / weight,
            "train_accuracy": correct / count,
            "cycle_end": epoch + 1 in cycle_ends,
        }
        if valid is not None:
            latest = predict(model, state.averaged, valid, threshold=settings.threshold)
            scores = summarize(latest)
            row |= {"valid_loss": scores["loss"], "valid_accuracy": scores["accuracy"]}
            best = best.updated(epoch, scores["loss"], state if phase.keep_best else None, latest)
        epochs.append(row)
        if on_epoch is not None:
            on_epoch(row, state)
        if epoch + 1 == phase.num_epochs:
            break
        if phase.patience is not None and best.epoch is not None and epoch - best.epoch >= phase.patience:
            stopped = f"no lower validation loss in {phase.patience} epochs"
            break
        if on_boundary is not None:
            taken = functools.partial(Snapshot, state, epoch + 1, 0, ZERO, best)
            on_boundary(Boundary(step, epoch, True, row["cycle_end"], row.get("valid_loss")), taken)
    if phase.keep_best:
        state = dataclasses.replace(state, **best.kept)
    return FitResult(state, log.rows, epochs, best.predictions if phase.keep_best else latest, best.epoch, stopped)


class _Log:
    """Fetches metrics from the device, sums them up, keeps the logged rows, and stops a run that has diverged."""

    def __init__(self, phase: Phase, program: PhaseProgram, on_log: Callable[[Row], None] | None):
        self.phase, self.program, self.on_log = phase, program, on_log
        self.rows: list[Row] = []
        self.start_epoch(0, ZERO)

    def start_epoch(self, epoch: int, totals: Totals) -> None:
        """Begins to sum up an epoch, or goes on with one."""
        self.epoch, self.totals = epoch, totals
        self.pending = list[Metrics]()  # on the device until they are fetched

    def fetch(self, state: TrainState, *, row: int | None = None) -> None:
        """Adds the pending metrics one step at a time: how they are grouped changes no bit. Given a step, logs it."""
        fetched, self.pending = jax.device_get(self.pending), []
        if fetched and fetched[-1]["failed_at"] >= 0:
            self._raise(fetched, state)
        sums = np.array(self.totals, np.float64)
        for m in fetched:
            sums += np.array([np.float64(m["loss"]) * m["weight"], m["weight"], m["correct"], m["count"]])
        loss, weight, correct, count = sums.tolist()
        self.totals = (loss, weight, correct, count)
        if row is not None:
            self._log(fetched[-1], row)

    def snapshot(self, state: TrainState, batch: int, best: Best) -> Snapshot:
        """In the middle of an epoch."""
        self.fetch(state)
        return Snapshot(state, self.epoch, batch, self.totals, best)

    def _raise(self, fetched: list[Any], state: TrainState) -> None:
        failed = next(metrics for metrics in fetched if metrics["failed_at"] >= 0)
        lrs = ", ".join(f"{lr:.3g}" for lr in failed["lrs"])
        where = f"step {int(failed['failed_at'])} of phase {self.phase.name!r} (learning rates {lrs})"
        raise NonFiniteLoss(
            f"training diverged at {where}: the loss was {failed['loss']}, or its gradient or update was not "
            "finite. That step was not applied; use a lower rate",
            state,
        )

    def _log(self, last: Any, step: int) -> None:
        momentum = self.program.momentum
        row: Row = {
            "kind": "step",
            "phase": self.phase.name,
            "epoch": self.epoch,
            "step": step - 1,
            "loss": float(last["loss"]),
            "momentum": float(momentum(step - 1)) if callable(momentum) else momentum,
            "lrs": [float(lr) for lr in last["lrs"]],
        }
        self.rows.append(row)
        if self.on_log is not None:
            self.on_log(row)
