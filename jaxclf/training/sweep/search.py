"""Cross-validated search over heads on cached features."""

import dataclasses
import itertools
from collections.abc import Iterator, Sequence

import jax
import numpy as np

from jaxclf._progress import OnProgress, silent, within
from jaxclf.data.activations import ActivationDataset
from jaxclf.data.cache import MEMORY_SHARE, physical_memory
from jaxclf.data.devices import replicate
from jaxclf.data.order import k_folds
from jaxclf.models import create_head
from jaxclf.training.sweep.members import Examples, Members, Program
from jaxclf.training.sweep.options import HeadTraining, SweepGrid
from jaxclf.training.sweep.table import Setting, Sweep, choose, make_rows
from jaxclf.training.sweep.train import member_variables, train_members


def sweep_heads(
    data: ActivationDataset,
    grid: SweepGrid | None = None,
    training: HeadTraining | None = None,
    *,
    max_bytes: int | None = None,
    on_progress: OnProgress = silent,
) -> Sweep:
    """Trains a head for every setting x seed x fold, all in one compiled program, and says which setting is best.

    A fold is a weight of 0 or 1 per example: every head walks through all examples, and those of its fold count
    nothing in its loss, its gradient and its BatchNorm. So a batch of 64 holds about 51 that count with five folds.
    Each head's rate falls along one cosine over all epochs. Judged by plain cross-entropy, whatever `loss` trains.

    Heads that share the order of the data share their matrix products, which is where the speed comes from: linear
    heads without dropout. With `own_order`, dropout or the concat head each head costs what it costs alone, less
    what a step costs in overhead (see benchmarks/sweep.py).

    Args:
      data: pooled activations [n, 2c], maximum pool first, then average pool, from `extract_features` or of your own;
        of a bank, the plain pictures'. Devices of its mesh share the heads: each has all features and trains its part
        of every chunk.
      grid: what is tried; None: linear heads, 20 settings from 3 seeds in 5 folds.
      training: how each head is trained; None: SGD for 20 epochs on softmax cross-entropy. With several labels per
        example its loss must be "sigmoid" or a function.
      max_bytes: memory of each device for heads, beside the features; they run in chunks that fit. The figures do not
        depend on it, but for rounding. None takes a quarter of the device's memory.
      on_progress: called after each epoch of a chunk with (done, total).

    Returns:
      Table, best setting, the settings it cannot be told from, and a head trained with it on all examples. Into a
      classifier's `variables` goes that head with `{name: {**variables[name], **sweep.best_variables[name]} for name
      in variables}`.

    Raises:
      ValueError: naming the argument, for values that make no sense, features that are not finite, too little
        memory for the heads of one setting, or settings of which every one diverges.

    Example:
      >>> x = np.random.default_rng(0).normal(size=(40, 8)).astype(np.float32)
      >>> y = (x[:, 4] > 0).astype(int)
      >>> data = ActivationDataset(x, y, classes=("no", "yes"), cut="pooled")
      >>> sweep = sweep_heads(data, SweepGrid(lrs=(1e-6, 0.1), weight_decays=(0.0,)), HeadTraining(epochs=9))
      >>> sweep.best_row.lr, len(sweep.rows), sweep.losses.shape
      (0.1, 2, (2, 3, 5))
    """
    grid, training = grid or SweepGrid(), training or HeadTraining()
    training.check_labels(data.multi_label)
    whole = _examples(data, grid)
    mesh = data.mesh
    examples = jax.device_put(whole) if mesh is None else replicate(whole, mesh)
    programs = {
        head: Program(
            create_head(head, len(data.classes), dropout=grid.dropout if head != "concat" else 0.0),
            data.multi_label,
            grid.num_folds,
            training,
        )
        for head in grid.heads
    }
    num_devices = 1 if mesh is None else mesh.size
    limit = device_bytes(num_devices) if max_bytes is None else max_bytes
    width = whole.features.shape[1]
    chunks = [
        (program, *chunk)
        for program in programs.values()
        for chunk in _chunks(grid, program.bytes_per_member(width), limit, num_devices)
    ]
    epochs, total = training.epochs, training.epochs * (len(chunks) + 1)  # 1: the best one, on all examples
    judged: list[np.ndarray] = []  # [3, members] of each chunk: losses, accuracies, epochs
    for number, (program, members, count) in enumerate(chunks):
        part = within(on_progress, number * epochs, total)
        result = train_members(program, examples, members, mesh=mesh, on_progress=part)
        judged.append(np.stack(result[:3])[:, :count])
    settings = [Setting(*setting) for setting in itertools.product(grid.heads, grid.lrs, grid.weight_decays)]
    shape = (len(settings), len(grid.seeds), grid.num_folds)
    losses, accuracies, ends = (values.reshape(shape) for values in np.concatenate(judged, axis=1))
    rows = make_rows(settings, losses, accuracies, ends)
    best, close = choose(rows)
    best_epochs = max(round(rows[best].epochs), 1)
    setting = settings[best]
    final = train_members(
        programs[setting.head]._replace(num_folds=0, training=dataclasses.replace(training, patience=None)),
        examples,
        _members([(setting.lr, setting.weight_decay, grid.seeds[0], 0)]),
        stop_after=best_epochs,
        mesh=mesh,
        on_progress=within(on_progress, total - epochs, total),
    )
    on_progress(total, total)
    seeds, variables = tuple(grid.seeds), member_variables(final, 0)
    return Sweep(rows, losses, accuracies, ends.astype(int), seeds, best, close, best_epochs, variables)


