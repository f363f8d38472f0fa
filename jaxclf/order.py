"""The one source of order: which example comes when is a function of (seed, epoch)."""

import numpy as np


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

    Raises:
      ValueError: for a negative argument.

    >>> sorted(epoch_order(0, 3, 5).tolist())
    [0, 1, 2, 3, 4]
    >>> bool((epoch_order(0, 3, 50) == epoch_order(0, 4, 50)).all())
    False
    """
    for name, value in (("seed", seed), ("epoch", epoch), ("num_examples", num_examples)):
        if value < 0:
            raise ValueError(f"{name}={value} must not be negative")
    generator = np.random.RandomState(np.random.MT19937(np.random.SeedSequence([seed, epoch])))
    return generator.permutation(num_examples).astype(np.int32)


def stratified_split(
    labels: np.ndarray, *, valid_fraction: float = 0.2, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Splits indices so that every class has its share on both sides.

    Each class gives round(valid_fraction * its count) examples to validation, but at least one to each side.

    Args:
      labels: int [n], one class number per example.
      valid_fraction: in (0, 1).
      seed: integer >= 0.

    Returns:
      (train, valid): sorted int32 index arrays, disjoint, together 0 .. n - 1.

    Raises:
      ValueError: for a fraction outside (0, 1) or a class with a single example.

    >>> train, valid = stratified_split(np.array([0, 0, 0, 0, 1, 1]), valid_fraction=0.25)
    >>> len(train), len(valid)
    (4, 2)
    """
    if not 0 < valid_fraction < 1:
        raise ValueError(f"valid_fraction={valid_fraction} must lie between 0 and 1, both excluded")
    labels = np.asarray(labels)
    valid: list[np.ndarray] = []
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        if len(members) < 2:
            raise ValueError(f"class number {label} has one example only: it cannot be in training and in validation")
        count = min(max(round(valid_fraction * len(members)), 1), len(members) - 1)
        # Each class has its own stream, so adding a class does not reshuffle the others.
        generator = np.random.RandomState(np.random.MT19937(np.random.SeedSequence([seed, int(label)])))
        valid.append(generator.permutation(members)[:count])
    chosen = np.sort(np.concatenate(valid)) if valid else np.zeros(0, np.int64)
    rest = np.setdiff1d(np.arange(len(labels)), chosen)
    return rest.astype(np.int32), chosen.astype(np.int32)
