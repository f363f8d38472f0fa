"""The one source of order: which example comes when, and in which part, is a function of (seed, epoch, labels)."""

from collections.abc import Iterator

import numpy as np

#: Position in an order that stands for a padded row.
PADDING = -1


def _stream(*words: int) -> np.random.RandomState:
    """NumPy's frozen Mersenne Twister stream; words must not end in 0 where shorter ones exist (0 pads them)."""
    return np.random.RandomState(np.random.MT19937(np.random.SeedSequence(words)))


def _check_counts(**values: int) -> None:
    for name, value in values.items():
        if value < 0:
            raise ValueError(f"{name}={value} must not be negative")


def epoch_order(seed: int, epoch: int, num_examples: int) -> np.ndarray:
    """The shuffled order of one epoch, a pure function of its arguments.

    Image loaders and cached activations both take their batches from here, so both see the same ones. The generator is
    NumPy's frozen Mersenne Twister stream (`RandomState`), whose output no NumPy release may change.

    Args:
      seed: integer >= 0.
      epoch: epoch number >= 0, counted from the start of the run, so that phases do not repeat each other's order.
      num_examples: >= 0.

    Returns:
      int32 [num_examples], a permutation of 0 .. num_examples - 1.

    >>> sorted(epoch_order(0, 3, 5).tolist())
    [0, 1, 2, 3, 4]
    >>> bool((epoch_order(0, 3, 50) == epoch_order(0, 4, 50)).all())
    False
    """
    _check_counts(seed=seed, epoch=epoch, num_examples=num_examples)
    return _stream(seed, epoch).permutation(num_examples).astype(np.int32)


def balanced_order(seed: int, epoch: int, labels: np.ndarray, num_classes: int) -> np.ndarray:
    """One epoch of weighted sampling with replacement: p(example) = 1 / (classes present * size of its class).

    Every class that has examples is expected equally often, however unbalanced they are. As many draws as there are
    examples, so an epoch keeps its length; some examples come several times, others not at all. The stream is as
    frozen as that of `epoch_order`, and independent of it.

    Args:
      seed, epoch: as for `epoch_order`.
      labels: int [n], class numbers in 0 .. num_classes - 1.
      num_classes: >= 1.

    Returns:
      int32 [n], indices in 0 .. n - 1.

    Raises:
      ValueError: for a negative argument, labels outside the classes, or multi-label labels, whose classes cannot be
        balanced one by one.

    >>> labels = np.array([0] * 90 + [1] * 10)
    >>> order = balanced_order(0, 0, labels, 2)
    >>> len(order), bool(40 < (labels[order] == 1).sum() < 60)
    (100, True)
    """
    _check_counts(seed=seed, epoch=epoch)
    labels = np.asarray(labels)
    if labels.ndim != 1:
        raise ValueError(f"balanced sampling needs one label per example; got labels of shape {list(labels.shape)}")
    if len(labels) == 0:
        return np.zeros(0, np.int32)
    if labels.min() < 0 or labels.max() >= num_classes:
        raise ValueError(
            f"balanced sampling needs labels in 0 .. {num_classes - 1}; found {labels.min()} .. {labels.max()}"
        )
    present, counts = np.unique(labels, return_counts=True)
    members = np.argsort(labels, kind="stable")  # class by class
    first = np.cumsum(counts) - counts
    generator = _stream(seed, epoch, 1)
    drawn = generator.randint(0, len(present), len(labels))
    within = np.floor(generator.random_sample(len(labels)) * counts[drawn]).astype(np.int64)
    return members[first[drawn] + within].astype(np.int32)


