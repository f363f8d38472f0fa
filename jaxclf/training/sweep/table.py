"""What a sweep found: mean and standard error of every setting, the best one, and those it cannot be told from."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jaxclf.models import HeadKind
from jaxclf.models.trees import Tree


class Setting(NamedTuple):
    """One combination that is tried: kind of head, learning rate, weight decay."""

    head: HeadKind
    lr: float
    weight_decay: float


class SweepRow(NamedTuple):
    """A setting and what cross-validation says about it.

    Attributes:
      head, lr, weight_decay: the setting.
      loss, loss_error: held-out cross-entropy, mean and standard error; inf where a head diverged.
      accuracy, accuracy_error: held-out accuracy in [0, 1], mean and standard error.
      epochs: mean number of epochs after which the heads were judged.
    """

    head: HeadKind
    lr: float
    weight_decay: float
    loss: float
    loss_error: float
    accuracy: float
    accuracy_error: float
    epochs: float


class Sweep(NamedTuple):
    """The result of `sweep_heads`.

    The figures are cross-validated and belong to the *settings*: each is the mean over heads that never saw the
    examples they were judged on. `best_variables` is another head, trained on all examples with the best setting: no
    figure here was measured on it. And the best of many settings looks a little better than it is, since it was
    chosen by these same figures; judge the final head on examples that took no part.

    Attributes:
      rows: one per setting, in the order heads x lrs x weight decays.
      losses, accuracies: float64 [settings, seeds, folds], of each head on its held-out fold.
      epochs: int [settings, seeds, folds], after how many epochs each was judged.
      seeds: of the initial heads.
      best: the number of the row with the lowest loss.
      close: the numbers of the rows, best first, whose loss lies within one standard error of the best one's.
      best_epochs: for how many epochs `best_variables` was trained: the mean of the best row's.
      best_variables: `{"params": {"head": ..}, "batch_stats": ..}`, trained on all examples from the first seed.
    """

    rows: tuple[SweepRow, ...]
    losses: np.ndarray
    accuracies: np.ndarray
    epochs: np.ndarray
    seeds: tuple[int, ...]
    best: int
    close: tuple[int, ...]
    best_epochs: int
    best_variables: Tree

    @property
    def best_row(self) -> SweepRow:
        """The row with the lowest loss."""
        return self.rows[self.best]


def mean_and_error(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard error over seeds and folds: float64 [settings] each, of values [settings, seeds, folds].

    Seeds of one fold are judged on the same examples, so they are averaged first and the error is that of the mean
    over folds: std over folds (n - 1) / sqrt(folds). Folds share most of their training examples, which this ignores;
    it is rather too small than too large. A setting with a value that is not finite gets inf and inf.

    References: no unbiased estimator of the variance of k-fold cross-validation, Bengio & Grandvalet, 2004.

    >>> mean, error = mean_and_error(np.array([[[1.0, 3.0], [1.0, 3.0]]]))
    >>> float(mean[0]), float(error[0])
    (2.0, 1.0)
    """
    values = np.asarray(values, np.float64)
    finite = np.isfinite(values).all((1, 2))
    folds = np.where(finite[:, None, None], values, 0.0).mean(1)  # [settings, folds]
    error = folds.std(-1, ddof=1) / np.sqrt(folds.shape[-1])
    return np.where(finite, folds.mean(-1), np.inf), np.where(finite, error, np.inf)


def make_rows(
    settings: Sequence[Setting], losses: np.ndarray, accuracies: np.ndarray, epochs: np.ndarray
) -> tuple[SweepRow, ...]:
    """The table: one row per setting of arrays [settings, seeds, folds]."""
    loss, loss_error = mean_and_error(losses)
    accuracy, accuracy_error = mean_and_error(accuracies)
    columns = (loss, loss_error, accuracy, accuracy_error, epochs.mean((1, 2)))
    return tuple(SweepRow(*setting, *(float(column[i]) for column in columns)) for i, setting in enumerate(settings))


def choose(rows: Sequence[SweepRow]) -> tuple[int, tuple[int, ...]]:
    """The row with the lowest loss, and all rows within one standard error of it, best first.

    References: the one-standard-error rule, Breiman et al., Classification and Regression Trees, 1984.

    Raises:
      ValueError: if no row has a finite loss.
    """
    order = sorted(range(len(rows)), key=lambda i: rows[i].loss)
    best = rows[order[0]]
    if not np.isfinite(best.loss):
        lrs = sorted({row.lr for row in rows})
        raise ValueError(f"training diverged with every setting; try lower rates than lrs={lrs}")
    return order[0], tuple(i for i in order if rows[i].loss <= best.loss + best.loss_error)
