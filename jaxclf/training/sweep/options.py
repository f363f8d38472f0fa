"""What a sweep tries, and how each of its heads is trained."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxclf.models import HeadKind, create_head
from jaxclf.training.losses import MULTI_LABEL_LOSSES, SINGLE_LABEL_LOSSES, Loss, make_loss


@dataclasses.dataclass(frozen=True)
class SweepGrid:
    """What a sweep tries: every head x rate x weight decay, each from every seed and for every fold.

    Attributes:
      heads: kinds of head to compare.
      lrs: learning rates, > 0.
      weight_decays: >= 0; never on BatchNorm and biases.
      seeds: of the initial head and of dropout.
      num_folds: parts of the cross-validation, 2 .. n, every class spread evenly.
      fold_seed: of the folds, see `jaxclf.data.order.k_folds`.
      dropout: of the linear heads.

    Raises:
      ValueError: naming the argument, for values that make no sense.
    """

    heads: Sequence[HeadKind] = ("linear",)
    lrs: Sequence[float] = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
    weight_decays: Sequence[float] = (0.0, 1e-4, 1e-3, 1e-2)
    seeds: Sequence[int] = (0, 1, 2)
    num_folds: int = 5
    fold_seed: int = 0
    dropout: float = 0.0

    def __post_init__(self) -> None:
        for name, kind in (("heads", str), ("lrs", float), ("weight_decays", float), ("seeds", int)):
            values: tuple[Any, ...] = tuple(map(kind, getattr(self, name)))
            object.__setattr__(self, name, values)
            if not values or len(set(values)) != len(values):
                raise ValueError(f"{name}={values} must hold at least one value, and none twice")
        for head in self.heads:
            create_head(head, 1)
        if not all(np.isfinite(lr) and lr > 0 for lr in self.lrs):
            raise ValueError(f"lrs={self.lrs} must be finite and positive")
        if not all(np.isfinite(decay) and decay >= 0 for decay in self.weight_decays):
            raise ValueError(f"weight_decays={self.weight_decays} must be finite and not negative")
        if not all(0 <= seed < 2**31 for seed in self.seeds):
            raise ValueError(f"seeds={self.seeds} must be whole numbers from 0 to 2^31 - 1")
        if self.num_folds < 2:
            raise ValueError(f"num_folds={self.num_folds} must be at least 2")
        if not 0 <= self.dropout < 1 or (self.dropout and set(self.heads) == {"concat"}):
            raise ValueError(f"dropout={self.dropout} must lie in [0, 1), and is not for the concat head")


@dataclasses.dataclass(frozen=True)
class HeadTraining:
    """How every head of a sweep is trained: along one cosine over all epochs.

    Attributes:
      epochs: passes over the data.
      batch_size: examples per step, held-out ones among them; batches of an epoch differ by one example at most.
      optimizer, momentum: as for `make_optimizer`.
      patience: a head stops after so many epochs without a new lowest held-out loss, and is judged at its best epoch:
        which flatters it a little, since the same examples chose the epoch. None judges all after the last epoch.
      own_order: give each seed its own order of the data, that of `fit` with this seed, instead of one for all.
      order_seed: of the shared order, see `epoch_order`.
      loss: name or function from `make_loss`.

    Raises:
      ValueError: naming the argument, for values that make no sense.
    """

    epochs: int = 20
    batch_size: int = 64
    optimizer: str = "sgd"
    momentum: float = 0.9
    patience: int | None = None
    own_order: bool = False
    order_seed: int = 0
    loss: str | Loss = "softmax"

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "patience"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}={value} must be at least 1")
        if self.optimizer not in ("sgd", "adamw"):
            raise ValueError(f"optimizer={self.optimizer!r} is not known; choose 'sgd' or 'adamw'")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum={self.momentum} must lie in [0, 1)")
        self.loss_function()

    def loss_function(self) -> Loss:
        """The loss itself, where it is given by name."""
        return self.loss if callable(self.loss) else make_loss(self.loss)

    def check_labels(self, multi_label: bool) -> None:
        """Raises ValueError for a loss whose name says that it is not for such labels."""
        if not callable(self.loss) and multi_label != (self.loss in MULTI_LABEL_LOSSES):
            labels, known = (
                ("several labels", MULTI_LABEL_LOSSES) if multi_label else ("one label", SINGLE_LABEL_LOSSES)
            )
            raise ValueError(f"loss={self.loss!r} is not for {labels} per example; choose {' or '.join(known)}")
