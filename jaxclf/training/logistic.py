"""Logistic regression with ridge on plain arrays: standardised, the ridge by cross-validation, solved, folded back."""

import hashlib
import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxclf._progress import OnProgress, silent
from jaxclf.data.order import k_folds
from jaxclf.models.trees import Tree
from jaxclf.training.columns import make_columns
from jaxclf.training.lbfgs import Examples, Solution, losses, minimise, null_theta, problem_bytes
from jaxclf.training.sweep.search import device_bytes

#: Strengths that are tried where nobody says: C = 1e-4 .. 1e2 in scikit-learn's terms, two per decade.
RIDGES = tuple(float(ridge) for ridge in np.logspace(4, -2, 13))
#: Above so many rows one fold of five is held out, once.
MAX_FOLD_ROWS = 20_000


class LogisticProblem(NamedTuple):
    """Features and targets, and how the loss counts them.

    Attributes:
      x: float [n * num_views, d].
      targets: float [n, c]: one-hot or soft, rows sum to 1; with `multi_label` 0 or 1, or between.
      multi_label: several labels per example: each class has a sigmoid of its own.
      num_views: rows per example, one after the other; each weighs 1 / num_views, and a fold holds out all or none.
      class_weights: float [c], >= 0; `None` for ones.
      label_smoothing: in [0, 1), of training; what is held out is judged by the targets as they are.
      least_spread: share of the features' root mean square spread that each counts as having at least, where all are
        in one unit.
    """

    x: np.ndarray
    targets: np.ndarray
    multi_label: bool = False
    num_views: int = 1
    class_weights: np.ndarray | None = None
    label_smoothing: float = 0.0
    least_spread: float = 0.0


class SolvedHead(NamedTuple):
    """The result of `solve_head`, and of `solve_logistic`.

    Attributes:
      variables: the model's, with the new head; of `solve_logistic` float32 `kernel` [d, c] and `bias` [c] alone.
      ridge: the strength that was chosen, 1 / C.
      ridges: float64 [s], the strengths tried, strongest first.
      losses, errors: float64 [s], mean loss over the examples held out, and its standard error; NaN without folds.
      num_folds: parts held out in turn; 1 is a single one of a fifth of the examples, 0 none.
      num_held_out: examples that were held out at some time.
      gradient_norm: of the head on all examples, relative to that of the model without a kernel.
      iterations: of all L-BFGS loops together.
    """

    variables: Tree
    ridge: float
    ridges: np.ndarray
    losses: np.ndarray
    errors: np.ndarray
    num_folds: int
    num_held_out: int
    gradient_norm: float
    iterations: int

    @property
    def at_edge(self) -> bool:
        """Whether the ridge is the strongest or weakest of several, so that one beyond might be better still."""
        return len(self.ridges) > 1 and self.ridge in (self.ridges[0], self.ridges[-1])

    @property
    def loss(self) -> float:
        """The held-out loss of the chosen ridge; as the lowest of several it is a little too good."""
        return float(self.losses[int(np.flatnonzero(self.ridges == self.ridge)[0])])


