"""From a phase and settings to what a fit runs: schedule, momentum, loss, optimizer, train step, random key."""

import dataclasses
from collections.abc import Generator, Mapping
from typing import Any

import jax
import numpy as np
import optax
from jax.sharding import Mesh

from jaxclf.config import Phase, Settings
from jaxclf.data.activations import ActivationLoader, AnyLoader, check_augment
from jaxclf.data.batches import Batch
from jaxclf.data.devices import check_divisible, replicate
from jaxclf.inference.predict import to_device
from jaxclf.models.classifier import Classifier
from jaxclf.schedules import Schedule, one_cycle, one_cycle_momentum, sgdr
from jaxclf.training.hyperparameters import HyperparametersAt, make_hyperparameters
from jaxclf.training.losses import Loss, balanced_class_weights
from jaxclf.training.scan import Plan, ScannedSteps, can_scan, make_scanned_steps, resident, unstacked
from jaxclf.training.shared import named_loss, shared_step, step_kind
from jaxclf.training.state import TrainState, create_train_state
from jaxclf.training.step import Metrics, TrainStep


@dataclasses.dataclass(frozen=True)
class Program:
    """What one phase runs, made by `make_program`.

    Attributes:
      model, phase, settings: what it was made of.
      first_epoch: epochs of the run before this phase; they decide the order of the examples.
      shared_step: jitted `(state, batch, key, hyperparameters) -> (state, metrics)`, the same object for all programs
        that differ in rates, schedule, number of photos and seed only: what is compiled is compiled once.
      hyperparameters: jitted step -> rates of the layer groups, momentum and class weights.
      optimizer: for `create_train_state`; its update is told the rates and the momentum.
      schedule: step -> multiplier of all rates.
      momentum: SGD's momentum (AdamW's b1), or a function of the step.
      num_steps: steps of the whole phase.
      key: of all random draws of the phase.
      scanned_steps: many steps in one dispatch, where the training data allow it; else None. Then an epoch runs whole,
        and there is no state in between.
      mesh: devices that share each batch: the training loader's.
    """

    model: Classifier
    phase: Phase
    settings: Settings
    first_epoch: int
    shared_step: TrainStep
    hyperparameters: HyperparametersAt
    optimizer: optax.GradientTransformation
    schedule: Schedule
    momentum: float | Schedule
    num_steps: int
    key: jax.Array
    scanned_steps: ScannedSteps | None = None
    mesh: Mesh | None = None

    def init(self, variables: Mapping[str, Any]) -> TrainState:
        """The phase's first state; `variables`, `{"params", "batch_stats"}`, are copied."""
        ema = self.settings.ema_decay is not None
        state = create_train_state(variables, self.optimizer, frozen=self.phase.frozen, ema=ema)
        return replicate(state, self.mesh)

    def train_step(self, state: TrainState, batch: Batch, key: jax.Array) -> tuple[TrainState, Metrics]:
        """(state, metrics) after a step at the rates of `state.step`; the state's buffers are donated."""
        return self.shared_step(state, batch, key, self.hyperparameters(state.step))

    def epoch(
        self, state: TrainState, train: AnyLoader, number: int, *, start_batch: int = 0
    ) -> Generator[tuple[TrainState, Metrics], None, None]:
        """Runs the steps of the phase's epoch `number` from batch `start_batch` on; yields (state, metrics) for each.

        Nothing waits for the device. With `scanned_steps`, all steps run first, always from batch 0; then the state is
        the last one each time, and the metrics are on the host.
        """
        number += self.first_epoch
        if self.scanned_steps is not None:
            assert isinstance(train, ActivationLoader)
            steps = state.step + np.arange(len(train), dtype=np.int32)
            plan = Plan(*train.epoch_rows(number), self.hyperparameters(steps))
            state, stacked = self.scanned_steps(state, resident(train.dataset), plan, self.key)
            for metrics in unstacked(stacked):
                yield state, metrics
            return
        batches = train.epoch(number, start_batch=start_batch)
        for batch in to_device(batches, mesh=self.mesh, batch_size=train.batch_size):
            state, metrics = self.train_step(state, batch, self.key)
            yield state, metrics


