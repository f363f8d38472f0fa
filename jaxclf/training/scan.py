"""Many train steps in one dispatch: `lax.scan` over batches gathered from activations that lie on the device.

Only for what has no convolutions: on a CPU those are many times slower inside a scan, and longer to compile.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxclf.data.activations import ActivationDataset, ActivationLoader, AnyLoader
from jaxclf.data.batches import Batch
from jaxclf.data.devices import replicate
from jaxclf.data.order import PADDING
from jaxclf.models.trees import Tree, combine, partition
from jaxclf.training.hyperparameters import Hyperparameters
from jaxclf.training.state import TrainState
from jaxclf.training.step import Metrics, TrainStep


class Plan(NamedTuple):
    """Which examples and which rows of the activations each step takes, int32 [steps, batch_size] each, and how.

    `hyperparameters` have a leading axis of steps; None for a step whose optimizer has rates of its own.
    """

    positions: np.ndarray
    rows: np.ndarray
    hyperparameters: Hyperparameters | None = None


class Resident(NamedTuple):
    """A data set on the device: activations by row; labels, and positions in the source, by example."""

    activations: jax.Array
    labels: jax.Array
    origin: jax.Array


#: (state, data, plan, key) -> (state, metrics stacked over the steps); the state's buffers are donated.
ScannedSteps = Callable[[TrainState, Resident, Plan, jax.Array], tuple[TrainState, Metrics]]


def can_scan(loader: AnyLoader) -> bool:
    """Whether training from these batches runs in one dispatch: `pooled` activations that lie on the device."""
    return isinstance(loader, ActivationLoader) and loader.cut == "pooled" and loader.dataset.placement == "device"


def resident(dataset: ActivationDataset) -> Resident:
    """The data set's arrays on the device; the activations are there already and are not copied.

    With a mesh, on each of its devices in full: all of them take the same steps, on whole batches. So small are the
    steps that dividing them would cost more than it saves, as devices would have to wait for each other at each one.
    """
    assert isinstance(dataset.activations, jax.Array)
    return replicate(
        Resident(dataset.activations, jnp.asarray(dataset.labels), jnp.asarray(dataset.index)), dataset.mesh
    )


def scan_steps(
    train_step: TrainStep,
    frozen: tuple[str, ...],
    state: TrainState,
    data: Resident,
    plan: Plan,
    key: jax.Array,
) -> tuple[TrainState, Metrics]:
    """The states and metrics of `train_step` applied to one batch of the plan after the other. Traceable.

    Args:
      train_step: from `make_train_step` with the data's cut as `start` and the same `frozen`.
      frozen: modules that the scan does not carry along, as they change nothing and nothing changes them.
      state: before the first step.
      data: what the plan's numbers point into.
      plan: the batches.
      key: as for `train_step`.

    Returns:
      The state after the last step, and every metric with a leading axis of steps.
    """
    moving, still = _split(state, frozen)

    def body(state: TrainState, taken: Plan) -> tuple[TrainState, Metrics]:
        positions = jnp.asarray(taken.positions)
        batch = Batch(
            inputs=data.activations.at[taken.rows].get(mode="clip"),
            labels=data.labels.at[positions].get(mode="clip"),
            mask=(positions != PADDING).astype(jnp.float32),
            index=jnp.where(positions == PADDING, PADDING, data.origin.at[positions].get(mode="clip")),
        )
        return train_step(state, batch, key, taken.hyperparameters)

    state, metrics = jax.lax.scan(body, moving, plan)
    return _joined(state, still), metrics


@functools.lru_cache(maxsize=16)
def make_scanned_steps(train_step: TrainStep, frozen: tuple[str, ...]) -> ScannedSteps:
    """`scan_steps` jitted: as many steps as the plan has, in one dispatch. Equal arguments give the same one."""

    def scanned_steps(state: TrainState, data: Resident, plan: Plan, key: jax.Array) -> tuple[TrainState, Metrics]:
        return scan_steps(train_step, frozen, state, data, plan, key)

    return jax.jit(scanned_steps, donate_argnums=0)


def unstacked(metrics: Metrics) -> Iterator[dict[str, Any]]:
    """The metrics step by step, on the host, fetched at once."""
    fetched = jax.device_get(metrics)
    names = tuple(fetched)
    for values in zip(*fetched.values(), strict=True):
        yield dict(zip(names, values, strict=True))


def _split(state: TrainState, frozen: tuple[str, ...]) -> tuple[TrainState, dict[str, Tree | None]]:
    """The state without its frozen modules, and these."""
    params, still = partition(state.params, frozen)
    stats, still_stats = partition(state.batch_stats, frozen)
    ema = still_ema = None
    if state.ema is not None:
        parts = {name: partition(tree, frozen) for name, tree in state.ema.items()}
        ema, still_ema = ({name: part[side] for name, part in parts.items()} for side in (0, 1))
    moving = dataclasses.replace(state, params=params, batch_stats=stats, ema=ema)
    return moving, {"params": still, "batch_stats": still_stats, "ema": still_ema}


def _joined(state: TrainState, still: dict[str, Tree | None]) -> TrainState:
    ema, still_ema = state.ema, still["ema"]
    if ema is not None and still_ema is not None:
        ema = {name: combine(still_ema[name], tree) for name, tree in ema.items()}
    params, stats = (
        combine(still[name] or {}, tree)
        for name, tree in (("params", state.params), ("batch_stats", state.batch_stats))
    )
    return dataclasses.replace(state, params=params, batch_stats=stats, ema=ema)
