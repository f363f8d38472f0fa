"""Activations of a data set at a cut of the network, computed once, and their batches in the order of `epoch_order`."""

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal

import jax
import numpy as np
from jax.sharding import Mesh

from jaxclf.config import AugmentName, Preprocess
from jaxclf.data.array_file import ArrayOnDisk
from jaxclf.data.batches import Array, Batch, EpochLoader, LoaderState, Sampling
from jaxclf.data.cache import pictures_dir
from jaxclf.data.loader import Loader
from jaxclf.data.order import PADDING, epoch_views

#: Where activations are kept: in the device's memory, in the host's, or in a file of which rows are read.
Placement = Literal["device", "host", "disk"]


def features_dir() -> Path:
    """The user's own folder for activations: `$XDG_CACHE_HOME/jaxclf/features`, or under `~/.cache`."""
    return pictures_dir().parent / "features"


@jax.jit
def _take(rows: jax.Array, numbers: jax.Array) -> jax.Array:
    return rows.at[numbers].get(mode="clip")


class ActivationDataset:
    """What a frozen part of a network made of a data set: activations, labels, and each one's place in the source.

    Made by `jaxclf.extract_features`; or from arrays of your own. Example i has `num_views` rows, i * num_views and
    on: the first is the plain picture's, the others are of its augmented views.

    Args:
      activations: [n * num_views, ...], floating: a JAX array (kept on the device), a NumPy array (in the host's
        memory) or an `ArrayOnDisk`.
      labels: int [n], class numbers; or multi-label: float [n, num_classes].
      classes: class names.
      cut: where in the network they come from.
      num_views: rows per example; more than one makes it an augmented bank.
      augment: how the views beyond the first were made; "none" without any.
      index: int [n], positions in the source; `None` numbers them.
      preprocess: of the pictures they were made from.
      names: what each example is called; `None` takes the number.
      key: what they were made from, in one word; "" where that is not known.
      mesh: devices that share each batch, see `jaxclf.data.devices`; `None`: the default device.

    Raises:
      ValueError: for counts that do not fit, or labels that are no class numbers.
    """

    def __init__(
        self,
        activations: jax.Array | np.ndarray | ArrayOnDisk,
        labels: np.ndarray,
        *,
        classes: Sequence[str],
        cut: str,
        num_views: int = 1,
        augment: AugmentName = "none",
        index: np.ndarray | None = None,
        preprocess: Preprocess | None = None,
        names: Callable[[int], str] = str,
        key: str = "",
        mesh: Mesh | None = None,
    ):
        given = np.asarray(labels)
        self.multi_label = given.ndim == 2
        self.labels = given.astype(np.float32 if self.multi_label else np.int32)
        if not self.multi_label and (self.labels != given).any():
            raise ValueError(f"labels must be whole class numbers, or [{len(given)}, num_classes] of 0 and 1")
        if num_views < 1 or (num_views > 1) != (augment != "none"):
            raise ValueError(f"num_views={num_views} with augment={augment!r}: an augmented bank has 2 views or more")
        if not len(self.labels) or activations.shape[0] != len(self.labels) * num_views:
            raise ValueError(
                f"{activations.shape[0]} activations for {len(self.labels)} labels with num_views={num_views}: there "
                "must be one row per example and view, and at least one example"
            )
        self.activations = activations
        self.classes = tuple(classes)
        self.cut = cut
        self.num_views, self.augment = num_views, augment
        self.index = np.arange(len(self.labels), dtype=np.int32) if index is None else np.asarray(index, np.int32)
        self.preprocess = preprocess or Preprocess()
        self.dtype = np.dtype(activations.dtype)
        self.key, self.mesh = key, mesh
        self._names = names

    def __len__(self) -> int:
        return len(self.labels)

    def name(self, index: int) -> str:
        """What the example at position `index` of the source is called."""
        return self._names(index)

    @property
    def placement(self) -> Placement:
        """Where the activations are."""
        if isinstance(self.activations, ArrayOnDisk):
            return "disk"
        return "device" if isinstance(self.activations, jax.Array) else "host"

    @property
    def nbytes(self) -> int:
        """Bytes of all activations."""
        return math.prod(self.activations.shape) * self.dtype.itemsize

    def rows(self, numbers: np.ndarray) -> Array:
        """The activations in these rows: [len(numbers), ...]."""
        if isinstance(self.activations, ArrayOnDisk):
            return np.stack([self.activations[int(number)] for number in numbers])
        if isinstance(self.activations, jax.Array):
            return _take(self.activations, numbers)
        return self.activations[numbers]


