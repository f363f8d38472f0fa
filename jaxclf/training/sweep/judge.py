"""Every head judged on the fold it never saw: each block of examples meets the heads of its fold only."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxclf.models.trees import Tree
from jaxclf.training.losses import make_loss
from jaxclf.training.sweep.training import BLOCK, Examples, Training, flipped, take


def held_out_rows(training: Training, folds: np.ndarray) -> np.ndarray:
    """The rows of each fold in blocks: int32 [folds, blocks, rows], -1 for padding."""
    parts = [np.flatnonzero(folds == fold) for fold in range(training.num_folds)]
    longest = max(map(len, parts), default=0)
    size = max(min(BLOCK, longest), 1)
    rows = np.full((len(parts), -(-longest // size) * size), -1, np.int32)
    for row, part in zip(rows, parts, strict=True):
        row[: len(part)] = part
    return rows.reshape(len(parts), -1, size) if len(parts) else rows.reshape(0, 0, size)


def judge(
    training: Training, variables: Tree, examples: Examples, held_out: jax.Array, num_members: int
) -> tuple[jax.Array, jax.Array]:
    """Mean loss and accuracy of each member on its fold: sums and counts over blocks, divided once."""
    num_folds = training.num_folds
    if not num_folds:
        return (jnp.full(num_members, jnp.nan),) * 2
    apply: Callable[..., Any] = training.head.apply
    loss_of = make_loss("sigmoid" if training.multi_label else "softmax")

    def member_sums(variables: Tree, batch: Any) -> jax.Array:
        features, targets, _, valid = batch
        stored = variables | {"params": flipped(variables["params"])}
        logits = apply(stored, features, train=False)
        losses, _ = loss_of(logits, targets)
        if training.multi_label:
            right = ((logits > 0) == (targets > 0.5)).mean(-1)
        else:
            right = logits.argmax(-1) == targets.argmax(-1)
        return jnp.stack([losses @ valid, right @ valid, valid.sum()])

    def fold_sums(_: None, inputs: Any) -> tuple[None, jax.Array]:
        variables, blocks = inputs

        def add(sums: jax.Array, rows: jax.Array) -> tuple[jax.Array, None]:
            return sums + jax.vmap(member_sums, in_axes=(0, None))(variables, take(examples, rows)), None

        return None, jax.lax.scan(add, jnp.zeros((num_members // num_folds, 3)), blocks)[0]

    by_fold = jax.tree.map(lambda leaf: jnp.swapaxes(leaf.reshape(-1, num_folds, *leaf.shape[1:]), 0, 1), variables)
    sums = jax.lax.scan(fold_sums, None, (by_fold, held_out))[1]  # [folds, members of the fold, 3]
    loss, right, count = jnp.swapaxes(sums, 0, 1).reshape(num_members, 3).T
    return loss / count, right / count
