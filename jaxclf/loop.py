"""fit, evaluate, predict: the loops over batches. No host sync inside an epoch but on logging steps."""

import collections
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxclf.augment import make_augment
from jaxclf.config import Phase, Settings
from jaxclf.data.loader import Batch, Loader
from jaxclf.metrics import Predictions, summarize
from jaxclf.models.classifier import Classifier
from jaxclf.optim import make_optimizer
from jaxclf.schedules import sgdr
from jaxclf.state import TrainState, create_train_state
from jaxclf.steps import Metrics, PredictStep, make_predict_step, make_train_step

#: A line of the record: plain JSON values.
Row = dict[str, Any]


class FitResult(NamedTuple):
    """What a `fit` returns.

    Attributes:
      state: the state after the last step.
      steps: a row per logged step: `phase`, `epoch`, `step`, `loss` and `lrs` (one rate per layer group) of that step.
      epochs: a row per epoch: `phase`, `epoch`, `step`, `train_loss` and `train_accuracy` over the epoch's examples,
        and `valid_loss`, `valid_accuracy` where there is a validation set.
      predictions: of the validation set, after the last epoch; None without one.
    """

    state: TrainState
    steps: list[Row]
    epochs: list[Row]
    predictions: Predictions | None


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


def to_device(batches: Iterable[Batch], *, ahead: int = 2) -> Iterator[Batch]:
    """Moves batches to the device `ahead` of their use, so that the copy overlaps with the computation."""
    batches = iter(batches)
    queue: collections.deque[Batch] = collections.deque()
    try:
        for batch in itertools.islice(batches, ahead):
            queue.append(jax.device_put(batch))
        while queue:
            current = queue.popleft()
            for batch in itertools.islice(batches, 1):
                queue.append(jax.device_put(batch))
            yield current
    finally:
        close = getattr(batches, "close", None)
        if close is not None:
            close()


def predict(
    model: Classifier, variables: Mapping[str, Any], loader: Loader, *, predict_step: PredictStep | None = None
) -> Predictions:
    """Runs a classifier over a loader's examples, in evaluation mode.

    Args:
      model, variables: the classifier.
      loader: made with `train=False`.
      predict_step: from `make_predict_step`, when one is compiled already.

    Returns:
      One row per example, in the loader's order, padding removed. All logits are fetched at once, at the end.
    """
    step = predict_step or make_predict_step(model, preprocess=loader.preprocess)
    logits, batches = [], []
    for batch in to_device(loader):
        logits.append(step(variables, batch.inputs))
        batches.append((batch.labels, batch.mask, batch.index))
    fetched_logits, fetched = jax.device_get((logits, batches))
    labels, mask, index = (np.concatenate(parts) for parts in zip(*fetched, strict=True))
    keep = mask > 0
    return Predictions(np.concatenate(fetched_logits)[keep], labels[keep], index[keep])


def evaluate(
    model: Classifier, variables: Mapping[str, Any], loader: Loader, *, predict_step: PredictStep | None = None
) -> dict[str, float]:
    """`loss`, `accuracy` and `num_examples` over a loader's examples: sums and counts, divided once."""
    return summarize(predict(model, variables, loader, predict_step=predict_step))


def phase_schedule(phase: Phase, steps_per_epoch: int) -> tuple[Callable[[Any], jax.Array], int]:
    """A phase's SGDR schedule and its number of steps, with epochs turned into steps."""
    schedule = sgdr(phase.cycle_epochs * steps_per_epoch, phase.num_cycles, cycle_mult=phase.cycle_mult)
    return schedule, phase.num_epochs * steps_per_epoch


def phase_key(seed: int, phase_number: int) -> jax.Array:
    """The key of all random draws of a phase, `fold_in(key(seed), phase_number)`; each step folds itself in."""
    return jax.random.fold_in(jax.random.key(seed), phase_number)