class ActivationBatches(Iterator[Batch]):
    """The batches of one epoch; `state` says where it is and `ActivationLoader.restore` goes on there."""

    def __init__(self, loader: "ActivationLoader", state: LoaderState):
        self.state = state
        self._loader = loader
        self._positions, self._rows = loader.epoch_rows(state.epoch)
        self._end = len(self._rows)

    def __next__(self) -> Batch:
        if self.state.batch >= self._end:
            raise StopIteration
        dataset, number = self._loader.dataset, self.state.batch
        positions = self._positions[number]
        batch = Batch(
            inputs=dataset.rows(self._rows[number]),
            labels=dataset.labels[positions],  # of a padded row: the last example's, which the mask leaves out
            mask=(positions != PADDING).astype(np.float32),
            index=np.where(positions == PADDING, PADDING, dataset.index[positions]).astype(np.int32),
        )
        self.state = LoaderState(self.state.epoch, number + 1)
        return batch

    def close(self) -> None:
        """No more batches come."""
        self._end = 0


class ActivationLoader(EpochLoader[ActivationBatches]):
    """Batches of cached activations; used like a `Loader`, and made like one it hands out the same examples.

    Args:
      dataset: from `jaxclf.extract_features`.
      batch_size: rows per batch.
      train: shuffled by `epoch_order(seed, k)`, every example in each epoch, in ceil(n / batch_size) batches of equally
        many examples but for one, padded and masked; otherwise in the source's order, only the last batch padded.
      seed: of the order, and of which view of a bank is shown when.
      sampling: "shuffle", or "balanced": classes equally often, with repetition (`jaxclf.data.order.balanced_order`).
      augmented: each epoch shows one view per example, drawn at random (`jaxclf.data.order.epoch_views`); otherwise the
        plain one. Default: in training, from a bank.

    Raises:
      ValueError: for a batch size below one, or for augmentation without a bank.
    """

    presized = False

    def __init__(
        self,
        dataset: ActivationDataset,
        *,
        batch_size: int,
        train: bool,
        seed: int = 0,
        sampling: Sampling = "shuffle",
        augmented: bool | None = None,
    ):
        super().__init__(batch_size, train, seed, sampling)
        self.dataset = dataset
        self.classes, self.labels, self.kept = dataset.classes, dataset.labels, dataset.index
        self.cut, self.mesh = dataset.cut, dataset.mesh
        self.preprocess = dataset.preprocess
        self.augmented = train and dataset.num_views > 1 if augmented is None else augmented
        if self.augmented:
            check_bank(dataset, "augmentation")
        self._view = 0

    @property
    def augment(self) -> AugmentName:
        """The augmentation that its batches show; a phase trained from it must ask for this one."""
        return self.dataset.augment if self.augmented else "none"

    def view(self, number: int) -> "ActivationLoader":
        """A loader that shows view `number` of every example: 0 is the plain one, the others serve TTA.

        Raises:
          ValueError: for a view that is not there; from a plain cache, naming the bank that would have it.
        """
        if number:
            check_bank(self.dataset, "test-time augmentation")
        if not 0 <= number < self.dataset.num_views:
            raise ValueError(f"view={number} must lie in 0 .. {self.dataset.num_views - 1}: the bank holds no other")
        other = copy.copy(self)
        other.augmented, other._view = False, number
        return other

    def epoch_rows(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Which examples an epoch's batches hold, and which rows: positions in the data set (-1: padding) and rows.

        Returns:
          int32 [batches, batch_size], twice.
        """
        dataset = self.dataset
        positions = self.epoch_positions(epoch)
        views: np.ndarray | int = self._view
        if self.augmented:
            drawn = epoch_views(self.seed, epoch, int(dataset.index.max()) + 1, dataset.num_views)
            views = drawn[dataset.index[positions]]
        rows = np.maximum(positions * dataset.num_views + views, 0)
        return positions, np.where(positions == PADDING, 0, rows).astype(np.int32)

    def epoch(self, epoch: int = 0, *, start_batch: int = 0) -> ActivationBatches:
        return ActivationBatches(self, LoaderState(epoch, start_batch))


#: What `fit`, `predict` and `find_lr` take.
AnyLoader = Loader | ActivationLoader


def check_bank(dataset: ActivationDataset, what: str) -> None:
    """Raises ValueError unless the data set is an augmented bank, naming the way out."""
    if dataset.num_views == 1:
        raise ValueError(
            f"{what} has no effect on cached activations of plain pictures (cut {dataset.cut!r}). Give the Loader of "
            "the pictures, or cache an augmented bank: extract_features(..., num_views=5, augment='side_on')"
        )


def check_augment(loader: AnyLoader, augment: AugmentName) -> None:
    """Raises ValueError if activations do not show the augmentation that is asked for. Pictures can show any."""
    if not isinstance(loader, ActivationLoader) or augment == loader.augment:
        return
    if augment != "none":
        check_bank(loader.dataset, f"augment={augment!r}")
        if augment != loader.dataset.augment:
            raise ValueError(
                f"augment={augment!r}, but the bank was made with {loader.dataset.augment!r}; make it anew"
            )
    way = "augmented=True" if augment != "none" else "augmented=False"
    raise ValueError(f"augment={augment!r}, but the loader shows {loader.augment!r}: make it with {way}")
