"""Many heads trained in one compiled program: `vmap` over the members, `scan` over the steps of an epoch.

A batch [b, d] that all members share meets the kernels of m linear heads, kept as [m, c, d], in a single matrix
product [b, d] x [d, m c], and so does the gradient [m c, b] x [b, d]; nothing large has to be transposed. What differs
from head to head before its first product keeps that from happening, and then m products are computed: dropout, the
concat head's BatchNorm, and orders of their own.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding

from jaxclf.data.devices import fetch, place, replicated, sharded
from jaxclf.data.order import epoch_order
from jaxclf.models import init_head
from jaxclf.models.trees import Tree
from jaxclf.schedules import cosine
from jaxclf.training.losses import weighted_mean
from jaxclf.training.optimizer import decays, make_optimizer
from jaxclf.training.program import phase_key
from jaxclf.training.sweep.judge import held_out_rows, judge
from jaxclf.training.sweep.training import Examples, Members, Training, flipped, take


class Judged(NamedTuple):
    """Heads after training: arrays [m] on the host; variables on the device, see `member_variables`."""

    losses: np.ndarray
    accuracies: np.ndarray
    epochs: np.ndarray
    variables: Tree


def train_members(
    training: Training,
    examples: Examples,
    members: Members,
    *,
    stop_after: int | None = None,
    mesh: Mesh | None = None,
    on_epoch: Callable[[int], None] | None = None,
) -> Judged:
    """Trains every member on the examples outside its fold and judges it on those inside.

    Args:
      training, examples, members: see there; `examples` best on the device.
      stop_after: end after so many epochs of the schedule; None runs all.
      mesh: devices that share the members, if that gives each equally many; otherwise each device trains all.
      on_epoch: called with the number of epochs done.

    Returns:
      Losses, accuracies (NaN without folds), the epochs they were measured after, and the variables of that epoch.
    """
    if training.num_folds and len(members.lrs) % training.num_folds:
        raise ValueError(f"{len(members.lrs)} members are no multiple of {training.num_folds} folds")
    over = None
    if mesh is not None:
        over = replicated(mesh) if len(members.lrs) % (mesh.size * max(training.num_folds, 1)) else sharded(mesh)
    run_epoch = _make_epoch(training, len(examples.features), over)
    held_out = held_out_rows(training, np.asarray(examples.folds))
    first = (_first_state(training, examples.features.shape[1], members), members)
    state, placed = jax.device_put(first) if over is None else place(first, over)
    last = stop_after or training.epochs
    for epoch in range(last):
        rows = _orders(training, members, epoch, len(examples.features))
        state = run_epoch(state, examples, placed, rows, held_out, np.int32(epoch))
        stopped = bool(np.asarray(fetch(state["stopped"])).all())  # waits, so that progress is what has been done
        if on_epoch is not None:
            on_epoch(last if stopped else epoch + 1)
        if stopped:
            break
    losses, accuracies, epochs = fetch((state["loss"], state["accuracy"], state["epoch"]))
    return Judged(losses.astype(np.float64), accuracies.astype(np.float64), epochs, state["best"])


def member_variables(judged: Judged, number: int) -> Tree:
    """One head's variables, as a classifier holds them: `{"params": {"head": ..}, "batch_stats": ..}`."""
    one: Tree = jax.tree.map(lambda leaf: jnp.asarray(leaf[number]), fetch(judged.variables))
    one["params"] = flipped(one["params"])
    return {
        "params": {"head": one["params"]},
        "batch_stats": {"head": one["batch_stats"]} if one["batch_stats"] else {},
    }


def _first_state(training: Training, width: int, members: Members) -> Tree:
    drawn = {}
    for seed in np.unique(members.seeds):
        first = jax.device_get(init_head(training.head, jax.random.key(int(seed)), width))
        drawn[seed] = first | {"params": flipped(first["params"])}
    variables = jax.tree.map(lambda *leaves: np.stack(leaves), *(drawn[seed] for seed in members.seeds))
    number = len(members.seeds)
    optimizer = _optimizer(training, variables["params"], 1.0)
    opt_state = jax.jit(jax.vmap(optimizer.init))({"head": variables["params"]})
    return {
        "variables": variables,
        "opt_state": opt_state,
        "best": jax.tree.map(np.copy, variables),
        "loss": np.full(number, np.inf, np.float32),
        "accuracy": np.full(number, np.nan, np.float32),
        "epoch": np.zeros(number, np.int32),
        "stopped": np.zeros(number, bool),
    }


def _optimizer(training: Training, params: Tree, rate: Any) -> Any:
    """The recipe's optimizer at this rate, which may be an array under a trace; weight decay is the caller's."""
    return make_optimizer(
        {"head": params}, lambda _: rate, (1.0,), optimizer=training.optimizer, momentum=training.momentum
    )