def fit(
    model: Classifier,
    variables: Mapping[str, Any],
    phase: Phase,
    train: Loader,
    valid: Loader | None = None,
    *,
    settings: Settings | None = None,
    phase_number: int = 0,
    first_epoch: int = 0,
    log_every: int = 10,
    predict_step: PredictStep | None = None,
    on_step: Callable[[Progress], None] | None = None,
    on_log: Callable[[Row], None] | None = None,
    on_epoch: Callable[[Row, TrainState], None] | None = None,
) -> FitResult:
    """Trains one phase and returns the new state; `variables` stay as they were.

    Args:
      model: the classifier.
      variables: `{"params", "batch_stats"}` to start from.
      phase: what is frozen, the rates per layer group, the cycles, the augmentation.
      train: loader made with `train=True`, and with `presized=phase.augment != "none"`.
      valid: loader made with `train=False`, evaluated after each epoch.
      settings: optimizer, momentum, weight decay, clipping, label smoothing and seed; default: `Settings()`.
      phase_number: which phase of the run this is; part of every random key.
      first_epoch: epochs the run has done before; the order of epoch e is `epoch_order(loader.seed, first_epoch + e)`.
      log_every: the device is asked for figures every so many steps, and at the end of each epoch.
      predict_step: a compiled one, shared between phases.
      on_step: called after each dispatched step; must not touch the device.
      on_log: called with each logged row (write it to TensorBoard, W&B, a file, ...).
      on_epoch: called with each epoch's row and the state, which is donated to the next step: copy what you keep.

    Returns:
      The state, the logged rows, and the last predictions for `valid`.

    Raises:
      ValueError: if the loss stops being finite, naming the step and the rates.
    """
    settings = settings or Settings()
    schedule, num_steps = phase_schedule(phase, len(train))
    optimizer = make_optimizer(
        variables["params"],
        schedule,
        phase.lrs,
        frozen=phase.frozen,
        optimizer=settings.optimizer,
        momentum=settings.momentum,
        weight_decay=settings.weight_decay,
        clip_norm=settings.clip_norm,
    )
    train_step = make_train_step(
        model,
        optimizer,
        preprocess=train.preprocess,
        schedule=schedule,
        lrs=phase.lrs,
        frozen=phase.frozen,
        augment=make_augment(phase.augment, train.preprocess.image_size),
        label_smoothing=settings.label_smoothing,
    )
    if valid is not None and predict_step is None:
        predict_step = make_predict_step(model, preprocess=valid.preprocess)
    state = create_train_state(variables, optimizer, frozen=phase.frozen)
    key = phase_key(settings.seed, phase_number)
    steps: list[Row] = []
    epochs: list[Row] = []
    predictions = None
    step = 0
    for epoch in range(phase.num_epochs):
        pending: list[Metrics] = []  # on the device until fetched
        totals = np.zeros(3)  # loss * count, correct, count
        for batch in to_device(train.epoch(first_epoch + epoch)):
            state, metrics = train_step(state, batch, key)
            pending.append(metrics)
            step += 1
            if step % log_every == 0:
                totals += _log(pending, phase, epoch, step, steps, on_log)
                pending = []
            if on_step is not None:
                on_step(Progress(step, num_steps, train.batch_size, steps[-1] if steps else None))
        if pending:
            totals += _log(pending, phase, epoch, step, steps, on_log)
        row: Row = {
            "kind": "epoch",
            "phase": phase.name,
            "epoch": epoch,
            "step": step,
            "train_loss": float(totals[0] / totals[2]),
            "train_accuracy": float(totals[1] / totals[2]),
        }
        if valid is not None:
            predictions = predict(model, state.variables, valid, predict_step=predict_step)
            scores = summarize(predictions)
            row |= {"valid_loss": scores["loss"], "valid_accuracy": scores["accuracy"]}
        epochs.append(row)
        if on_epoch is not None:
            on_epoch(row, state)
    return FitResult(state, steps, epochs, predictions)


def _log(
    pending: list[Metrics], phase: Phase, epoch: int, step: int, steps: list[Row], on_log: Callable[[Row], None] | None
) -> np.ndarray:
    """Fetches the pending metrics, logs the last of them, and returns their sums (loss * count, correct, count)."""
    fetched = jax.device_get(pending)
    first_step = step - len(fetched)
    for offset, metrics in enumerate(fetched):
        if not math.isfinite(metrics["loss"]):
            lrs = ", ".join(f"{lr:.3g}" for lr in metrics["lrs"])
            raise ValueError(
                f"the loss is {metrics['loss']} at step {first_step + offset} of phase {phase.name!r} (learning rates "
                f"{lrs}): training diverged; use a lower rate"
            )
    last = fetched[-1]
    row: Row = {
        "kind": "step",
        "phase": phase.name,
        "epoch": epoch,
        "step": step - 1,
        "loss": float(last["loss"]),
        "lrs": [float(lr) for lr in last["lrs"]],
    }
    steps.append(row)
    if on_log is not None:
        on_log(row)
    return np.array([[m["loss"] * m["count"], m["correct"], m["count"]] for m in fetched], np.float64).sum(0)
