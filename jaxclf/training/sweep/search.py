"""Cross-validated search over heads on cached features."""

import itertools
from collections.abc import Sequence
from typing import Any, cast

import jax
import numpy as np
from jax.sharding import Mesh

from jaxclf._progress import OnProgress
from jaxclf.data.cache import MEMORY_SHARE, physical_memory
from jaxclf.data.devices import replicate
from jaxclf.data.order import k_folds
from jaxclf.models import HeadKind, create_head
from jaxclf.training.losses import MULTI_LABEL_LOSSES, SINGLE_LABEL_LOSSES, Loss, make_loss
from jaxclf.training.sweep.members import member_variables, train_members
from jaxclf.training.sweep.table import Setting, Sweep, choose, make_rows
from jaxclf.training.sweep.training import Examples, Members, Training, bytes_per_member

LRS = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
WEIGHT_DECAYS = (0.0, 1e-4, 1e-3, 1e-2)


def sweep_heads(
    features: np.typing.ArrayLike,
    labels: np.typing.ArrayLike,
    classes: int | Sequence[str],
    *,
    head: HeadKind | Sequence[HeadKind] = "linear",
    lrs: Sequence[float] = LRS,
    weight_decays: Sequence[float] = WEIGHT_DECAYS,
    seeds: Sequence[int] = (0, 1, 2),
    num_folds: int = 5,
    epochs: int = 20,
    batch_size: int = 64,
    dropout: float = 0.0,
    optimizer: str = "sgd",
    momentum: float = 0.9,
    patience: int | None = None,
    own_order: bool = False,
    fold_seed: int = 0,
    order_seed: int = 0,
    loss: str | Loss = "softmax",
    multi_label: bool | None = None,
    max_bytes: int | None = None,
    mesh: Mesh | None = None,
    on_progress: OnProgress | None = None,
) -> Sweep:
    """Trains a head for every setting x seed x fold, all in one compiled program, and says which setting is best.

    A fold is a weight of 0 or 1 per example: every head walks through all examples, and those of its fold count
    nothing in its loss, its gradient and its BatchNorm. So a batch of 64 holds about 51 that count with five folds.
    Each head's rate falls along one cosine over all epochs. Judged by plain cross-entropy, whatever `loss` trains.

    Heads that share the order of the data share their matrix products, which is where the speed comes from: linear
    heads without dropout. With `own_order`, dropout or the concat head each head costs what it costs alone, less
    what a step costs in overhead (see benchmarks/sweep.py).

    Args:
      features: float [n, 2c], the pooled activations: maximum pool first, then average pool.
      labels: int [n], class numbers; or float [n, classes] of 0 and 1, with a sigmoid loss.
      classes: the class names, or how many there are.
      head: kind of head, or several of them to compare.
      lrs: learning rates to try, > 0.
      weight_decays: to try, >= 0; never on BatchNorm and biases.
      seeds: of the initial head and of dropout.
      num_folds: parts of the cross-validation, 2 .. n, every class spread evenly.
      epochs: passes over the data.
      batch_size: examples per step, held-out ones among them; the incomplete last batch of an epoch is left out.
      dropout: of the linear head.
      optimizer, momentum: as for `make_optimizer`.
      patience: a head stops after so many epochs without a new lowest held-out loss, and is judged at its best epoch:
        which flatters it a little, since the same examples chose the epoch. None judges all after the last epoch.
      own_order: give each seed its own order of the data, that of `fit` with this seed, instead of one for all.
      fold_seed, order_seed: of the folds (`k_folds`) and of the shared order (`epoch_order`).
      loss: name or function from `make_loss`.
      multi_label: whether an example can have several labels; None decides by the loss's name. To be given with a
        function.
      max_bytes: memory of each device for heads, beside the features; they run in chunks that fit. The figures do not
        depend on it, but for rounding. None takes a quarter of the device's memory.
      mesh: devices that share the heads, see `jaxclf.data.devices`: each has all features and trains its part of every
        chunk.
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
      >>> sweep = sweep_heads(x, y, ("no", "yes"), lrs=(1e-6, 0.1), weight_decays=(0.0,), epochs=9)
      >>> sweep.best_row.lr, len(sweep.rows), sweep.losses.shape
      (0.1, 2, (2, 3, 5))
    """
    num_classes = classes if isinstance(classes, int) else len(classes)
    kinds = cast(tuple[HeadKind, ...], (head,) if isinstance(head, str) else tuple(head))
    lrs, weight_decays, seeds = tuple(map(float, lrs)), tuple(map(float, weight_decays)), tuple(map(int, seeds))
    loss_of, multi_label = _loss(loss, multi_label)
    check_options(
        head=kinds,
        lrs=lrs,
        weight_decays=weight_decays,
        seeds=seeds,
        num_folds=num_folds,
        epochs=epochs,
        batch_size=batch_size,
        dropout=dropout,
        optimizer=optimizer,
        momentum=momentum,
        patience=patience,
    )
    features, labels = _check_examples(features, labels, num_classes, multi_label)
    targets = labels if multi_label else np.eye(num_classes, dtype=np.float32)[labels]
    whole = Examples(features, targets, k_folds(labels, num_folds, fold_seed))
    examples = jax.device_put(whole) if mesh is None else replicate(whole, mesh)
    num_devices = 1 if mesh is None else mesh.size
    grid = list(itertools.product(lrs, weight_decays, seeds, range(num_folds)))
    trainings, sizes = {}, {}
    for kind in kinds:
        trainings[kind] = Training(
            create_head(kind, num_classes, dropout=dropout if kind == "linear" else 0.0),
            loss_of,
            multi_label,
            optimizer,
            momentum,
            num_folds,
            batch_size,
            epochs,
            patience,
            own_order,
            order_seed,
        )
        each = bytes_per_member(trainings[kind], features.shape[1], num_classes)
        limit = device_bytes(num_devices) if max_bytes is None else max_bytes
        sets = _chunk_size(-(-len(grid) // (num_folds * num_devices)), num_folds * each, limit)
        sizes[kind] = num_folds * num_devices * sets
    total = epochs * (1 + sum(-(-len(grid) // size) for size in sizes.values()))  # 1: the best one, on all examples
    done = 0

    def on_epochs(epochs: int) -> None:
        if on_progress is not None:
            on_progress(done + epochs, total)

    judged: list[np.ndarray] = []  # [3, members] of each chunk: losses, accuracies, epochs
    for kind, size in sizes.items():
        for start in range(0, len(grid), size):
            part = grid[start : start + size]
            filled = part + part[-num_folds:] * ((size - len(part)) // num_folds)  # every chunk runs the same program
            result = train_members(trainings[kind], examples, _members(filled), mesh=mesh, on_epoch=on_epochs)
            judged.append(np.stack(result[:3])[:, : len(part)])
            done += epochs
            on_epochs(0)
    shape = (len(kinds) * len(lrs) * len(weight_decays), len(seeds), num_folds)
    losses, accuracies, ends = (values.reshape(shape) for values in np.concatenate(judged, axis=1))
    settings = [Setting(*setting) for setting in itertools.product(kinds, lrs, weight_decays)]
    rows = make_rows(settings, losses, accuracies, ends)
    best, close = choose(rows)
    best_epochs = max(round(rows[best].epochs), 1)
    setting = settings[best]
    final = train_members(
        trainings[setting.head]._replace(num_folds=0, patience=None),
        examples,
        _members([(setting.lr, setting.weight_decay, seeds[0], 0)]),
        stop_after=best_epochs,
        mesh=mesh,
        on_epoch=on_epochs,
    )
    done = total
    on_epochs(0)
    variables = member_variables(final, 0)
    return Sweep(rows, losses, accuracies, ends.astype(int), seeds, best, close, best_epochs, variables)


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


def _loss(loss: str | Loss, multi_label: bool | None) -> tuple[Loss, bool]:
    if callable(loss):
        return loss, bool(multi_label)
    made = make_loss(loss)
    if multi_label is not None and multi_label != (loss in MULTI_LABEL_LOSSES):
        known = MULTI_LABEL_LOSSES if multi_label else SINGLE_LABEL_LOSSES
        raise ValueError(f"loss={loss!r} does not go with multi_label={multi_label}; choose {' or '.join(known)}")
    return made, loss in MULTI_LABEL_LOSSES


def check_options(
    *,
    head: Sequence[str],
    lrs: Sequence[float],
    weight_decays: Sequence[float],
    seeds: Sequence[int],
    num_folds: int,
    epochs: int,
    batch_size: int,
    dropout: float,
    optimizer: str,
    momentum: float,
    patience: int | None,
) -> None:
    """Raises ValueError for options of `sweep_heads` that make no sense, naming the argument."""
    lists: dict[str, Sequence[Any]] = {"head": head, "lrs": lrs, "weight_decays": weight_decays, "seeds": seeds}
    for name, values in lists.items():
        if not values or len(set(values)) != len(values):
            raise ValueError(f"{name}={tuple(values)} must hold at least one value, and none twice")
    for kind in head:
        create_head(cast(HeadKind, kind), 1)
    if not all(np.isfinite(lr) and lr > 0 for lr in lrs):
        raise ValueError(f"lrs={tuple(lrs)} must be finite and positive")
    if not all(np.isfinite(decay) and decay >= 0 for decay in weight_decays):
        raise ValueError(f"weight_decays={tuple(weight_decays)} must be finite and not negative")
    if not all(0 <= seed < 2**31 for seed in seeds):
        raise ValueError(f"seeds={tuple(seeds)} must be whole numbers from 0 to 2^31 - 1")
    if num_folds < 2:
        raise ValueError(f"num_folds={num_folds} must be at least 2")
    for name, value in (("epochs", epochs), ("batch_size", batch_size), ("patience", patience)):
        if value is not None and value < 1:
            raise ValueError(f"{name}={value} must be at least 1")
    if optimizer not in ("sgd", "adamw"):
        raise ValueError(f"optimizer={optimizer!r} is not known; choose 'sgd' or 'adamw'")
    if not 0 <= momentum < 1:
        raise ValueError(f"momentum={momentum} must lie in [0, 1)")
    if not 0 <= dropout < 1 or (dropout and "linear" not in head):
        raise ValueError(f"dropout={dropout} must lie in [0, 1), and is for the linear head only")


def _check_examples(
    features: np.typing.ArrayLike, labels: np.typing.ArrayLike, num_classes: int, multi_label: bool
) -> tuple[np.ndarray, np.ndarray]:
    features, labels = np.asarray(features), np.asarray(labels)
    if features.ndim != 2 or features.shape[1] % 2 or not features.size:
        raise ValueError(f"features of shape {list(features.shape)} are not [n, 2c]: maximum pool, then average pool")
    features = features.astype(np.float32)
    if not np.isfinite(features).all():
        row = int(np.flatnonzero(~np.isfinite(features).all(1))[0])
        raise ValueError(f"features of example {row} are not finite; look at that picture, or compute in float32")
    number = len(features)
    if multi_label:
        if labels.shape != (number, num_classes) or not ((labels == 0) | (labels == 1)).all():
            raise ValueError(f"labels must be [{number}, {num_classes}] of 0 and 1 for several labels per example")
        return features, labels.astype(np.float32)
    if labels.shape != (number,) or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(
            f"labels of type {labels.dtype} and shape {list(labels.shape)} are not class numbers, int [{number}]; "
            "for several labels per example set loss='sigmoid'"
        )
    if labels.min() < 0 or labels.max() >= num_classes:
        raise ValueError(f"labels from {labels.min()} to {labels.max()} do not fit {num_classes} classes")
    return features, labels.astype(np.int32)
