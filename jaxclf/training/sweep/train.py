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
import optax
from jax.sharding import Mesh, NamedSharding

from jaxclf._progress import OnProgress, silent
from jaxclf.data.devices import fetch, place, replicated, sharded
from jaxclf.data.order import batch_order, epoch_order
from jaxclf.models import init_head
from jaxclf.models.trees import Tree
from jaxclf.schedules import cosine
from jaxclf.training.losses import weighted_mean
from jaxclf.training.optimizer import decays, make_transformation
from jaxclf.training.program import phase_key
from jaxclf.training.sweep.members import Examples, Members, Program, flipped, held_out_rows, judge, take


class Judged(NamedTuple):
    """Heads after training: arrays [m] on the host; variables on the device, see `member_variables`."""

    losses: np.ndarray
    accuracies: np.ndarray
    epochs: np.ndarray
    variables: Tree


def train_members(
    program: Program,
    examples: Examples,
    members: Members,
    *,
    stop_after: int | None = None,
    mesh: Mesh | None = None,
    on_progress: OnProgress = silent,
) -> Judged:
    """Trains every member on the examples outside its fold and judges it on those inside.

    Args:
      program, examples, members: see there; `examples` best on the device.
      stop_after: end after so many epochs of the schedule; None runs all.
      mesh: devices that share the members, if that gives each equally many; otherwise each device trains all.
      on_progress: called after each epoch, with epochs.

    Returns:
      Losses, accuracies (NaN without folds), the epochs they were measured after, and the variables of that epoch.
    """
    number = len(examples.features)
    if program.num_folds and len(members.lrs) % program.num_folds:
        raise ValueError(f"{len(members.lrs)} members are no multiple of {program.num_folds} folds")
    over = None
    if mesh is not None:
        over = replicated(mesh) if len(members.lrs) % (mesh.size * max(program.num_folds, 1)) else sharded(mesh)
    run_epoch = make_epoch(program, number, over)
    held_out = held_out_rows(program.num_folds, np.asarray(examples.folds))
    first = (first_state(program, examples.features.shape[1], members), members)
    state, placed = jax.device_put(first) if over is None else place(first, over)
    last = stop_after or program.training.epochs
    for epoch in range(last):
        rows = orders(program, members, epoch, number)
        state = run_epoch(state, examples, placed, rows, held_out, np.int32(epoch))
        stopped = bool(np.asarray(fetch(state["stopped"])).all())  # waits, so that progress is what has been done
        on_progress(last if stopped else epoch + 1, last)
        if stopped:
            break
    losses, accuracies, epochs = fetch((state["loss"], state["accuracy"], state["epoch"]))
    return Judged(losses.astype(np.float64), accuracies.astype(np.float64), epochs, state["best"])


def member_variables(judged: Judged, number: int) -> Tree:
    """One head's variables, as a classifier holds them: `{"params": {"head": ..}, "batch_stats": ..}`."""
    one: Tree = jax.tree.map(lambda leaf: jnp.asarray(leaf[number]), fetch(judged.variables))
    return {
        "params": {"head": flipped(one["params"])},
        "batch_stats": {"head": one["batch_stats"]} if one["batch_stats"] else {},
    }


def first_state(program: Program, width: int, members: Members) -> Tree:
    """What an epoch begins with: the members' variables as drawn from their seeds, and nothing judged yet."""
    drawn = {}
    for seed in np.unique(members.seeds):
        first = jax.device_get(init_head(program.head, jax.random.key(int(seed)), width))
        drawn[seed] = first | {"params": flipped(first["params"])}
    variables = jax.tree.map(lambda *leaves: np.stack(leaves), *(drawn[seed] for seed in members.seeds))
    number = len(members.seeds)
    return {
        "variables": variables,
        "opt_state": jax.jit(jax.vmap(_optimizer(program, 1.0).init))({"head": variables["params"]}),
        "best": jax.tree.map(np.copy, variables),
        "loss": np.full(number, np.inf, np.float32),
        "accuracy": np.full(number, np.nan, np.float32),
        "epoch": np.zeros(number, np.int32),
        "stopped": np.zeros(number, bool),
    }


def _optimizer(program: Program, rate: Any) -> optax.GradientTransformation:
    """The recipe's optimizer at this rate, which may be an array under a trace; weight decay is the caller's."""
    training = program.training
    return make_transformation(lambda _: rate, (1.0,), optimizer=training.optimizer, momentum=training.momentum)


