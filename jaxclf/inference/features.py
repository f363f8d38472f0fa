"""Precompute, taken to its end: the activations of a data set at any cut of a network, computed once and kept.

Of a frozen part the output is a function of the picture. So training what is above it from stored activations
(`jaxclf.fit` with an `ActivationLoader`) gives what training the whole network with that part frozen would give.
"""

import functools
import math
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import jax
import numpy as np
from jax.sharding import Mesh

from jaxclf._progress import OnProgress
from jaxclf.config import AugmentName
from jaxclf.data.activations import ActivationDataset, Placement, features_dir
from jaxclf.data.array_file import ArrayOnDisk, ArrayWriter, open_array
from jaxclf.data.cache import MEMORY_SHARE, physical_memory
from jaxclf.data.devices import check_divisible, fetch, replicate
from jaxclf.data.loader import Loader
from jaxclf.inference.extract import Plan, StorageName, below, computed, features_key, make_plan, row_shape
from jaxclf.models.classifier import Classifier

#: Activations take at most this share of the device's memory.
DEVICE_SHARE = 0.25
SUFFIX = ".features"

#: Row numbers that are missing -> (row numbers, activations), batch by batch; see `computed`.
Compute = Callable[[np.ndarray], Iterator[tuple[np.ndarray, np.ndarray]]]


def extract_features(
    model: Classifier,
    variables: Mapping[str, Any],
    loader: Loader,
    *,
    cut: str = "pooled",
    num_views: int = 1,
    augment: AugmentName | None = None,
    dtype: StorageName = "auto",
    cache_dir: str | os.PathLike[str] | None = None,
    placement: Placement | Literal["auto"] = "auto",
    seed: int = 0,
    content: bool = False,
    on_progress: OnProgress | None = None,
) -> ActivationDataset:
    """The activations of a loader's pictures at a cut, in evaluation mode, kept where there is room.

    The plain view of a picture is what evaluation sees: the pixels of a loader made with `presized=False`, or the
    centre of a presized picture. The other views of a bank are drawn once: view v of picture i follows the key
    fold_in(fold_in(key(seed), v), i), whatever the batch it is computed in.

    A file in `cache_dir` has a checksum for each row and appears when it is complete; a run that was killed goes on
    where it stopped, and a file that is damaged anywhere is made anew. It is found again under a key of all that the
    values depend on (`features_key`). Labels are no part of it: they always come from the source.

    Args:
      model, variables: the classifier; only what lies below the cut is read.
      loader: of the pictures, all of them and in their own order, whatever it was made for; a bank needs one made with
        `presized=True`. Its batch size is the extraction's. The devices of its mesh share each batch, and activations
        are then on each of them.
      cut: "stem", "stage1" .. "stage4", or "pooled".
      num_views: rows per picture, the plain one first. More than one makes an augmented bank.
      augment: a preset's name; with `num_views` above 1 only, and then required.
      dtype: to store in. "auto" is exact. float16 and bfloat16 halve float32, with a relative rounding error of at
        most 2^-11 and 2^-8 (of float32 values, and within float16's range above 6e-5).
      cache_dir: folder of the file; None keeps activations in memory only, unless they do not fit: then the file goes
        to the user's cache folder. Several processes that share a mesh write no file.
      placement: "device", "host" or "disk"; "auto" takes the first of these in which they fit: a quarter of the
        device's memory, a quarter of the host's. On a CPU the two are one, and "auto" takes the device.
      seed: of the bank's draws.
      content: tell pictures apart by their content and not by path, size and time; see `record_fingerprints`.
      on_progress: called with (pictures done, pictures in all).

    Returns:
      The data set, for an `ActivationLoader`.

    Raises:
      ValueError: for an argument out of range, a bank from a loader that is not presized, a batch size that the devices
        cannot share evenly, or an activation that is not finite or too large for float16, naming the picture.
    """
    plan, mesh = make_plan(model, loader, cut, num_views, augment, dtype, seed), loader.mesh
    if placement not in ("auto", *get_args(Placement)):
        raise ValueError(f"placement={placement!r} must be auto, {', '.join(get_args(Placement))}")
    check_divisible(loader.batch_size, mesh)
    variables = below(variables, cut)
    key = features_key(model, variables, loader, plan, content=content)
    shape = (len(loader.kept) * num_views, *row_shape(model, variables, loader, cut))
    compute = functools.partial(computed, model, variables, loader, plan, on_progress)
    if placement == "auto":
        placement = choose_placement(math.prod(shape) * plan.dtype.itemsize, mesh)
    if jax.process_count() > 1 and mesh is not None:
        if placement == "disk":
            raise ValueError("placement='disk': several processes keep activations in memory; give 'host' or 'device'")
        cache_dir = None
    if placement == "disk" or cache_dir is not None:
        path = Path(cache_dir if cache_dir is not None else features_dir()) / f"{key[:32]}{SUFFIX}"
        stored: Any = open_array(path, key)
        if stored is None:
            stored = _written(path, key, shape, plan, compute)
        elif on_progress is not None:
            on_progress(len(loader.kept), len(loader.kept))
        stored = (stored if placement == "disk" else _loaded(stored)).view(plan.dtype)
    else:
        stored = np.empty(shape, plan.dtype)
        for numbers, values in compute(np.arange(shape[0])):
            stored[numbers] = values
    if placement == "device":
        stored = jax.device_put(stored) if mesh is None else replicate(stored, mesh)
    return _dataset(stored, loader, plan, key)


