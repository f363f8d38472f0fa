"""The heads of a sweep that need no rate: solved to their optimum, judged in the folds of those that are trained."""

from typing import NamedTuple

import numpy as np

from jaxclf._progress import OnProgress, silent
from jaxclf.config import Settings
from jaxclf.data.activations import ActivationDataset
from jaxclf.data.order import k_folds
from jaxclf.metrics import Predictions, summarize
from jaxclf.models import HeadKind
from jaxclf.training.logistic import RIDGES, LogisticProblem, SolvedHead, solve_logistic
from jaxclf.training.solve import LAYERS, head_problem
from jaxclf.training.sweep.options import SweepGrid
from jaxclf.training.sweep.table import mean_and_error


class SolvedRow(NamedTuple):
    """A kind of head that was solved, and what cross-validation says about it, as a `SweepRow` does of a setting.

    Attributes:
      head: its kind.
      loss, loss_error: held-out cross-entropy in the sweep's folds, mean and standard error over folds.
      accuracy, accuracy_error: held-out accuracy in [0, 1], likewise.
      solved: how its ridge was chosen, as `solve_head` does; `variables` are kernel and bias, of all examples.
    """

    head: HeadKind
    loss: float
    loss_error: float
    accuracy: float
    accuracy_error: float
    solved: SolvedHead


def solve_heads(
    data: ActivationDataset, grid: SweepGrid, settings: Settings, *, on_progress: OnProgress = silent
) -> tuple[SolvedRow, ...]:
    """Those of the grid's heads that are convex problems, each at its optimum; none for a loss that is not convex.

    The ridge is the one that `solve_head` chooses with these settings, whatever the grid. With it, the head is solved
    once for each of the grid's folds, and judged by plain cross-entropy on what it has not seen: figures that compare
    with those of `sweep_heads` for the same grid. As the folds chose the ridge, they flatter it a little, and the best
    setting of a sweep likewise.

    Args:
      data: pooled activations of plain pictures, as for `sweep_heads`.
      grid: its heads and folds.
      settings: loss, label_smoothing, class_weights and seed are read.
      on_progress: called with (problems solved, in all).

    Raises:
      ValueError: see `solve_head`.
    """
    kinds = [head for head in grid.heads if head in LAYERS] if settings.loss in ("softmax", "sigmoid") else []
    folds = k_folds(data.labels, grid.num_folds, grid.fold_seed)
    total, rows = len(kinds) * (grid.num_folds + 1), list[SolvedRow]()
    for number, head in enumerate(kinds):
        problem = head_problem(data, settings, both=head == "pools")
        solved = solve_logistic(problem, RIDGES, seed=settings.seed)
        figures = []
        for fold in range(grid.num_folds):
            on_progress(number * (grid.num_folds + 1) + fold + 1, total)
            figures.append(_judge(problem, data.labels, folds == fold, solved.ridge))
        losses, accuracies = zip(*figures, strict=True)
        loss, accuracy = (mean_and_error(np.array([[values]])) for values in (losses, accuracies))
        rows.append(
            SolvedRow(head, float(loss[0][0]), float(loss[1][0]), float(accuracy[0][0]), float(accuracy[1][0]), solved)
        )
    on_progress(total, total)
    return tuple(rows)


def _judge(problem: LogisticProblem, labels: np.ndarray, held_out: np.ndarray, ridge: float) -> tuple[float, float]:
    """Loss and accuracy on the examples held out, of the head that is solved on all others."""
    rest = problem._replace(x=problem.x[~held_out], targets=problem.targets[~held_out])
    head = solve_logistic(rest, (ridge,), num_folds=0).variables
    logits = problem.x[held_out] @ np.asarray(head["kernel"]) + np.asarray(head["bias"])
    found = summarize(Predictions(logits, labels[held_out], np.flatnonzero(held_out), problem.multi_label))
    return float(found["loss"]), float(found["accuracy"])
