"""What the heads of a sweep share, what tells them apart, and how much memory they take."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxclf.models import ConcatHead, LinearHead, init_head
from jaxclf.models.trees import Tree
from jaxclf.training.losses import Loss

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


class Training(NamedTuple):
    """What all heads of a program have in common.

    Attributes:
      head: from `create_head`.
      loss: of training, from `make_loss`.
      multi_label: judge by sigmoid cross-entropy and accuracy per label instead of softmax and per example.
      optimizer, momentum: as for `make_optimizer`.
      num_folds: k; 0 trains every member on all examples and judges none.
      batch_size: examples per step; held-out ones are among them, with weight 0.
      epochs: length of the cosine schedule.
      patience: stop a head after so many epochs without a new lowest held-out loss, and judge it at its best epoch;
        None judges all at the last one.
      own_order: each seed has its own order of the data; all share one otherwise.
      order_seed: of the shared order.
    """

    head: LinearHead | ConcatHead
    loss: Loss
    multi_label: bool
    optimizer: str
    momentum: float
    num_folds: int
    batch_size: int
    epochs: int
    patience: int | None
    own_order: bool
    order_seed: int

    def num_steps(self, num_examples: int) -> int:
        """Steps of an epoch, as a training `Loader` has them: without the incomplete last batch, but at least one."""
        return max(num_examples // self.batch_size, 1)


def bytes_per_member(training: Training, width: int, num_classes: int) -> int:
    """An estimate, rather too high, of the memory that one member takes while it trains."""
    variables = init_shapes(training.head, width)
    params = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    stats = sum(leaf.size for leaf in jax.tree.leaves(variables["batch_stats"]))
    slots = 2 if training.optimizer == "adamw" else 1
    kept = (2 + slots) * params + 2 * stats  # the current, the best, and the optimizer's
    passing = 3 * params  # gradient, update, and one copy
    rows = max(training.batch_size, BLOCK)
    activations = 6 * num_classes * rows
    if isinstance(training.head, ConcatHead):
        activations += (4 * width + 6 * training.head.hidden) * rows
    elif training.head.dropout or training.own_order:
        activations += 2 * width * training.batch_size  # only training has features of its own
    return 4 * (2 * kept + passing + activations)  # the state goes in and comes out


def init_shapes(head: LinearHead | ConcatHead, width: int) -> Tree:
    """Shapes of a head's variables."""
    return jax.eval_shape(lambda key: init_head(head, key, width), jax.random.key(0))


def flipped(params: Tree) -> Tree:
    """Kernels [d, c] as [c, d], or back."""
    return jax.tree.map(lambda leaf: leaf.T if leaf.ndim == 2 else leaf, params)


def take(examples: Examples, rows: jax.Array) -> tuple[jax.Array, ...]:
    """Features, targets, folds and validity of rows, of any shape; -1 is padding."""
    at = jnp.maximum(rows, 0)
    features, targets, folds = (jnp.asarray(array)[at] for array in examples)
    return features, targets, folds, (rows >= 0).astype(jnp.float32)
