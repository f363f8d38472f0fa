"""The head on cached features, solved: the convex problem that it is, its ridge by cross-validation."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxclf._progress import OnProgress
from jaxclf.config import Settings
from jaxclf.data.activations import ActivationDataset, ActivationLoader
from jaxclf.data.devices import fetch
from jaxclf.models import Classifier
from jaxclf.models.pool import average_half
from jaxclf.training.logistic import RIDGES, LogisticProblem, SolvedHead, solve_logistic
from jaxclf.training.losses import balanced_class_weights

#: The dense layer of the heads that can be solved.
LAYERS = {"linear": "fc", "pools": "fc_pools"}
#: Rows that are read at a time.
BLOCK = 4096
#: Of a pool, as a share of the pools' root mean square spread. Handwritten digits: without it a pool that one training
#: picture had hardly shown cost one of 600 others 52 nats (.170 in all, .060 with it).
LEAST_SPREAD = 0.01


def solve_head(
    model: Classifier,
    variables: Mapping[str, Any],
    features: ActivationDataset | ActivationLoader,
    *,
    ridges: Sequence[float] | None = None,
    num_folds: int = 5,
    settings: Settings | None = None,
    tolerance: float = 1e-5,
    max_bytes: int | None = None,
    on_progress: OnProgress | None = None,
) -> SolvedHead:
    """The linear head at its optimum on cached features, as `jaxclf.fit` would find it after very many epochs.

    Minimises, over kernel and bias,

        sum_i w_i loss_i(x_i) + ridge / 2 ||kernel||^2

    on features standardised to mean 0 and variance 1 over all rows; the scaling is then folded into kernel and bias.
    The bias has no ridge; a constant feature gets weight 0. A spread below a hundredth of the features' root mean
    square one counts as that: a feature which a single photo hardly showed would decide about every photo that shows
    it. `loss_i` is softmax cross-entropy, with label smoothing if the settings have it, or with several labels the
    *sum* of the labels' sigmoid cross-entropies. An example weighs w_i = 1, or what its class does with balanced class
    weights or sampling. Each of V views in a bank weighs 1 / V. This is scikit-learn's `LogisticRegression(C=1 /
    ridge)` after its `StandardScaler` (`sample_weight` = w_i); for two classes, where it has one column of weights and
    not two, its C is 2 / ridge; for several labels it is `OneVsRestClassifier` of it.

    The ridge is that of the lowest mean loss over held-out examples, in k folds spread evenly over the classes. Equal
    examples share a fold; the only one of its class is never held out. Above 20,000 rows, one fifth is held out, once.
    The strengths are compared at 10 x `tolerance`, each starting from the optimum of the next stronger one.

    Args:
      model: with the head "linear" or "pools"; its dropout goes unused.
      variables: of the model; all but the head are kept.
      features: cached at "pooled". A bank is solved on all its views, a loader that is not `augmented` on its one.
      ridges: strengths to try, > 0; `None` for 13 from 1e4 to 1e-2. The stronger, the smaller the kernel.
      num_folds: 2 or more; 0 with a single ridge solves it and judges nothing.
      settings: loss ("softmax" or "sigmoid"), label_smoothing, class_weights, sampling, and seed (of the folds) are
        read; the others play no part here.
      tolerance: each loop ends when the norm of the gradient is this share of that of the best model without a
        kernel, at least 1e-6 (float32 has no more digits), or after 500 iterations.
      max_bytes: memory for the problems that are solved side by side; the features come on top. At least one is
        solved at a time. `None` takes a quarter of the device's.
      on_progress: called with (strengths done, in all), each counted once per group of folds that fits in memory.

    Returns:
      A head that is the same to the bit in every run on a machine, and how it was chosen.

    Raises:
      ValueError: for another head, cut or loss, and for arguments out of range.

    References: Liu & Nocedal, On the limited memory BFGS method for large scale optimization, 1989.
    """
    settings = Settings() if settings is None else settings
    dataset = features.dataset if isinstance(features, ActivationLoader) else features
    layer = LAYERS.get(model.head_kind)
    if layer not in variables["params"]["head"]:
        raise ValueError(
            f"head={model.head_kind!r} is no convex problem: train it with jaxclf.fit, or make a linear head, on one "
            "pool or both"
        )
    if dataset.cut != "pooled":
        raise ValueError(f"the head reads the cut 'pooled', the features are of {dataset.cut!r}: extract them there")
    if len(dataset.classes) != model.num_classes:
        raise ValueError(f"the model has {model.num_classes} classes, the features have {len(dataset.classes)}")
    problem = head_problem(features, settings, both=model.head_kind == "pools")
    solved = solve_logistic(
        problem,
        RIDGES if ridges is None else ridges,
        num_folds=num_folds,
        seed=settings.seed,
        tolerance=tolerance,
        max_bytes=max_bytes,
        on_progress=on_progress,
    )
    head = {layer: {name: jnp.asarray(value) for name, value in solved.variables.items()}}
    return solved._replace(variables={**variables, "params": {**variables["params"], "head": head}})


def head_problem(features: ActivationDataset | ActivationLoader, settings: Settings, *, both: bool) -> LogisticProblem:
    """What `solve_head` solves: on `both` pools, or on the average pool alone."""
    dataset = features.dataset if isinstance(features, ActivationLoader) else features
    if settings.loss not in ("softmax", "sigmoid"):
        raise ValueError(f"loss={settings.loss!r} is not convex: train it with jaxclf.fit, or set softmax or sigmoid")
    if dataset.multi_label != settings.multi_label:
        several = "several labels" if dataset.multi_label else "one label"
        raise ValueError(f"loss={settings.loss!r} does not go with examples of {several}; set loss in the settings")
    balanced = [settings.class_weights, settings.sampling].count("balanced")
    if balanced and dataset.multi_label:
        raise ValueError("balanced class weights or sampling need one label per photo; leave them out for several")
    classes, views = len(dataset.classes), dataset.num_views
    weights = balanced_class_weights(dataset.labels, classes) ** balanced if balanced else None
    rows = np.arange(len(dataset) * views)
    if isinstance(features, ActivationLoader) and not features.augmented:
        view = int(features.epoch_rows(0)[1][0, 0]) % views  # all its rows show this one
        rows, views = rows[view::views], 1
    targets = dataset.labels if dataset.multi_label else np.eye(classes, dtype=np.float32)[dataset.labels]
    blocks = (dataset.rows(rows[start : start + BLOCK]) for start in range(0, len(rows), BLOCK))
    x = np.concatenate(
        [np.asarray(fetch(block) if both else average_half(fetch(block)), np.float32) for block in blocks]
    )
    smoothing = settings.label_smoothing
    return LogisticProblem(x, targets, dataset.multi_label, views, weights, smoothing, LEAST_SPREAD)