def make_program(
    model: Classifier,
    phase: Phase,
    train: AnyLoader,
    settings: Settings | None = None,
    *,
    phase_number: int = 0,
    first_epoch: int = 0,
    schedule: Schedule | None = None,
    gradients: optax.GradientTransformation | None = None,
) -> Program:
    """What a phase runs: schedule, optimizer, loss, compiled steps, what is frozen, said once.

    Args:
      model: the classifier.
      phase: what is frozen, rates, cycles, augmentation.
      train: the training loader, of pictures or of cached activations; its batches per epoch, its labels and its
        devices are read.
      settings: loss, optimizer, clipping, mixing (of pictures; activations are not mixed), accumulation, averaging and
        seed; default: `Settings()`.
      phase_number: which phase of the run this is; part of every random key.
      first_epoch: epochs the run has done before; the order of epoch e is `epoch_order(loader.seed, first_epoch + e)`.
      schedule: in place of the phase's own, for a learning-rate range test.
      gradients: a transformation of one's own, applied to the gradients before the optimizer sees them.

    Raises:
      ValueError: for a batch size that the devices cannot share evenly; for a loss that does not fit the data's labels;
        or for activations that do not fit the phase: its augmentation, or modules below their cut that it trains.
    """
    settings = settings or Settings()
    check_augment(train, phase.augment)
    check_divisible(train.batch_size, train.mesh)
    own, num_steps = phase_schedule(phase, len(train))
    schedule = schedule or own
    momentum = phase_momentum(phase, num_steps, settings.momentum)
    steers = callable(momentum) or momentum > 0
    kind = step_kind(model, phase, train, settings, momentum=steers, gradients=gradients)
    step = shared_step(kind)
    return Program(
        model=model,
        phase=phase,
        settings=settings,
        first_epoch=first_epoch,
        shared_step=step,
        hyperparameters=make_hyperparameters(schedule, phase.lrs, momentum, class_weights(settings, train)),
        optimizer=kind.optimizer(),
        schedule=schedule,
        momentum=momentum,
        num_steps=num_steps,
        key=replicate(phase_key(settings.seed, phase_number), train.mesh),
        scanned_steps=make_scanned_steps(step, phase.frozen) if can_scan(train) else None,
        mesh=train.mesh,
    )


def phase_schedule(phase: Phase, steps_per_epoch: int) -> tuple[Schedule, int]:
    """A phase's schedule and its number of steps, with epochs turned into steps."""
    num_steps = phase.num_epochs * steps_per_epoch
    if phase.schedule == "one_cycle":
        # A phase of one step has no room to rise and fall.
        pct = phase.pct_start
        return (one_cycle(num_steps, pct_start=pct, div=phase.div) if num_steps > 1 else sgdr(1, 1)), num_steps
    first = phase.cycle_epochs * steps_per_epoch
    warmup = min(phase.warmup_steps, first - 1)
    return sgdr(first, phase.num_cycles, cycle_mult=phase.cycle_mult, warmup_steps=warmup), num_steps


def phase_momentum(phase: Phase, num_steps: int, momentum: float) -> float | Schedule:
    """A phase's momentum: the settings' own, or one_cycle's from .95 down to .85 and back."""
    if phase.schedule == "one_cycle" and num_steps > 1:
        return one_cycle_momentum(num_steps, pct_start=phase.pct_start)
    return momentum


def phase_key(seed: int, phase_number: int) -> jax.Array:
    """The key of all random draws of a phase, `fold_in(key(seed), phase_number)`; each step folds itself in."""
    return jax.random.fold_in(jax.random.key(seed), phase_number)


def make_settings_loss(settings: Settings, train: AnyLoader) -> Loss:
    """The loss that the settings name, with class weights from the training labels where they ask for them.

    Raises:
      ValueError: for a loss that does not fit the data's labels, or class weights that need single labels.
    """
    return named_loss(settings, class_weights(settings, train))


def class_weights(settings: Settings, train: AnyLoader) -> np.ndarray | None:
    """The class weights of the training labels, where the settings ask for them. Raises as `make_settings_loss`."""
    settings.check_labels(train.dataset.multi_label)
    if settings.class_weights == "none":
        return None
    if settings.multi_label:
        raise ValueError("class_weights='balanced' needs one label per photo; leave it out for several")
    return balanced_class_weights(train.dataset.labels, len(train.classes))
