"""Test-time augmentation: a picture is judged as it is and in several augmented views, and the verdicts combined."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, Literal, get_args, overload

import jax
import jax.numpy as jnp
import numpy as np

from jaxclf._jax import jit_network
from jaxclf._progress import OnProgress
from jaxclf.augment import Augment, make_augment, normalize
from jaxclf.config import Preprocess
from jaxclf.data.activations import ActivationLoader, AnyLoader
from jaxclf.data.devices import fetch, replicate
from jaxclf.data.loader import Loader
from jaxclf.inference.predict import predict, to_device
from jaxclf.metrics import Predictions, log_probabilities
from jaxclf.models.classifier import Classifier

#: Mean of the probabilities, mean of their logarithms, or the largest of each class.
Combine = Literal["mean", "log_mean", "max"]
#: (variables, uint8 [b, s, s, 3], index int [b], key, view number) -> float32 logits [b, c].
ViewStep = Callable[[Any, jax.typing.ArrayLike, jax.typing.ArrayLike, jax.Array, int], jax.Array]


class Views(Predictions):
    """`Predictions` of several views of the same examples: logits are float32 [views, n, c], view 0 the plain one."""

    __slots__ = ()


@overload
def predict_tta(
    model: Classifier,
    variables: Mapping[str, Any],
    loader: AnyLoader,
    *,
    num_views: int = 4,
    augment: str | Augment = "side_on",
    combine: Combine = "mean",
    beta: float | None = None,
    seed: int = 0,
    threshold: float = 0.5,
    on_progress: OnProgress | None = None,
    return_views: Literal[False] = False,
) -> Predictions: ...
@overload
def predict_tta(
    model: Classifier,
    variables: Mapping[str, Any],
    loader: AnyLoader,
    *,
    num_views: int = 4,
    augment: str | Augment = "side_on",
    combine: Combine = "mean",
    beta: float | None = None,
    seed: int = 0,
    threshold: float = 0.5,
    on_progress: OnProgress | None = None,
    return_views: Literal[True],
) -> tuple[Predictions, np.ndarray]: ...
def predict_tta(
    model: Classifier,
    variables: Mapping[str, Any],
    loader: AnyLoader,
    *,
    num_views: int = 4,
    augment: str | Augment = "side_on",
    combine: Combine = "mean",
    beta: float | None = None,
    seed: int = 0,
    threshold: float = 0.5,
    on_progress: OnProgress | None = None,
    return_views: bool = False,
) -> Predictions | tuple[Predictions, np.ndarray]:
    """Predicts by the plain picture and `num_views` augmented ones; fast.ai's default is the mean of 1 + 4.

    Args:
      model, variables: the classifier.
      loader: of photos, made with `train=False`. It gives the plain view, just as `predict` sees it; for the augmented
        ones, which start from presized pictures as in training, every file is read once more. Or of an augmented bank
        of activations, whose own views are taken; `augment` and `seed` go unused.
      num_views: augmented views, >= 0; with 0 the probabilities are those of `predict`.
      augment: the preset the views are drawn by (the one of the training is right), or a pipeline of your own.
      combine, beta: see `combine_views`.
      seed: of the draws. Those of an example depend on (seed, view, index), not on batches or their order.
      threshold: kept with the predictions: from which probability on a label counts, where there can be several.
      on_progress: called with (views of examples done, in all) after each batch.
      return_views: also return the probabilities of each view.

    Returns:
      Predictions in the loader's order, whose logits are logarithms of the combined probabilities: see
      `combine_views`. With `return_views`, (predictions, float64 [num_views + 1, n, c] probabilities, plain first).

    Raises:
      ValueError: for cached activations with fewer than `num_views` augmented views, a training loader, or settings
        out of range.

    References: Howard and Gugger, fastai: a layered API for deep learning, arXiv:2002.04688, 2020.
    """
    _weights(max(num_views, 0), combine, beta)  # refused before anything is computed
    views = predict_views(
        model, variables, loader, num_views=num_views, augment=augment, seed=seed, on_progress=on_progress
    )
    combined = combine_views(views._replace(threshold=threshold), combine=combine, beta=beta)
    return (combined, views.probabilities()) if return_views else combined


def predict_views(
    model: Classifier,
    variables: Mapping[str, Any],
    loader: AnyLoader,
    *,
    num_views: int = 4,
    augment: str | Augment = "side_on",
    seed: int = 0,
    on_progress: OnProgress | None = None,
) -> Views:
    """The logits of every view, not combined yet. Arguments and errors as `predict_tta`."""
    check_evaluates(loader)
    if num_views < 0:
        raise ValueError(f"num_views={num_views} must not be negative; 0 means the plain picture only")
    count = loader.num_examples

    def advance(done: int) -> None:
        if on_progress is not None:
            on_progress(min(done, count * (num_views + 1)), count * (num_views + 1))

    if isinstance(loader, ActivationLoader):
        shown = [loader.view(view) for view in range(num_views + 1)]
        predictions = [predict(model, variables, view) for view in shown]
        advance(count * (num_views + 1))  # activations: there is little to wait for
        return Views(*predictions[0])._replace(logits=np.stack([p.logits for p in predictions]))
    view_step = make_view_step(model, preprocess=loader.preprocess, augment=augment) if num_views else None
    plain = predict(model, variables, loader, on_progress=lambda done, _: advance(done))
    if view_step is None:
        return Views(*plain)._replace(logits=plain.logits[None])
    variables, key = replicate((variables, jax.random.key(seed)), loader.mesh)
    logits, masks = [], []
    presized = presized_loader(loader, plain.index)
    for batch in to_device(presized, mesh=loader.mesh, batch_size=presized.batch_size):
        logits.append([view_step(variables, batch.inputs, batch.index, key, view) for view in range(1, num_views + 1)])
        masks.append(batch.mask)
        jax.block_until_ready(logits[-2:-1])  # the batch before: the device stays busy with this one
        advance(count + len(logits) * loader.batch_size * num_views)
    fetched, fetched_masks = fetch((logits, masks))
    augmented = np.concatenate([np.stack(batch) for batch in fetched], axis=1)[:, np.concatenate(fetched_masks) > 0]
    return Views(*plain)._replace(logits=np.concatenate([plain.logits[None], augmented]))


def check_evaluates(loader: AnyLoader) -> None:
    """Raises ValueError unless a loader shows evaluation's pixels."""
    if loader.train or loader.presized:
        raise ValueError(
            "predict_tta needs the loader that predict takes, made with train=False and presized=False: the plain view "
            "shows evaluation pixels"
        )