def _chunks(grid: SweepGrid, each: int, limit: int, num_devices: int) -> Iterator[tuple[Members, int]]:
    """The heads of one kind, of `each` bytes, as programs that fit, and how many heads of each program count."""
    heads = list(itertools.product(grid.lrs, grid.weight_decays, grid.seeds, range(grid.num_folds)))
    num_folds = grid.num_folds
    sets = _chunk_size(-(-len(heads) // (num_folds * num_devices)), num_folds * each, limit)
    size = num_folds * num_devices * sets
    for start in range(0, len(heads), size):
        part = heads[start : start + size]
        # Every chunk runs the same program, so the last one is filled up.
        yield _members(part + part[-num_folds:] * ((size - len(part)) // num_folds)), len(part)


def _members(grid: Sequence[tuple[float, float, int, int]]) -> Members:
    lrs, weight_decays, seeds, _ = zip(*grid, strict=True)
    return Members(np.asarray(lrs, np.float32), np.asarray(weight_decays, np.float32), np.asarray(seeds, np.int32))


def device_bytes(num_devices: int = 1) -> int:
    """What heads may take on each device where nobody says: a quarter of the accelerator's memory, or of the machine's.

    The devices of a CPU share the machine's.
    """
    stats = jax.local_devices()[0].memory_stats() or {}
    return int(MEMORY_SHARE * stats.get("bytes_limit", physical_memory() // num_devices))


def _chunk_size(number: int, each: int, limit: int) -> int:
    """How many of `number` sets of folds, of `each` bytes, go into a chunk: as few chunks as fit, about equal."""
    fit = limit // each
    if fit < 1:
        raise ValueError(
            f"max_bytes={limit} does not hold the heads of one setting's folds, which take about {each} bytes; "
            "give more, or fewer folds"
        )
    return -(-number // -(-number // fit))


def _examples(data: ActivationDataset, grid: SweepGrid) -> Examples:
    """The plain pictures' features, their targets and the folds, once all make sense."""
    labels, num_classes = data.labels, len(data.classes)
    features = np.asarray(data.rows(np.arange(len(data)) * data.num_views))
    if features.ndim != 2 or features.shape[1] % 2 or not features.size:
        raise ValueError(f"features of shape {list(features.shape)} are not [n, 2c]: maximum pool, then average pool")
    features = features.astype(np.float32)
    if not np.isfinite(features).all():
        name = data.name(int(data.index[~np.isfinite(features).all(1)][0]))
        raise ValueError(f"features of example {name} are not finite; look at that picture, or compute in float32")
    if data.multi_label:
        if labels.shape[1] != num_classes or not ((labels == 0) | (labels == 1)).all():
            raise ValueError(f"labels must be [{len(data)}, {num_classes}] of 0 and 1 for several labels per example")
        targets = labels
    elif labels.min() < 0 or labels.max() >= num_classes:
        raise ValueError(f"labels from {labels.min()} to {labels.max()} do not fit {num_classes} classes")
    else:
        targets = np.eye(num_classes, dtype=np.float32)[labels]
    return Examples(features, targets, k_folds(labels, grid.num_folds, grid.fold_seed))
