"""Batches of a data source in the order of `epoch_order`, assembled by Grain's threads."""

import dataclasses
import functools
import os
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import numpy as np

from jaxclf.config import Preprocess
from jaxclf.data.cache import Prepared, RamCache, fits_in_memory
from jaxclf.data.decode import evaluation_pixels, presize, presized_pixels
from jaxclf.data.sources import DataSource, Example
from jaxclf.order import epoch_order

#: Position in an order that stands for a padded row.
PADDING = -1


#: On the host when it leaves the loader, on the device when a step gets it.
Array = np.ndarray | jax.Array


class Batch(NamedTuple):
    """One step's worth of examples; always `batch_size` rows, so that nothing is compiled twice.

    Attributes:
      inputs: uint8 [b, h, w, 3].
      labels: int32 [b].
      mask: float32 [b], 1 for an example and 0 for padding.
      index: int32 [b], the example's position in its data source, -1 for padding.
    """

    inputs: Array
    labels: Array
    mask: Array
    index: Array  # type: ignore[assignment]  # the field hides tuple.index, which nobody needs here


def default_num_threads() -> int:
    """Decoder threads: one per core this process may use, at most 16."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(max(cores, 1), 16)


class _Ordered:
    """A source seen through an order: element k is (order[k], example), or a padded row. What Grain reads."""

    def __init__(self, source: DataSource, order: np.ndarray, side: int):
        self.source = source
        self.order = order
        self.side = side

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, position: int) -> tuple[int, Example]:
        index = int(self.order[position])
        if index == PADDING:
            return index, Example(np.zeros((self.side, self.side, 3), np.uint8), 0)
        return index, self.source[index]


def _stack(rows: list[tuple[int, Example]]) -> Batch:
    index = np.array([position for position, _ in rows], np.int32)
    return Batch(
        inputs=np.stack([np.asarray(example.image) for _, example in rows]),
        labels=np.array([example.label for _, example in rows], np.int32),
        mask=(index != PADDING).astype(np.float32),
        index=index,
    )


class Loader:
    """Batches of a data source. Holds no position: `epoch(k)` is a function of k.

    Args:
      dataset: any `DataSource`.
      batch_size: rows per batch.
      image_size: side of the network's input in pixels.
      train: shuffled by `epoch_order(seed, k)`, the last incomplete batch dropped (unless the set is smaller than one
        batch, which is then padded); otherwise in the source's order, the last batch padded and masked.
      seed: of the order.
      preprocess: mean, interpolation, crop fraction; its `image_size` is replaced by `image_size`.
      presized: hand out pictures a little larger than the input, for augmentation on the device; default: as `train`.
      cache: keep prepared pictures in memory when they fit (see `jaxclf.data.cache`).
      num_threads: decoder threads; `None` takes one per core.

    Raises:
      ValueError: for an empty data set or a batch size below one.
    """

    def __init__(
        self,
        dataset: DataSource,
        *,
        batch_size: int,
        image_size: int,
        train: bool,
        seed: int = 0,
        preprocess: Preprocess | None = None,
        presized: bool | None = None,
        cache: bool = True,
        num_threads: int | None = None,
    ):
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size} must be at least 1")
        if len(dataset) == 0:
            raise ValueError("the data set is empty: there is nothing to load")
        self.dataset = dataset
        self.batch_size = batch_size
        self.train = train
        self.seed = seed
        self.classes = dataset.classes
        self.num_threads = num_threads or default_num_threads()
        self.preprocess = dataclasses.replace(preprocess or Preprocess(), image_size=image_size)
        self.presized = train if presized is None else presized
        side = presize(image_size) if self.presized else image_size
        transform = functools.partial(
            presized_pixels if self.presized else evaluation_pixels, preprocess=self.preprocess
        )
        self.cached = cache and fits_in_memory(len(dataset), side)
        self._prepared = (RamCache if self.cached else Prepared)(dataset, transform, side)

    def __len__(self) -> int:
        """Batches per epoch."""
        full, rest = divmod(len(self.dataset), self.batch_size)
        return max(full, 1) if self.train else full + bool(rest)

    @property
    def num_examples(self) -> int:
        """Examples of one epoch (a training epoch leaves out the incomplete last batch)."""
        return min(len(self) * self.batch_size, len(self.dataset))

    def fill_cache(self, on_progress: Callable[[int, int], None] | None = None) -> None:
        """Decodes every picture now, so that a damaged one is found before training starts. Nothing if not cached."""
        if isinstance(self._prepared, RamCache):
            self._prepared.fill(num_threads=self.num_threads, on_progress=on_progress)

    def order(self, epoch: int) -> np.ndarray:
        """int32 [batches * batch_size]: the positions of one epoch in the data source, -1 for padding."""
        number = len(self.dataset)
        order = epoch_order(self.seed, epoch, number) if self.train else np.arange(number, dtype=np.int32)
        total = len(self) * self.batch_size
        return np.concatenate([order, np.full(max(total - number, 0), PADDING, np.int32)])[:total]

    def epoch(self, epoch: int = 0, *, start_batch: int = 0) -> Iterator[Batch]:
        """Yields the batches of epoch `epoch`, from number `start_batch` on. Closing the iterator ends its threads."""
        import grain  # takes seconds to import, so only where it is used

        order = self.order(epoch)[start_batch * self.batch_size :]
        batches = grain.MapDataset.source(_Ordered(self._prepared, order, self._prepared.side)).batch(
            self.batch_size, batch_fn=_stack
        )
        options = grain.ReadOptions(num_threads=self.num_threads, prefetch_buffer_size=2 * self.num_threads)
        iterator = iter(batches.to_iter_dataset(options))
        try:
            yield from iterator
        finally:
            iterator.close()

    def __iter__(self) -> Iterator[Batch]:
        """The batches of epoch 0; meant for evaluation, where every epoch is the same."""
        return self.epoch(0)
