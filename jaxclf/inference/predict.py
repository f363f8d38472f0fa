"""predict and evaluate: a classifier over a loader's batches, in evaluation mode."""

import collections
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

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
    """A jitted `(variables, inputs) -> float32 logits [b, c]` in evaluation mode.

    Args:
      model: the classifier.
      preprocess: normalisation of pictures.
      start: the cut that inputs come from; None: they are pictures, uint8 [b, s, s, 3].
    """

    @jax.jit
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
    predict_step: PredictStep | None = None,
    on_progress: OnProgress | None = None,
    mesh: Mesh | None = None,
) -> Predictions:
    """Runs a classifier over a loader's examples, in evaluation mode.

    Args:
      model, variables: the classifier.
      loader: made with `train=False`; of pictures or of cached activations.
      predict_step: from `make_predict_step` with `start=loader.cut`, when one is compiled already.
      on_progress: called with (examples done, examples in all) after each batch.
      mesh: devices that share each batch, see `jaxclf.data.devices`; None: the default device.

    Returns:
      One row per example, in the loader's order, padding removed. All logits are fetched at once, at the end;
      with several processes (and a mesh) all of them, by each.
    """
    step = predict_step or make_predict_step(model, preprocess=loader.preprocess, start=loader.cut)
    variables = replicate(variables, mesh)
    logits, batches = [], []
    for batch in to_device(loader, mesh=mesh, batch_size=loader.batch_size):
        logits.append(step(variables, batch.inputs))
        batches.append((batch.labels, batch.mask, batch.index))
        if on_progress is not None:
            jax.block_until_ready(logits[-2:-1])  # the batch before: the device stays busy with this one
            on_progress(min(len(logits) * loader.batch_size, loader.num_examples), loader.num_examples)
    fetched_logits, fetched = fetch((logits, batches))
    labels, mask, index = (np.concatenate(parts) for parts in zip(*fetched, strict=True))
    keep = mask > 0
    return Predictions(np.concatenate(fetched_logits)[keep], labels[keep], index[keep])


def evaluate(
    model: Classifier,
    variables: Mapping[str, Any],
    loader: AnyLoader,
    *,
    predict_step: PredictStep | None = None,
    multi_label: bool = False,
    threshold: float = 0.5,
    mesh: Mesh | None = None,
) -> dict[str, float]:
    """`loss`, `accuracy` and `num_examples` over a loader's examples: sums and counts, divided once.

    With `multi_label`, photos have several labels: see `jaxclf.metrics.summarize`, which takes `threshold`.
    """
    predictions = predict(model, variables, loader, predict_step=predict_step, mesh=mesh)
    return summarize(predictions, multi_label=multi_label, threshold=threshold)
