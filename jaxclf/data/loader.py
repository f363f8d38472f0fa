"""Batches of a data source in the order of `epoch_order`, assembled by Grain's threads."""

import copy
import dataclasses
import functools
import os
from collections.abc import Iterator, Sequence
from typing import Any, Literal, get_args

import jax
import numpy as np
from jax.sharding import Mesh

from jaxclf._progress import OnProgress
from jaxclf.config import Preprocess, Settings
from jaxclf.data.batches import Batch, EpochLoader, LoaderState, Sampling
from jaxclf.data.cache import (
    BadImage,
    DiskCache,
    OnBadImage,
    Prepared,
    RamCache,
    default_num_threads,
    fits_in_memory,
)
from jaxclf.data.decode import PRESIZE_RATIO, evaluation_pixels, presize, presized_pixels
from jaxclf.data.manifest import dataset_key, record_fingerprints
from jaxclf.data.order import PADDING
from jaxclf.data.sources import DataSource, Example

#: Where prepared pictures are kept: "memory", "disk", "none" (decoded at every access), or the first two by size.
CacheKind = Literal["auto", "memory", "disk", "none"]
#: Part of every key of a cache on disk: pictures written by another form of the code are not used.
CACHE_VERSION = 1


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
            return index, Example(np.zeros((self.side, self.side, 3), np.uint8), np.zeros_like(self.source.labels[0]))
        return index, self.source[index]


def _stack(rows: list[tuple[int, Example]]) -> Batch:
    index = np.array([position for position, _ in rows], np.int32)
    return Batch(
        inputs=np.stack([np.asarray(example.image) for _, example in rows]),
        labels=np.stack([np.asarray(example.label) for _, example in rows]),
        mask=(index != PADDING).astype(np.float32),
        index=index,
    )


class Batches(Iterator[Batch]):
    """The batches of one epoch. `state` says where it is and `Loader.restore` goes on there; `close` ends its threads.

    Leaving it to be collected closes it too.
    """

    def __init__(self, loader: "Loader", state: LoaderState):
        import grain  # takes seconds to import, so only where it is used

        self.state = state
        order = loader.order(state.epoch)[state.batch * loader.local_batch_size :]
        batches = grain.MapDataset.source(_Ordered(loader.prepared, order, loader.prepared.side)).batch(
            loader.local_batch_size, batch_fn=_stack
        )
        options = grain.ReadOptions(num_threads=loader.num_threads, prefetch_buffer_size=2 * loader.num_threads)
        self._iterator: Any = iter(batches.to_iter_dataset(options))

    def __next__(self) -> Batch:
        if self._iterator is None:
            raise StopIteration
        try:
            batch = next(self._iterator)
        except BaseException:
            self.close()
            raise
        self.state = LoaderState(self.state.epoch, self.state.batch + 1)
        return batch

    def close(self) -> None:
        """Ends the threads; no more batches come."""
        iterator, self._iterator = self._iterator, None
        if iterator is not None:
            iterator.close()

    def __del__(self) -> None:
        if getattr(self, "_iterator", None) is not None:
            self.close()