def extend_features(
    plain: ActivationDataset,
    model: Classifier,
    variables: Mapping[str, Any],
    loader: Loader,
    *,
    num_views: int,
    augment: AugmentName,
    seed: int = 0,
    on_progress: OnProgress | None = None,
) -> ActivationDataset:
    """An augmented bank of the pictures whose plain activations are known: `extract_features` for the other views.

    The plain views are then of evaluation's own pixels, to the bit, and not of the middle of presized pictures. The
    bank is kept in memory.

    Args:
      plain: from `extract_features` with the same model and variables, of the same pictures, one view of each.
      model, variables, num_views, augment, seed, on_progress: as for `extract_features`.
      loader: of the pictures, made with `presized=True`.

    Raises:
      ValueError: as `extract_features`; for other pictures, or a bank.
    """
    if plain.num_views != 1 or not np.array_equal(plain.index, loader.kept):
        raise ValueError("plain must hold one view of each of the loader's pictures, in their order")
    plan = make_plan(model, loader, plain.cut, num_views, augment, seed=seed)._replace(first_view=1)
    variables = below(variables, plain.cut)
    stored: Any = np.empty((len(plain) * num_views, *plain.activations.shape[1:]), plan.dtype)
    stored[::num_views] = fetch(plain.rows(np.arange(len(plain))))
    for numbers, values in computed(model, variables, loader, plan, on_progress, np.arange(len(stored))):
        stored[numbers] = values
    if choose_placement(stored.nbytes, loader.mesh) == "device":
        stored = jax.device_put(stored) if loader.mesh is None else replicate(stored, loader.mesh)
    return _dataset(stored, loader, plan, f"{plain.key}, {features_key(model, variables, loader, plan)}")


def _dataset(stored: Any, loader: Loader, plan: Plan, key: str) -> ActivationDataset:
    """The stored rows with what the loader knows of their pictures."""
    return ActivationDataset(
        stored,
        loader.dataset.labels[loader.kept],
        classes=loader.classes,
        cut=plan.cut,
        num_views=plan.num_views,
        augment=plan.augment,
        index=loader.kept,
        preprocess=loader.preprocess,
        names=loader.dataset.name,
        key=key,
        mesh=loader.mesh,
    )


def choose_placement(num_bytes: int, mesh: Mesh | None = None) -> Placement:
    """Where so many bytes are kept: on the device (on each of a mesh), else in the host's memory, else on disk."""
    host = int(MEMORY_SHARE * physical_memory())
    device = jax.local_devices()[0]
    limit = (device.memory_stats() or {}).get("bytes_limit") if device.platform != "cpu" else None
    copies = 1 if limit or mesh is None else mesh.size  # the devices of a CPU share its memory
    if num_bytes * copies <= (int(DEVICE_SHARE * limit) if limit else host):
        return "device"
    return "host" if num_bytes <= host else "disk"


def _written(path: Path, key: str, shape: tuple[int, ...], plan: Plan, compute: Compute) -> ArrayOnDisk:
    """Builds the file, going on where a process that was killed had stopped."""
    writer = ArrayWriter(path, shape, plan.raw, key)
    try:
        for numbers, values in compute(writer.missing):
            for number, row in zip(numbers, values.view(plan.raw), strict=True):
                writer.write(int(number), row)
        writer.finish({"cut": plan.cut, "views": plan.num_views, "augment": plan.augment, "dtype": plan.dtype.name})
    finally:
        writer.close()
    found = open_array(path, key)
    if found is None:
        raise ValueError(f"the cache {path} was damaged while it was written; remove it and try again")
    return found


def _loaded(stored: ArrayOnDisk) -> np.ndarray:
    """All rows, in memory."""
    values = np.empty(stored.shape, stored.dtype)
    for number in range(len(stored)):
        values[number] = stored[number]
    return values
