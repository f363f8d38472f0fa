"""Batches, and what the loaders of pictures and of activations share: epoch k is a function of k."""

from collections.abc import Iterator
from typing import Generic, Literal, NamedTuple, TypeVar, get_args

import jax
import numpy as np

from jaxclf.data.order import PADDING, balanced_order, batch_order, epoch_order, num_batches

#: How training examples are drawn: each once per epoch, or classes equally often, with repetition.
Sampling = Literal["shuffle", "balanced"]

#: On the host when it leaves the loader, on the device when a step gets it.
Array = np.ndarray | jax.Array


class Batch(NamedTuple):
    """One step's worth of examples; always `batch_size` rows, so that nothing is compiled twice.

    Attributes:
      inputs: uint8 [b, h, w, 3]; or cached activations, float [b, ...], see `jaxclf.data.activations`.
      labels: int32 [b], class numbers; or float32 [b, c], 0 or 1 per class, of a multi-label source.
      mask: float32 [b], 1 for an example and 0 for padding.
      index: int32 [b], the example's position in its data source, -1 for padding.
    """

    inputs: Array
    labels: Array
    mask: Array
    index: Array  # type: ignore[assignment]  # the field hides tuple.index, which nobody needs here


class LoaderState(NamedTuple):
    """Where a loader is: the next batch is number `batch` of epoch `epoch`. Two integers, ready for JSON."""

    epoch: int
    batch: int


BatchIterator = TypeVar("BatchIterator", bound=Iterator[Batch])


class EpochLoader(Generic[BatchIterator]):
    """A loader holds no position: `epoch(k)` is a function of k.

    Attributes:
      kept: int32 [n], positions in the data source of the examples it hands out.
      labels: of these examples, as in `DataSource`.
      batch_size, train, seed, sampling: see `jaxclf.data.loader.Loader`.
    """

    kept: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]

    def __init__(self, batch_size: int, train: bool, seed: int, sampling: Sampling):
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size} must be at least 1")
        if sampling not in get_args(Sampling):
            raise ValueError(f"sampling={sampling!r} must be one of {', '.join(get_args(Sampling))}")
        self.batch_size, self.train, self.seed, self.sampling = batch_size, train, seed, sampling

    def __len__(self) -> int:
        """Batches per epoch."""
        return num_batches(len(self.kept), self.batch_size)

    @property
    def num_examples(self) -> int:
        """Examples of one epoch, over all shards."""
        return len(self.kept)

    def epoch_positions(self, epoch: int) -> np.ndarray:
        """int32 [batches, batch_size]: positions in `kept` of what the batches of an epoch hold, -1 for padding."""
        if not self.train:
            order = np.arange(len(self.kept), dtype=np.int32)
        elif self.sampling == "balanced":
            order = balanced_order(self.seed, epoch, self.labels, len(self.classes))
        else:
            order = epoch_order(self.seed, epoch, len(self.kept))
        return batch_order(order, self.batch_size, even=self.train)

    def order(self, epoch: int) -> np.ndarray:
        """int32 [batches * batch size]: positions in the data source (of this shard's rows), -1 for padding."""
        positions = self.epoch_positions(epoch)
        return np.where(positions == PADDING, PADDING, self.kept[positions]).astype(np.int32).reshape(-1)

    def epoch(self, epoch: int = 0, *, start_batch: int = 0) -> BatchIterator:
        """The batches of epoch `epoch`, from number `start_batch` on; `state` of the iterator says where it is."""
        raise NotImplementedError

    def restore(self, state: LoaderState) -> BatchIterator:
        """Goes on where the iterator's `state` said: just the batches that had not been handed out."""
        return self.epoch(state.epoch, start_batch=state.batch)

    def __iter__(self) -> BatchIterator:
        """The batches of epoch 0; meant for evaluation, where every epoch is the same."""
        return self.epoch(0)