def orders(program: Program, members: Members, epoch: int, number: int) -> np.ndarray:
    """Rows of the epoch's batches: int32 [steps, b], or [steps, m, b] where each seed has its own; -1 for padding."""
    training = program.training

    def batches(seed: int) -> np.ndarray:
        return batch_order(epoch_order(seed, epoch, number), training.batch_size, even=True)

    if not training.own_order:
        return batches(training.order_seed)
    own = {int(seed): batches(int(seed)) for seed in np.unique(members.seeds)}
    return np.stack([own[int(seed)] for seed in members.seeds], axis=1)


class _Member(NamedTuple):
    """What tells one head's step apart."""

    lr: Any
    weight_decay: Any
    key: Any
    fold: Any


def _make_member_step(program: Program) -> Callable[..., tuple[Tree, Any]]:
    """One step of one member; its batch is features, targets, folds, valid."""
    apply: Callable[..., Any] = program.head.apply
    loss_of, adamw = program.training.loss_function(), program.training.optimizer == "adamw"

    def member_step(variables: Tree, opt_state: Any, member: _Member, batch: Any, multiplier: Any) -> tuple[Tree, Any]:
        features, targets, folds, valid = batch
        weights = valid * (folds != member.fold)

        def loss_fn(params: Tree) -> tuple[jax.Array, Tree]:
            logits, updated = apply(
                {"params": flipped(params), "batch_stats": variables["batch_stats"]},
                features,
                train=True,
                mask=weights,
                rngs={"dropout": member.key},
                mutable=["batch_stats"],
            )
            return weighted_mean(*loss_of(logits, targets), weights), updated

        params, rate = variables["params"], member.lr * multiplier
        gradients, updated = jax.grad(loss_fn, has_aux=True)(params)
        decay = jax.tree.map(
            lambda leaf, yes: member.weight_decay * leaf if yes else jnp.zeros_like(leaf), params, decays(params)
        )
        if not adamw:  # added to the gradient; AdamW adds it to the direction
            gradients = jax.tree.map(jnp.add, gradients, decay)
        updates, opt_state = _optimizer(program, rate).update({"head": gradients}, opt_state, {"head": params})
        params = jax.tree.map(jnp.add, params, updates["head"])
        if adamw:
            params = jax.tree.map(lambda leaf, term: leaf - rate * term, params, decay)
        return {"params": params, "batch_stats": updated.get("batch_stats", {})}, opt_state

    return member_step


@functools.lru_cache(maxsize=8)  # chunks, and sweeps one after the other, run what is compiled
def make_epoch(program: Program, num_examples: int, over: NamedSharding | None = None) -> Callable[..., Tree]:
    """The jitted `(state, examples, members, rows, held_out, epoch) -> state`: an epoch of steps, then the figures."""
    steps = program.num_steps(num_examples)
    multiplier = cosine(program.training.epochs * steps)
    batch_axis = 0 if program.training.own_order else None
    vector_step: Callable[..., Any] = jax.vmap(_make_member_step(program), in_axes=(0, 0, 0, batch_axis, None))

    def run_epoch(
        state: Tree, examples: Examples, members: Members, rows: jax.Array, held_out: jax.Array, epoch: jax.Array
    ) -> Tree:
        number, num_folds = len(members.lrs), program.num_folds
        folds = jnp.arange(number) % num_folds if num_folds else jnp.full_like(members.seeds, -1)
        keys = jax.vmap(lambda seed: phase_key(seed, 0))(members.seeds)

        def step(carry: Any, inputs: Any) -> tuple[Any, None]:
            batch_rows, number = inputs
            step_keys = jax.vmap(lambda key: jax.random.fold_in(key, number))(keys)
            each = _Member(members.lrs, members.weight_decays, step_keys, folds)
            return vector_step(*carry, each, take(examples, batch_rows), multiplier(number)), None

        numbers = epoch * steps + jnp.arange(steps, dtype=jnp.int32)
        carry = (state["variables"], state["opt_state"])
        (variables, opt_state), _ = jax.lax.scan(step, carry, (rows, numbers))
        loss, accuracy = judge(program, variables, examples, held_out, number)
        return keep(state, variables, loss, accuracy, epoch, program.training.patience) | {"opt_state": opt_state}

    return jax.jit(run_epoch, donate_argnums=0, out_shardings=over)


def keep(
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
