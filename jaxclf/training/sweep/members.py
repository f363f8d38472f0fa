"""What the heads of a sweep share, what tells them apart, what memory they take, and how each is judged."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxclf.data.order import num_batches
from jaxclf.models import ConcatHead, LinearHead, init_head
from jaxclf.models.trees import Tree
from jaxclf.training.losses import make_loss
from jaxclf.training.sweep.options import HeadTraining

#: Held-out examples are judged in blocks of so many.
BLOCK = 256


class Examples(NamedTuple):
    """Features float32 [n, 2c], targets float32 [n, classes], and the fold int32 [n] that holds each example out."""

    features: Any
    targets: Any
    folds: Any


class Members(NamedTuple):
    """What tells the heads of one program apart: arrays [m]. With k folds, member i leaves out fold i mod k."""

    lrs: np.ndarray
    weight_decays: np.ndarray
    seeds: np.ndarray


class Program(NamedTuple):
    """What all heads of a compiled program have in common.

    Attributes:
      head: from `create_head`.
      multi_label: judge by sigmoid cross-entropy and accuracy per label instead of softmax and per example.
      num_folds: k; 0 trains every member on all examples and judges none.
      training: loss, optimizer, batches, epochs.
    """

    head: LinearHead | ConcatHead
    multi_label: bool
    num_folds: int
    training: HeadTraining

    def num_steps(self, num_examples: int) -> int:
        """Steps of an epoch, as a training `Loader` has them."""
        return num_batches(num_examples, self.training.batch_size)

    def bytes_per_member(self, width: int) -> int:
        """An estimate, rather too high, of the memory that one member takes while it trains on [n, width] features."""
        shapes = jax.eval_shape(lambda key: init_head(self.head, key, width), jax.random.key(0))
        params = sum(leaf.size for leaf in jax.tree.leaves(shapes["params"]))
        stats = sum(leaf.size for leaf in jax.tree.leaves(shapes["batch_stats"]))
        slots = 2 if self.training.optimizer == "adamw" else 1
        kept = (2 + slots) * params + 2 * stats  # the current, the best, and the optimizer's
        passing = 3 * params  # gradient, update, and one copy
        rows = max(self.training.batch_size, BLOCK)
        activations = 6 * self.head.num_classes * rows
        if isinstance(self.head, ConcatHead):
            activations += (4 * width + 6 * self.head.hidden) * rows
        elif self.head.dropout or self.training.own_order:
            activations += 2 * width * self.training.batch_size  # only training has features of its own
        return 4 * (2 * kept + passing + activations)  # the state goes in and comes out


def flipped(params: Tree) -> Tree:
    """Kernels [d, c] as [c, d], or back."""
    return jax.tree.map(lambda leaf: leaf.T if leaf.ndim == 2 else leaf, params)


def take(examples: Examples, rows: jax.Array) -> tuple[jax.Array, ...]:
    """Features, targets, folds and validity of rows, of any shape; -1 is padding."""
    at = jnp.maximum(rows, 0)
    features, targets, folds = (jnp.asarray(array)[at] for array in examples)
    return features, targets, folds, (rows >= 0).astype(jnp.float32)


def held_out_rows(num_folds: int, folds: np.ndarray) -> np.ndarray:
    """The rows of each fold in blocks: int32 [folds, blocks, rows], -1 for padding."""
    parts = [np.flatnonzero(folds == fold) for fold in range(num_folds)]
    longest = max(map(len, parts), default=0)
    size = max(min(BLOCK, longest), 1)
    rows = np.full((len(parts), -(-longest // size) * size), -1, np.int32)
    for row, part in zip(rows, parts, strict=True):
        row[: len(part)] = part
    return rows.reshape(len(parts), -1, size) if len(parts) else rows.reshape(0, 0, size)


def judge(
    program: Program, variables: Tree, examples: Examples, held_out: jax.Array, num_members: int
) -> tuple[jax.Array, jax.Array]:
    """Mean loss and accuracy of each member on the fold it never saw: sums and counts over blocks, divided once."""
    num_folds = program.num_folds
    if not num_folds:
        return (jnp.full(num_members, jnp.nan),) * 2
    apply: Callable[..., Any] = program.head.apply
    loss_of = make_loss("sigmoid" if program.multi_label else "softmax")

    def member_sums(variables: Tree, batch: Any) -> jax.Array:
        features, targets, _, valid = batch
        logits = apply(variables | {"params": flipped(variables["params"])}, features, train=False)
        losses, _ = loss_of(logits, targets)
        if program.multi_label:
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