def make_view_step(model: Classifier, *, preprocess: Preprocess, augment: str | Augment = "side_on") -> ViewStep:
    """A jitted `(variables, presized uint8 [b, s, s, 3], index [b], key, view) -> float32 logits [b, c]`.

    Every picture is augmented by itself, with the key fold_in(fold_in(key, view), index); the view's number is an
    argument, so one compilation serves all views. Equal arguments give the same step.

    Raises:
      ValueError: for an unknown preset, or "none".
    """
    if augment == "none":
        raise ValueError("augment='none' draws nothing, so all views would be alike; use num_views=0 for the plain one")
    return _view_step(model, preprocess, augment)


@functools.lru_cache(maxsize=16)
def _view_step(model: Classifier, preprocess: Preprocess, augment: str | Augment) -> ViewStep:
    apply_augment = (
        make_augment(augment, preprocess.image_size, shown=preprocess.shown) if isinstance(augment, str) else augment
    )

    @jit_network
    def view_step(
        variables: Any, images: jax.typing.ArrayLike, index: jax.typing.ArrayLike, key: jax.Array, view: int
    ) -> jax.Array:
        view_key = jax.random.fold_in(key, view)

        def one(index: jax.Array, image: jax.Array) -> jax.Array:
            return apply_augment(jax.random.fold_in(view_key, index), image[None])[0]

        pictures = jax.vmap(one)(jnp.maximum(jnp.asarray(index), 0), jnp.asarray(images))  # padding has index -1
        logits = model.apply(variables, normalize(pictures, preprocess.mean, preprocess.std))
        assert isinstance(logits, jax.Array)  # nothing is mutable, so there is nothing beside the logits
        return logits

    return view_step