class Loader(EpochLoader[Batches]):
    """Batches of a data source. Holds no position: `epoch(k)` is a function of k.

    `cut` is None: the batches hold pictures, and not activations as those of an `ActivationLoader` do.

    Args:
      dataset: any `DataSource`.
      batch_size: rows per batch, over all shards.
      image_size: side of the network's input in pixels.
      train: shuffled by `epoch_order(seed, k)`, every example in each epoch, in ceil(n / batch_size) batches of equally
        many examples but for one, padded and masked; otherwise in the source's order, only the last batch padded.
      seed: of the order.
      preprocess: mean, interpolation, crop fraction, resize; its `image_size` is replaced by `image_size`.
      presized: hand out pictures a little larger than the input, for augmentation on the device; default: as `train`.
      cache: where prepared pictures are kept: "memory"; "disk", found again by later runs in the user's cache folder; a
        `Path`, the same in that folder; "none"; "auto" takes memory when they fit into a quarter of it, else the disk.
      sampling: "shuffle", or "balanced": classes equally often, with repetition (`jaxclf.data.order.balanced_order`).
      num_threads: decoder threads; `None` takes one per core.
      mesh: devices that share each batch, see `jaxclf.data.devices`; `None`: the default device.

    Raises:
      ValueError: for an empty data set, a batch size below one.
    """

    cut: None = None

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
        cache: CacheKind | os.PathLike[str] = "auto",
        sampling: Sampling = "shuffle",
        num_threads: int | None = None,
        mesh: Mesh | None = None,
    ):
        super().__init__(batch_size, train, seed, sampling)
        if len(dataset) == 0:
            raise ValueError("the data set is empty: there is nothing to load")
        folder = None if isinstance(cache, str) else cache
        cache = cache if isinstance(cache, str) else "disk"
        if cache not in get_args(CacheKind):
            raise ValueError(f"cache={cache!r} must be one of {', '.join(get_args(CacheKind))}")
        self.dataset = dataset
        self.local_batch_size = batch_size
        self.shard, self.mesh = (0, 1), mesh
        self.classes, self.labels = dataset.classes, dataset.labels
        self.num_threads = num_threads or default_num_threads()
        self.preprocess = dataclasses.replace(preprocess or Preprocess(), image_size=image_size)
        self.presized = train if presized is None else presized
        self.kept = np.arange(len(dataset), dtype=np.int32)
        side = presize(image_size) if self.presized else image_size
        if cache == "auto":
            cache = "memory" if fits_in_memory(len(dataset), side) else "disk"
        self.cache: CacheKind = cache
        self.prepared = self._prepare(side, folder)

    def part(self, index: int, num_shards: int) -> "Loader":
        """This loader's part of every batch, rows [i * b / n, (i + 1) * b / n); it shares this one's cache.

        All parts have equally many batches, and together they hold just what the whole loader does.

        Raises:
          ValueError: for a batch that cannot be divided so, or a part that does not exist.
        """
        if num_shards < 1 or self.batch_size % num_shards:
            raise ValueError(f"batch_size={self.batch_size} cannot be divided into num_shards={num_shards} equal parts")
        if not 0 <= index < num_shards:
            raise ValueError(f"index={index} must lie in 0 .. {num_shards - 1}")
        other = copy.copy(self)
        other.shard, other.local_batch_size = (index, num_shards), self.batch_size // num_shards
        return other

    def _prepare(self, side: int, folder: os.PathLike[str] | None) -> Prepared:
        function = presized_pixels if self.presized else evaluation_pixels
        transform = functools.partial(function, preprocess=self.preprocess)
        if self.cache != "disk":
            return (RamCache if self.cache == "memory" else Prepared)(self.dataset, transform, side)
        what = dataclasses.asdict(self.preprocess) | {"mean": None, "std": None}  # applied later, on the device
        key = dataset_key(
            record_fingerprints(self.dataset),
            version=CACHE_VERSION,
            pixels=function.__name__,
            presize=PRESIZE_RATIO,
            preprocess=what,
        )
        return DiskCache(self.dataset, transform, side, key=key, folder=folder)

    def fill_cache(
        self, on_progress: OnProgress | None = None, *, on_bad_image: OnBadImage = "error"
    ) -> tuple[BadImage, ...]:
        """Decodes every picture now, so that a damaged one is found before training starts.

        Args:
          on_progress: called with (pictures done, pictures in all).
          on_bad_image: "error" raises for the first picture that cannot be read; "skip" goes on.

        Returns:
          The pictures that could not be read, with "skip"; hand their positions to `without`.

        Raises:
          ValueError: naming the picture.
        """
        return self.prepared.fill(num_threads=self.num_threads, on_progress=on_progress, on_bad_image=on_bad_image)

    def without(self, indices: Sequence[int]) -> "Loader":
        """A loader that leaves out the examples at these positions of the data source, and shares this one's cache.

        Raises:
          ValueError: if nothing would be left.
        """
        other = copy.copy(self)
        other.kept = np.setdiff1d(self.kept, np.asarray(indices, np.int32)).astype(np.int32)
        other.labels = self.dataset.labels[other.kept]
        if len(other.kept) == 0:
            raise ValueError("no picture of the data set can be used: there is nothing to load")
        return other

    def in_order(self) -> "Loader":
        """A loader of the same examples in the source's order, the last batch padded; shares this one's cache."""
        other = copy.copy(self)
        other.train = False
        return other

    def mixed(self, least: int) -> "Loader":
        """A loader of the same examples, each once an epoch, in the order of seed 0 whatever this one's is.

        Its batches hold at least `least` rows, a multiple of this one's batch size; it shares this one's cache.
        """
        other, times = copy.copy(self), -(-least // self.batch_size)
        other.train, other.seed, other.sampling = True, 0, "shuffle"
        other.batch_size, other.local_batch_size = self.batch_size * times, self.local_batch_size * times
        return other

    @property
    def pixels(self) -> str:
        """How pictures become the pixels of a batch: the name of the function in `jaxclf.data.decode`."""
        return (presized_pixels if self.presized else evaluation_pixels).__name__

    def epoch_positions(self, epoch: int) -> np.ndarray:
        """int32 [batches, local batch size]: the rows of this shard, see `EpochLoader.epoch_positions`."""
        start = self.shard[0] * self.local_batch_size
        return super().epoch_positions(epoch)[:, start : start + self.local_batch_size]

    def epoch(self, epoch: int = 0, *, start_batch: int = 0) -> Batches:
        if self.cache == "disk":
            self.fill_cache()
        return Batches(self, LoaderState(epoch, start_batch))


def loader_for(
    source: DataSource,
    settings: Settings,
    preprocess: Preprocess,
    *,
    train: bool,
    presized: bool | None = None,
    cache: CacheKind | None = None,
    mesh: Mesh | None = None,
) -> Loader:
    """The loader of a run with these settings: batch size, seed, sampling and cache are theirs.

    Args:
      source: the pictures.
      settings: of the run.
      preprocess: with the size of the network's input.
      train, presized: as for `Loader`.
      cache: where pictures are kept, in place of what the settings say.
      mesh: devices that share each batch. Of several processes each gets its part of every batch.
    """
    return Loader(
        source,
        batch_size=settings.batch(len(source)),
        image_size=preprocess.image_size,
        train=train,
        seed=settings.seed,
        preprocess=preprocess,
        presized=presized,
        cache=settings.cache if cache is None else cache,
        sampling=settings.sampling,
        mesh=mesh,
    ).part(jax.process_index(), jax.process_count())