def num_batches(num_examples: int, batch_size: int) -> int:
    """Batches per epoch, ceil(n / b): nothing is left out.

    >>> num_batches(10, 4), num_batches(8, 4), num_batches(3, 4)
    (3, 2, 1)
    """
    return -(-num_examples // batch_size)


def batch_order(order: np.ndarray, batch_size: int, *, even: bool) -> np.ndarray:
    """An epoch's order, int32 [n], padded (with `PADDING`) to whole batches: int32 [num_batches, batch_size].

    Args:
      order: what the epoch shows; the rows of all batches but the padding are this, in this order.
      batch_size: rows of each batch.
      even: False fills up every batch but the last. True, for training, deals the padding out: batches differ by one
        real row at most, and so do equal parts of a batch (of devices, of accumulation). A last batch of one or two
        would have no statistics to speak of for BatchNorm, and be as long a step as any other.

    >>> batch_order(np.arange(5, dtype=np.int32), 4, even=False).tolist()
    [[0, 1, 2, 3], [4, -1, -1, -1]]
    >>> batch_order(np.arange(5, dtype=np.int32), 4, even=True).tolist()
    [[0, 1, 2, -1], [3, -1, 4, -1]]
    """
    count = num_batches(len(order), batch_size)
    batches = np.full((count, batch_size), PADDING, np.int32)
    if not even:
        batches.reshape(-1)[: len(order)] = order
        return batches
    for batch, rows in zip(batches, np.array_split(order, max(count, 1)), strict=False):
        batch[np.arange(len(rows)) * batch_size // max(len(rows), 1)] = rows
    return batches


def epoch_views(seed: int, epoch: int, num_examples: int, num_views: int) -> np.ndarray:
    """Which of its `num_views` stored views each example shows in one epoch, all equally likely.

    Entry i is a function of (seed, epoch, i) and `num_views` (>= 1) alone: not of how many examples there are, their
    order or the batch size. The stream is as frozen as that of `epoch_order`, and independent of it.

    Returns:
      int32 [num_examples], numbers in 0 .. num_views - 1.

    >>> bool((epoch_views(0, 2, 5, 3) == epoch_views(0, 2, 9, 3)[:5]).all())
    True
    """
    _check_counts(seed=seed, epoch=epoch, num_examples=num_examples)
    if num_views < 1:
        raise ValueError(f"num_views={num_views} must be at least 1")
    return np.floor(_stream(seed, epoch, 2).random_sample(num_examples) * num_views).astype(np.int32)


def stratified_split(
    labels: np.ndarray, *, valid_fraction: float = 0.2, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Splits indices so that every class has its share on both sides.

    Each class gives round(valid_fraction * its count) examples to validation, but at least one to each side. Of
    multi-label labels, each combination of classes gives round(valid_fraction * its count) and always keeps one, so
    rare combinations, those with a single example among them, stay in training.

    Args:
      labels: int [n], one class number per example; or [n, num_classes] of zeros and ones.
      valid_fraction: in (0, 1).
      seed: integer >= 0.

    Returns:
      (train, valid): sorted int32 index arrays, disjoint, together 0 .. n - 1.

    Raises:
      ValueError: for a fraction outside (0, 1), a class with a single example, an unknown label (-1), or multi-label
        labels of which no combination occurs often enough to give an example.

    >>> train, valid = stratified_split(np.array([0, 0, 0, 0, 1, 1]), valid_fraction=0.25)
    >>> len(train), len(valid)
    (4, 2)
    """
    if not 0 < valid_fraction < 1:
        raise ValueError(f"valid_fraction={valid_fraction} must lie between 0 and 1, both excluded")
    labels = np.asarray(labels)
    least = 1 if labels.ndim == 1 else 0
    valid: list[np.ndarray] = []
    for members, generator in _strata(labels, seed):
        count = min(max(round(valid_fraction * len(members)), least), len(members) - 1)
        valid.append(generator.permutation(members)[:count])
    chosen = np.sort(np.concatenate(valid)) if valid else np.zeros(0, np.int64)
    if len(labels) and not len(chosen):
        raise ValueError(
            f"no combination of labels occurs often enough to give valid_fraction={valid_fraction} of it to "
            "validation; raise the fraction or say which examples are for validation"
        )
    rest = np.setdiff1d(np.arange(len(labels)), chosen)
    return rest.astype(np.int32), chosen.astype(np.int32)


def k_folds(labels: np.ndarray, num_folds: int, seed: int = 0) -> np.ndarray:
    """The number of the fold in which each example is held out, every class spread evenly.

    The shuffled members of each class are dealt to the folds in turn, and the next class goes on where the last one
    ended: the share of a class in two folds differs by one example at most, and so do the folds' sizes. Multi-label
    labels are dealt by combination of classes.

    Args:
      labels: int [n], one class number per example; or [n, num_classes] of zeros and ones.
      num_folds: >= 2, at most n.
      seed: integer >= 0.

    Returns:
      int32 [n], fold numbers in 0 .. num_folds - 1.

    Raises:
      ValueError: for a number of folds outside 2 .. n, a class with a single example, or an unknown label (-1).

    >>> np.bincount(k_folds(np.array([0] * 6 + [1] * 3), 3)).tolist()
    [3, 3, 3]
    """
    labels = np.asarray(labels)
    if not 2 <= num_folds <= len(labels):
        raise ValueError(f"num_folds={num_folds} must lie between 2 and the number of examples ({len(labels)})")
    folds = np.empty(len(labels), np.int32)
    dealt = 0
    for members, generator in _strata(labels, seed):
        folds[generator.permutation(members)] = (dealt + np.arange(len(members))) % num_folds
        dealt += len(members)
    return folds


def _strata(labels: np.ndarray, seed: int) -> Iterator[tuple[np.ndarray, np.random.RandomState]]:
    """The indices of each class, or combination of classes, with a stream of its own: another class moves none."""
    if labels.ndim == 1:
        for label in np.unique(labels):
            members = np.flatnonzero(labels == label)
            if label < 0:
                raise ValueError(f"{len(members)} examples have no label (-1): they cannot be shared out by class")
            if len(members) < 2:
                raise ValueError(
                    f"class number {label} has one example only: it cannot be in training and in validation"
                )
            yield members, _stream(seed, int(label))
    elif len(labels):
        combinations, number = np.unique(labels, axis=0, return_inverse=True)
        order = np.argsort(number.reshape(-1), kind="stable")
        ends = np.cumsum(np.bincount(number.reshape(-1)))
        for combination, members in zip(combinations, np.split(order, ends[:-1]), strict=True):
            yield members, _stream(seed, 2**31, *(np.flatnonzero(combination) + 1).tolist())