def combine_views(views: Views, *, combine: Combine = "mean", beta: float | None = None) -> Predictions:
    """One prediction per example out of several views.

    With p_v the probabilities of view v and w_v its weight: "mean" is sum w_v p_v; "log_mean" is exp(sum w_v log p_v),
    made to sum to 1, which is the softmax of the mean logits; "max" is the largest p_v of each class, made to sum to 1.
    The same holds for the two probabilities p and 1 - p of each of several labels, but that their "max" is that of p.

    Args:
      views: V augmented views after the plain one.
      combine: one of these.
      beta: weight of the plain view, in [0, 1]; the others share 1 - beta (fastai 2 takes .25). None: all weigh the
        same. A "max" has no weights, so there it must be None. Without augmented views it changes nothing.

    Returns:
      Predictions whose logits are the logarithms of the combined probabilities (of several labels log p / (1 - p)),
      float32 [n, c], so that softmax (sigmoid) gives the probabilities back and every metric is theirs.

    Raises:
      ValueError: for an unknown `combine`, or a `beta` that is out of range or has no meaning.

    >>> views = Views(np.log([[[0.5, 0.5]], [[0.9, 0.1]]]), np.array([0]), np.array([0]))
    >>> combine_views(views, beta=0.25).probabilities().round(6).tolist()
    [[0.8, 0.2]]
    """
    weights = _weights(len(views.logits) - 1, combine, beta)
    if views.multi_label:
        logits = np.asarray(views.logits, np.float64)
        if combine == "mean":
            right, wrong = (_log_mean_exp(-np.logaddexp(0.0, sign * logits), weights) for sign in (-1.0, 1.0))
            combined = right - wrong
        else:
            combined = logits.max(0) if combine == "max" else np.tensordot(weights, logits, 1)
    else:
        logs = log_probabilities(views.logits)
        if combine == "mean":
            combined = _log_mean_exp(logs, weights)
        else:
            combined = log_probabilities(logs.max(0) if combine == "max" else np.tensordot(weights, logs, 1))
    return Predictions(*views)._replace(logits=combined.astype(np.float32))


def _log_mean_exp(logs: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """log of sum_v weights[v] exp(logs[v]): float64 [v, n, c] -> [n, c]."""
    counted = weights > 0.0
    logs = logs[counted]
    largest = logs.max(0)
    return np.log(np.tensordot(weights[counted], np.exp(logs - largest), 1)) + largest


def _weights(num_views: int, combine: Combine, beta: float | None) -> np.ndarray:
    """The weight of each view, the plain one first: float64 [num_views + 1], summing to 1."""
    if combine not in get_args(Combine):
        raise ValueError(f"combine={combine!r} is not known; choose one of {', '.join(get_args(Combine))}")
    if beta is not None and not 0.0 <= beta <= 1.0:
        raise ValueError(f"beta={beta!r} must lie in [0, 1]: it is the weight of the plain view")
    if beta is not None and combine == "max":
        raise ValueError(f"beta={beta!r} is a weight in a mean, and combine='max' has none; leave it None")
    if beta is None or num_views < 1:
        return np.full(num_views + 1, 1.0 / (num_views + 1))
    return np.array([beta, *[(1.0 - beta) / num_views] * num_views])


def presized_loader(loader: Loader, index: np.ndarray) -> Loader:
    """A loader of presized pictures of these examples in the same order, each decoded once as it passes.

    With a mesh they are divided among the shards as the loader's own are; without, a sharded loader sees all of them.
    """
    divided = loader.mesh is not None
    whole = Loader(
        loader.dataset,
        batch_size=loader.batch_size if divided else loader.local_batch_size,
        image_size=loader.preprocess.image_size,
        train=False,
        preprocess=loader.preprocess,
        presized=True,
        cache="none",
        num_threads=loader.num_threads,
        mesh=loader.mesh,
    )
    whole = whole.part(*loader.shard) if divided else whole
    return whole.without(np.setdiff1d(np.arange(len(loader.dataset)), index).tolist())