def _orders(training: Training, members: Members, epoch: int, number: int) -> np.ndarray:
    """Rows of the epoch's batches: int32 [steps, b], or [steps, m, b] where each seed has its own; -1 for padding."""
    total = training.num_steps(number) * training.batch_size

    def batches(seed: int) -> np.ndarray:
        order = epoch_order(seed, epoch, number)[:total]
        order = np.concatenate([order, np.full(total - len(order), -1, np.int32)])
        return order.reshape(-1, training.batch_size)

    if not training.own_order:
        return batches(training.order_seed)
    own = {int(seed): batches(int(seed)) for seed in np.unique(members.seeds)}
    return np.stack([own[int(seed)] for seed in members.seeds], axis=1)


@functools.lru_cache(maxsize=8)  # chunks, and sweeps one after the other, run what is compiled
def _make_epoch(training: Training, num_examples: int, over: NamedSharding | None = None) -> Callable[..., Tree]:
    """The jitted `(state, examples, members, rows, epoch) -> state`: an epoch of steps, then the held-out figures."""
    apply: Callable[..., Any] = training.head.apply
    steps = training.num_steps(num_examples)
    multiplier = cosine(training.epochs * steps)

    def member_step(
        variables: Tree, opt_state: Any, lr: Any, weight_decay: Any, key: Any, fold: Any, batch: Any, rate: Any
    ) -> tuple[Tree, Any]:
        """One step of one member; the batch is features, targets, folds, valid."""
        features, targets, folds, valid = batch
        weights = valid * (folds != fold)

        def loss_fn(params: Tree) -> tuple[jax.Array, Tree]:
            logits, updated = apply(
                {"params": flipped(params), "batch_stats": variables["batch_stats"]},
                features,
                train=True,
                mask=weights,
                rngs={"dropout": key},
                mutable=["batch_stats"],
            )
            return weighted_mean(*training.loss(logits, targets), weights), updated

        params = variables["params"]
        gradients, updated = jax.grad(loss_fn, has_aux=True)(params)
        decay = jax.tree.map(
            lambda leaf, yes: weight_decay * leaf if yes else jnp.zeros_like(leaf), params, decays(params)
        )
        if training.optimizer == "sgd":  # added to the gradient; AdamW adds it to the direction
            gradients = jax.tree.map(jnp.add, gradients, decay)
        optimizer = _optimizer(training, params, lr * rate)
        updates, opt_state = optimizer.update({"head": gradients}, opt_state, {"head": params})
        params = jax.tree.map(jnp.add, params, updates["head"])
        if training.optimizer == "adamw":
            params = jax.tree.map(lambda leaf, term: leaf - lr * rate * term, params, decay)
        return {"params": params, "batch_stats": updated.get("batch_stats", {})}, opt_state

    vector_step: Callable[..., Any] = jax.vmap(
        member_step, in_axes=(0, 0, 0, 0, 0, 0, 0 if training.own_order else None, None)
    )

    def run_epoch(
        state: Tree, examples: Examples, members: Members, rows: jax.Array, held_out: jax.Array, epoch: jax.Array
    ) -> Tree:
        folds = (
            jnp.arange(len(members.lrs)) % training.num_folds
            if training.num_folds
            else jnp.full_like(members.seeds, -1)
        )
        keys = jax.vmap(lambda seed: phase_key(seed, 0))(members.seeds)

        def step(carry: Any, inputs: Any) -> tuple[Any, None]:
            batch_rows, number = inputs
            batch = take(examples, batch_rows)
            step_keys = jax.vmap(lambda key: jax.random.fold_in(key, number))(keys)
            return vector_step(
                *carry, members.lrs, members.weight_decays, step_keys, folds, batch, multiplier(number)
            ), None

        numbers = epoch * steps + jnp.arange(steps, dtype=jnp.int32)
        carry = (state["variables"], state["opt_state"])
        (variables, opt_state), _ = jax.lax.scan(step, carry, (rows, numbers))
        loss, accuracy = judge(training, variables, examples, held_out, len(folds))
        return _keep(state, variables, loss, accuracy, epoch, training.patience) | {"opt_state": opt_state}

    return jax.jit(run_epoch, donate_argnums=0, out_shardings=over)


def _keep(
    state: Tree, variables: Tree, loss: jax.Array, accuracy: jax.Array, epoch: jax.Array, patience: int | None
) -> Tree:
    """The next state: figures and variables of each member's best epoch, or with no patience of the last one."""
    if patience is None:
        better = jnp.ones_like(state["stopped"])
        stopped = state["stopped"]
    else:
        better = (loss < state["loss"]) & ~state["stopped"]
        stopped = state["stopped"] | (~better & (epoch + 1 - state["epoch"] >= patience))
    return {
        "variables": variables,
        "best": jax.tree.map(
            lambda new, old: jnp.where(better.reshape(-1, *(1,) * (new.ndim - 1)), new, old), variables, state["best"]
        ),
        "loss": jnp.where(better, loss, state["loss"]),
        "accuracy": jnp.where(better, accuracy, state["accuracy"]),
        "epoch": jnp.where(better, epoch + 1, state["epoch"]),
        "stopped": stopped,
    }