def solve_logistic(
    problem: LogisticProblem,
    ridges: Sequence[float] = RIDGES,
    *,
    num_folds: int = 5,
    seed: int = 0,
    tolerance: float = 1e-5,
    max_bytes: int | None = None,
    on_progress: OnProgress | None = None,
) -> SolvedHead:
    """`solve_head` of plain arrays, which see. `variables` holds `kernel` and `bias` alone."""
    strengths = np.sort(np.asarray(ridges, np.float64))[::-1]
    _check(problem, strengths, num_folds, tolerance)
    single = len(problem.x) > MAX_FOLD_ROWS
    folds = np.full(len(problem.targets), -1, np.int32)
    if num_folds:
        folds = assign_folds(problem, 5 if single else num_folds, seed)
        folds = np.where(single & (folds > 0), -1, folds)
    held_out = np.arange(folds.max() + 1)[:, None] == np.repeat(folds, problem.num_views)  # [folds, rows]
    columns = make_columns(problem.x, problem.least_spread)
    number, classes = len(problem.x), problem.targets.shape[1]
    limit = device_bytes() if max_bytes is None else max_bytes
    fit = max(limit // problem_bytes(number, classes, columns.z.shape[1]), 1)
    num_chunks = max(math.ceil(len(held_out) / fit), 1)
    lanes = _Lanes(*_examples(problem, columns.z), max(math.ceil(len(held_out) / num_chunks), 1), problem.multi_label)
    curve, warm, iterations = _compare(lanes, held_out, strengths, 10 * tolerance, on_progress or silent)
    means, errors = _judge(curve, held_out.any(0), problem)
    best = int(np.argmin(np.where(np.isfinite(means), means, np.inf)))
    solution = lanes.solve(np.ones((1, number)), strengths[best], warm[best] if warm else None, tolerance)
    theta = np.asarray(solution.theta[0])  # waits for it, before it is said to be done
    total = math.ceil(len(held_out) / lanes.size) * len(strengths) + 1
    (on_progress or silent)(total, total)
    return SolvedHead(
        columns.fold_back(theta, multi_label=problem.multi_label),
        ridge=float(strengths[best]),
        ridges=strengths,
        losses=means,
        errors=errors,
        num_folds=len(held_out),
        num_held_out=int((folds >= 0).sum()),
        gradient_norm=float(solution.gradient_norm[0]),
        iterations=iterations + int(solution.iterations.max()),
    )


class _Lanes(NamedTuple):
    """`size` problems side by side, always as many, so that all run one program; those that are missing are empty."""

    train: Examples
    judge: Examples
    size: int
    multi_label: bool

    def solve(self, masks: np.ndarray, ridge: float, start: jax.Array | None, tolerance: float) -> Solution:
        """The optimum of each mask [p, n], p <= `size`, from `start` [1 or size, c, r] or from no kernel at all."""
        padded = np.zeros((self.size, masks.shape[1]), np.float32)
        padded[: len(masks)] = masks
        if start is None:
            start = null_theta(self.train, padded, multi_label=self.multi_label)
        start = jnp.broadcast_to(start, (self.size, *start.shape[1:]))
        return minimise(
            self.train, padded, np.float32(ridge), start, np.float32(tolerance), multi_label=self.multi_label
        )

    def losses(self, solution: Solution) -> np.ndarray:
        """Of all examples, float64 [size, n], by the targets as they are."""
        return np.asarray(losses(solution.logits, self.judge, multi_label=self.multi_label), np.float64)


def _compare(
    lanes: _Lanes, held_out: np.ndarray, ridges: np.ndarray, tolerance: float, on_progress: OnProgress
) -> tuple[np.ndarray, list[jax.Array], int]:
    """Held-out losses [s, n] of every strength, optima [1, c, r] near those of all examples, and iterations."""
    curve, warm, iterations = np.zeros((len(ridges), held_out.shape[1])), list[jax.Array](), 0
    starts = range(0, len(held_out), lanes.size)
    total = len(starts) * len(ridges) + 1
    for done, at in enumerate(starts):
        chunk, theta = held_out[at : at + lanes.size], None
        for number, ridge in enumerate(ridges):
            solution = lanes.solve(~chunk, ridge, theta, tolerance)
            theta = solution.theta
            if at == 0:
                warm.append(theta[:1])
            curve[number] += (lanes.losses(solution)[: len(chunk)] * chunk).sum(0)
            iterations += int(solution.iterations.max())
            on_progress(done * len(ridges) + number + 1, total)
    return curve, warm, iterations


def _check(problem: LogisticProblem, ridges: np.ndarray, num_folds: int, tolerance: float) -> None:
    if not len(ridges) or not (np.isfinite(ridges) & (ridges > 0)).all() or len(set(ridges.tolist())) < len(ridges):
        raise ValueError(f"ridges={ridges.tolist()} must be finite and above 0, at least one, and none twice")
    if num_folds < 2 and not (num_folds == 0 and len(ridges) == 1):
        raise ValueError(f"num_folds={num_folds} must be 2 or more; 0, which judges nothing, goes with a single ridge")
    if not 1e-6 <= tolerance < 1:
        raise ValueError(f"tolerance={tolerance} must lie in [1e-6, 1): float32 knows no smaller gradients")
    x, targets = problem.x, problem.targets
    if x.ndim != 2 or targets.ndim != 2 or not targets.size or len(x) != len(targets) * problem.num_views:
        raise ValueError(
            f"features of shape {list(x.shape)} do not fit targets of shape {list(targets.shape)} with "
            f"num_views={problem.num_views}: there must be one row per example and view"
        )
    for what, array in (("features", x), ("targets", targets)):
        if not np.isfinite(array).all():
            row = int(np.flatnonzero(~np.isfinite(array).all(1))[0])
            raise ValueError(f"{what} of row {row} are not finite; look at that picture, or leave it out")
    if (targets < 0).any() or (problem.multi_label and (targets > 1).any()):
        raise ValueError("targets must be shares: not negative, and with several labels at most 1")


def _examples(problem: LogisticProblem, z: np.ndarray) -> tuple[Examples, Examples]:
    """To learn from, smoothed, and to judge by, as they are."""
    classes = problem.targets.shape[1]
    weights = np.ones(classes) if problem.class_weights is None else np.asarray(problem.class_weights, np.float64)
    on_device = jnp.asarray(z)

    def made(smoothing: float) -> Examples:
        level = 0.5 if problem.multi_label else 1 / classes
        shares = ((1 - smoothing) * problem.targets + smoothing * level) * weights / problem.num_views
        targets = np.repeat(shares, problem.num_views, axis=0).T
        total = weights[:, None] / problem.num_views if problem.multi_label else targets.sum(0, keepdims=True)
        return Examples(on_device, jnp.asarray(targets, jnp.float32), jnp.asarray(total, jnp.float32))

    judge = made(0.0)
    return (made(problem.label_smoothing) if problem.label_smoothing else judge), judge


def assign_folds(problem: LogisticProblem, num_folds: int, seed: int) -> np.ndarray:
    """The fold in which each example is held out, int32 [n]; -1 where never, as the only one of a class.

    Examples with equal features (of their first view) are dealt as one, by the class of the first of them, or the
    combination of several labels; soft targets count as their largest.

    Raises:
      ValueError: if fewer than two examples can be held out.
    """
    seen: dict[bytes, int] = {}
    rows = problem.x[:: problem.num_views]
    first = np.array(
        [seen.setdefault(hashlib.blake2b((row + 0.0).tobytes()).digest(), i) for i, row in enumerate(rows)]
    )
    members = np.unique(first)  # the first of each group of equals
    labels = (
        problem.targets[members] > 0.5
        if problem.multi_label
        else np.eye(problem.targets.shape[1])[problem.targets[members].argmax(1)] > 0
    )
    dealt = ~(labels & (labels.sum(0) == 1)).any(1)
    count = min(num_folds, int(dealt.sum()))
    if count < 2:
        raise ValueError(
            f"of {len(rows)} examples {count} can be held out, the others are the only ones of their class: too few to "
            "choose a ridge by; give a single one and num_folds=0"
        )
    strata = labels[dealt].astype(np.int32) if problem.multi_label else labels[dealt].argmax(1)
    folds = np.full(len(rows), -1, np.int32)
    folds[members[dealt]] = k_folds(strata, count, seed)
    return folds[first]


def _judge(curve: np.ndarray, held_out: np.ndarray, problem: LogisticProblem) -> tuple[np.ndarray, np.ndarray]:
    """Mean of the held-out losses and its standard error, each [s], of losses [s, rows] that hold their weights."""
    views, classes = problem.num_views, problem.targets.shape[1]
    held_out = held_out[::views]
    if not held_out.any():
        return np.full(len(curve), np.nan), np.full(len(curve), np.nan)
    values = curve.reshape(len(curve), -1, views).sum(-1)[:, held_out]  # [s, examples]
    if problem.multi_label:
        values, weights = values / classes, np.ones(values.shape[1])
    else:
        by_class = np.ones(classes) if problem.class_weights is None else problem.class_weights
        weights = (problem.targets * by_class).sum(1)[held_out]
    mean = values.sum(1) / weights.sum()
    residual = ((values - mean[:, None] * weights) ** 2).sum(1)
    number = len(weights)
    return mean, np.sqrt(residual * number / max(number - 1, 1)) / weights.sum()
