"""BatchNorm's running statistics taken anew over other pictures than those a body was trained on."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxclf._progress import OnProgress, silent
from jaxclf.augment import make_augment, normalize
from jaxclf.config import Preprocess
from jaxclf.data.devices import fetch, replicate
from jaxclf.data.loader import Loader
from jaxclf.inference.predict import to_device
from jaxclf.models.classifier import Classifier
from jaxclf.models.statistics import Moments, norm_moments, with_statistics
from jaxclf.models.trees import Tree

#: Batches have at least so many pictures: what a layer sees follows its batch's statistics, and those of few are noisy.
MIN_BATCH = 64
#: (variables, uint8 images [b, ...], mask [b]) -> moments.
Step = Callable[[Any, Any, Any], Moments]


def recalibrate_batch_norm(
    model: Classifier, variables: Mapping[str, Any], loader: Loader, *, on_progress: OnProgress | None = None
) -> Tree:
    """The variables with the body's running statistics those of a loader's plain pictures (AdaBN).

    One forward pass, in which each layer normalises by its batch's own statistics, as in training. A layer's new mean
    and variance are those of all positions of all pictures together, pooled exactly in float64 (the variance is the
    unbiased one, as in training). What a layer is given depends, but for the first one, a little on which pictures
    share a batch. So those are mixed by `epoch_order(0, 0, n)`, whatever order or sampling the loader has, in equal
    batches of 64 or more: batches of one class each would hide what tells the classes apart. The same pictures give the
    same statistics. Padding counts nothing. Parameters and the head are as they were.

    Args:
      model, variables: the classifier.
      loader: of pictures, each seen once and plain, as evaluation sees it. The devices of its mesh share each batch.
      on_progress: called with (pictures done, pictures in all).

    References: Li et al., Revisiting batch normalization for practical domain adaptation, 2016, arXiv:1603.04779.
    """
    mixed = loader.mixed(MIN_BATCH)
    step = _make_step(model, loader.preprocess)
    on_devices = replicate(dict(variables), loader.mesh)
    pooled: dict[str, tuple[np.ndarray, np.ndarray, float]] = {}
    done, total = 0, len(mixed.kept)
    for batch in to_device(mixed.epoch(0), mesh=mixed.mesh, batch_size=mixed.batch_size):
        found, mask = fetch((step(on_devices, batch.inputs, batch.mask), batch.mask))
        for path, moments in found.items():
            pooled[path] = _pooled(pooled.get(path), *moments)
        done += int(mask.sum())
        (on_progress or silent)(done, total)
    new = {
        path: (jnp.asarray(mean, jnp.float32), jnp.asarray(squares / max(count - 1.0, 1.0), jnp.float32))
        for path, (mean, squares, count) in pooled.items()
    }
    return {**variables, "batch_stats": with_statistics(variables["batch_stats"], new)}


@functools.lru_cache(maxsize=4)
def _make_step(model: Classifier, preprocess: Preprocess) -> Step:
    middle = make_augment("none", preprocess.image_size, shown=preprocess.shown)

    @jax.jit
    def step(variables: Any, images: Any, mask: Any) -> Moments:
        inputs = normalize(middle(jax.random.key(0), images), preprocess.mean, preprocess.std)
        return norm_moments(model, variables, inputs, mask)

    return step


def _pooled(
    before: tuple[np.ndarray, np.ndarray, float] | None, mean: Any, variance: Any, count: Any
) -> tuple[np.ndarray, np.ndarray, float]:
    """Mean, sum of squared deviations and count of what was seen and a batch together (Chan et al., 1983)."""
    mean, count = np.asarray(mean, np.float64), float(count)
    squares = np.asarray(variance, np.float64) * count
    if before is None or not before[2]:
        return mean, squares, count
    total, shift = before[2] + count, mean - before[0]
    share = count / total
    return before[0] + shift * share, before[1] + squares + shift**2 * before[2] * share, total
