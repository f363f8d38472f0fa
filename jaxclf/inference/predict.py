"""predict and evaluate: a classifier over a loader's batches, in evaluation mode."""

import collections
import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxclf._jax import jit_network
from jaxclf._progress import OnProgress
from jaxclf.augment import normalize, to_float
from jaxclf.config import Preprocess
from jaxclf.data.activations import AnyLoader
from jaxclf.data.batches import Batch
from jaxclf.data.devices import fetch, replicate, shard_batch
from jaxclf.metrics import Predictions, summarize
from jaxclf.models.classifier import Classifier

#: (variables, uint8 [b, h, w, 3] or cached activations) -> float32 logits [b, c].
PredictStep = Callable[[Any, jax.typing.ArrayLike], jax.Array]


def make_predict_step(model: Classifier, *, preprocess: Preprocess, start: str | None = None) -> PredictStep:
    """A jitted `(variables, inputs) -> float32 logits [b, c]` in evaluation mode. Equal arguments give the same one.

    So whoever asks for it, what is compiled is compiled once.

    Args:
      model: the classifier.
      preprocess: normalisation of pictures.
      start: the cut that inputs come from; None: they are pictures, uint8 [b, s, s, 3].
    """
    return _predict_step(model, preprocess, start)


@functools.lru_cache(maxsize=16)
def _predict_step(model: Classifier, preprocess: Preprocess, start: str | None) -> PredictStep:
    @jit_network
    def predict_step(variables: Any, images: jax.typing.ArrayLike) -> jax.Array:
        inputs = jnp.asarray(images)
        if start is None:
            inputs = normalize(to_float(inputs), preprocess.mean, preprocess.std)
        logits = model.apply(variables, inputs, start=start)
        assert isinstance(logits, jax.Array)  # nothing is mutable, so there is nothing beside the logits
        return logits

    return predict_step


def to_device(
    batches: Iterable[Batch], *, ahead: int = 2, mesh: Mesh | None = None, batch_size: int | None = None
) -> Iterator[Batch]:
    """Moves batches to the device, or divides them among those of `mesh`, `ahead` of their use.

    So the copy overlaps with the computation. `batch_size` is that over all processes, as `shard_batch` takes it.
    """
    batches = iter(batches)
    queue: collections.deque[Batch] = collections.deque()
    try:
        for batch in itertools.islice(batches, ahead):
            queue.append(shard_batch(batch, mesh, batch_size=batch_size))
        while queue:
            current = queue.popleft()
            for batch in itertools.islice(batches, 1):
                queue.append(shard_batch(batch, mesh, batch_size=batch_size))
            yield current
    finally:
        close = getattr(batches, "close", None)
        if close is not None:
            close()


def predict(
    model: Classifier,
    variables: Mapping[str, Any],
    loader: AnyLoader,
    *,
    threshold: float = 0.5,
    on_progress: OnProgress | None = None,
) -> Predictions:
    """Runs a classifier over a loader's examples, in evaluation mode.

    Args:
      model, variables: the classifier.
      loader: made with `train=False`; of pictures or of cached activations. The devices of its mesh share each batch.
      threshold: kept with the predictions: from which probability on a label counts, where there can be several.
      on_progress: called with (examples done, examples in all) after each batch.

    Returns:
      One row per example, in the loader's order, padding removed. All logits are fetched at once, at the end;
      with several processes (and a mesh) all of them, by each.
    """
    step = make_predict_step(model, preprocess=loader.preprocess, start=loader.cut)
    variables = replicate(variables, loader.mesh)
    logits, batches = [], []
    for batch in to_device(loader, mesh=loader.mesh, batch_size=loader.batch_size):
        logits.append(step(variables, batch.inputs))
        batches.append((batch.labels, batch.mask, batch.index))
        if on_progress is not None:
            jax.block_until_ready(logits[-2:-1])  # the batch before: the device stays busy with this one
            on_progress(min(len(logits) * loader.batch_size, loader.num_examples), loader.num_examples)
    fetched_logits, fetched = fetch((logits, batches))
    labels, mask, index = (np.concatenate(parts) for parts in zip(*fetched, strict=True))
    keep = mask > 0
    several = loader.dataset.multi_label
    return Predictions(np.concatenate(fetched_logits)[keep], labels[keep], index[keep], several, threshold)


def evaluate(
    model: Classifier, variables: Mapping[str, Any], loader: AnyLoader, *, threshold: float = 0.5
) -> dict[str, float]:
    """`loss`, `accuracy` and `num_examples` over a loader's examples: sums and counts, divided once.

    Where photos can have several labels, those count whose probability reaches the `threshold`, and `f_beta` is a
    figure too: see `jaxclf.metrics.summarize`.
    """
    return summarize(predict(model, variables, loader, threshold=threshold))
