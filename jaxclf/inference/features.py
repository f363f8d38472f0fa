"""Precompute, taken to its end: the activations of a data set at any cut of a network, computed once and kept.

Of a frozen part the output is a function of the picture. So training what is above it from stored activations
(`jaxclf.fit` with an `ActivationLoader`) gives what training the whole network with that part frozen would give.
"""

import collections
import dataclasses
import hashlib
import math
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
from jax.sharding import Mesh

from jaxclf._progress import OnProgress
from jaxclf.augment import center_crop, make_augment, normalize, to_float
from jaxclf.config import CUTS, AugmentName, cut_prefix
from jaxclf.data.activations import ActivationDataset, Placement, features_dir
from jaxclf.data.array_file import ArrayOnDisk, ArrayWriter, open_array
from jaxclf.data.batches import Batch
from jaxclf.data.cache import MEMORY_SHARE, physical_memory
from jaxclf.data.decode import PRESIZE_RATIO
from jaxclf.data.devices import check_divisible, fetch, replicate
from jaxclf.data.loader import Loader
from jaxclf.data.manifest import dataset_key, record_fingerprints
from jaxclf.inference.predict import to_device
from jaxclf.models.classifier import Classifier
from jaxclf.models.trees import leaf_paths, partition

#: Part of every key: activations that another form of the code computed are not used.
FEATURES_VERSION = 1
#: Activations take at most this share of the device's memory.
DEVICE_SHARE = 0.25
SUFFIX = ".features"

#: "auto" is the type that the network computes the activation in, so nothing is rounded.
StorageName = Literal["auto", "float32", "float16", "bfloat16"]
#: Largest relative rounding error of each storage type (of float32 values, and within float16's range above 6e-5).
STORAGE_ERROR = {"float32": 0.0, "float16": 2.0**-11, "bfloat16": 2.0**-8}

#: (variables, uint8 images [b, ...], index [b], view) -> activations [b, ...] as stored, and which rows are finite.
ExtractStep = Callable[[Any, Any, Any, int], tuple[jax.Array, jax.Array]]


class Plan(NamedTuple):
    """What is extracted, checked and complete: everything the values depend on beside data and weights."""

    cut: str
    num_views: int
    augment: AugmentName
    seed: int
    dtype: np.dtype


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

    The plain view of a picture is what training without augmentation and evaluation see: the pixels of a loader made
    with `presized=False`, or the centre of a presized picture. The other views of a bank are drawn once: view v of
    picture i follows the key fold_in(fold_in(key(seed), v), i), whatever the batch it is computed in.

    With a `cache_dir`, activations are written there, each row with a checksum, into a file that appears when it is
    complete; a run that was killed goes on where it stopped. They are found again under a key of everything they depend
    on: weights below the cut, network, cut, pixels and their preparation, compute and storage type, platform, views,
    seed and augmentation, the pictures' fingerprints in order. Labels are no part of it: they always come from the
    source. A file that is damaged anywhere is made anew.

    Args:
      model, variables: the classifier; only what lies below the cut is read.
      loader: of the pictures, all of them and in their own order, whatever it was made for; a bank needs one made with
        `presized=True`. Its batch size is the extraction's. The devices of its mesh share each batch, and activations
        are then on each of them.
      cut: "stem", "stage1" .. "stage4", or "pooled".
      num_views: rows per picture, the plain one first. More than one makes an augmented bank.
      augment: a preset's name; with `num_views` above 1 only, and then required.
      dtype: to store in. "auto" is exact. float16 and bfloat16 halve float32, with a relative rounding error of at
        most 2^-11 and 2^-8 (`STORAGE_ERROR`).
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
      ValueError: for an argument out of range, a bank from a loader that is not presized, a batch size that
        the devices cannot share evenly, or an activation that is not
        finite or too large for float16, naming the picture.
    """
    plan, mesh = make_plan(model, loader, cut, num_views, augment, dtype, seed), loader.mesh
    if placement not in ("auto", *get_args(Placement)):
        raise ValueError(f"placement={placement!r} must be auto, {', '.join(get_args(Placement))}")
    check_divisible(loader.batch_size, mesh)
    variables = _below(variables, cut)
    key = features_key(model, variables, loader, plan, content=content)
    shape = _row_shape(model, variables, loader, cut)
    rows = len(loader.kept) * num_views
    if placement == "auto":
        placement = choose_placement(rows * math.prod(shape) * plan.dtype.itemsize, mesh)
    if jax.process_count() > 1 and mesh is not None:
        if placement == "disk":
            raise ValueError("placement='disk': several processes keep activations in memory; give 'host' or 'device'")
        cache_dir = None
    if placement == "disk" or cache_dir is not None:
        path = Path(cache_dir if cache_dir is not None else features_dir()) / f"{key[:32]}{SUFFIX}"
        stored: Any = _on_disk(path, key, (rows, *shape), model, variables, loader, plan, on_progress)
        if placement != "disk":
            stored = _loaded(stored, plan.dtype)
    else:
        stored = np.empty((rows, *shape), plan.dtype)
        for numbers, values in _computed(model, variables, loader, plan, np.arange(rows), on_progress):
            stored[numbers] = values
    return ActivationDataset(
        (jax.device_put(stored) if mesh is None else replicate(stored, mesh)) if placement == "device" else stored,
        loader.dataset.labels[loader.kept],
        classes=loader.classes,
        cut=cut,
        num_views=num_views,
        augment=plan.augment,
        index=loader.kept,
        preprocess=loader.preprocess,
        names=loader.dataset.name,
        dtype=plan.dtype,
        key=key,
        mesh=mesh,
    )


def make_plan(
    model: Classifier,
    loader: Loader,
    cut: str,
    num_views: int = 1,
    augment: AugmentName | None = None,
    dtype: StorageName = "auto",
    seed: int = 0,
) -> Plan:
    """Checks the arguments of `extract_features`, which see, and fills in what they leave open."""
    if cut not in CUTS:
        raise ValueError(f"cut={cut!r} must be one of {', '.join(CUTS)}")
    if num_views < 1:
        raise ValueError(f"num_views={num_views} must be at least 1")
    if num_views > 1 and augment in (None, "none"):
        raise ValueError(f"num_views={num_views} needs an augmentation for the views beyond the plain one: set augment")
    if num_views == 1 and augment not in (None, "none"):
        raise ValueError(f"augment={augment!r} needs num_views of 2 or more: the first view is the plain picture")
    if num_views > 1 and not loader.presized:
        raise ValueError("an augmented bank is cut out of larger pictures: give a loader made with presized=True")
    if loader.local_batch_size != loader.batch_size and loader.mesh is None:
        raise ValueError("activations are extracted from all pictures: give a loader that is not sharded")
    if dtype not in get_args(StorageName):
        raise ValueError(f"dtype={dtype!r} must be one of {', '.join(get_args(StorageName))}")
    if seed < 0:
        raise ValueError(f"seed={seed} must not be negative")
    make_augment(augment or "none", loader.preprocess.image_size)  # raises for an unknown name
    computed = jnp.float32 if cut == "pooled" else model.dtype
    return Plan(cut, num_views, augment or "none", seed, jnp.dtype(computed if dtype == "auto" else dtype))


def features_key(
    model: Classifier, variables: Mapping[str, Any], loader: Loader, plan: Plan, *, content: bool = False
) -> str:
    """64 hexadecimal digits over everything that activations depend on; see `extract_features`."""
    bank = {"views": plan.num_views, "augment": plan.augment, "seed": plan.seed} if plan.num_views > 1 else None
    return dataset_key(
        record_fingerprints(loader.dataset, content=content)[loader.kept],
        version=FEATURES_VERSION,
        network=dataclasses.asdict(model.config),
        weights=variables_digest(_below(variables, plan.cut)),
        cut=plan.cut,
        preprocess=dataclasses.asdict(loader.preprocess),
        pixels=[loader.pixels, PRESIZE_RATIO if loader.presized else None],
        compute=[
            jnp.dtype(model.dtype).name,
            _matmul_precision(),
            jax.default_backend(),
        ],
        storage=plan.dtype.name,
        bank=bank,
        index=hashlib.sha256(loader.kept.tobytes()).hexdigest() if bank else None,  # the draws follow it
    )


def variables_digest(variables: Mapping[str, Any]) -> str:
    """sha256 over every leaf's path, type, shape and bytes."""
    digest = hashlib.sha256()
    for path, leaf in leaf_paths(variables):
        value = np.asarray(leaf)
        digest.update(f"{path} {value.dtype.name} {value.shape}\n".encode() + value.tobytes())
    return digest.hexdigest()


def _matmul_precision() -> str:
    """JAX's setting, which decides what float32 products are on a GPU; "None" is its default."""
    config: Any = jax.config
    return str(config.jax_default_matmul_precision)


def choose_placement(num_bytes: int, mesh: Mesh | None = None) -> Placement:
    """Where so many bytes are kept: on the device (on each of a mesh), else in the host's memory, else on disk."""
    host = int(MEMORY_SHARE * physical_memory())
    device = jax.local_devices()[0]
    limit = (device.memory_stats() or {}).get("bytes_limit") if device.platform != "cpu" else None
    copies = 1 if limit or mesh is None else mesh.size  # the devices of a CPU share its memory
    if num_bytes * copies <= (int(DEVICE_SHARE * limit) if limit else host):
        return "device"
    return "host" if num_bytes <= host else "disk"


def make_extract_step(model: Classifier, loader: Loader, plan: Plan) -> ExtractStep:
    """A jitted step: pictures -> stored activations of one view of each, and which of them are finite."""
    size = loader.preprocess.image_size
    augment = make_augment(plan.augment, size)

    def finish(variables: Any, pictures: jax.Array) -> tuple[jax.Array, jax.Array]:
        inputs = normalize(pictures, loader.preprocess.mean, loader.preprocess.std)
        values = model.apply(variables, inputs, stop=plan.cut)
        assert isinstance(values, jax.Array)
        stored = values.astype(plan.dtype)
        return stored, jnp.isfinite(stored).reshape(len(stored), -1).all(1)

    @jax.jit
    def plain(variables: Any, images: jax.Array) -> tuple[jax.Array, jax.Array]:
        return finish(variables, to_float(center_crop(images, size)))

    @jax.jit
    def augmented(variables: Any, images: jax.Array, index: jax.Array, view: int) -> tuple[jax.Array, jax.Array]:
        key = jax.random.fold_in(jax.random.key(plan.seed, impl="threefry2x32"), view)
        keys = jax.vmap(lambda number: jax.random.fold_in(key, number))(index)
        return finish(variables, jax.vmap(lambda key, image: augment(key, image[None])[0])(keys, images))

    def extract_step(variables: Any, images: Any, index: Any, view: int) -> tuple[jax.Array, jax.Array]:
        return plain(variables, images) if view == 0 else augmented(variables, images, index, view)

    return extract_step


def _computed(
    model: Classifier,
    variables: Mapping[str, Any],
    loader: Loader,
    plan: Plan,
    missing: np.ndarray,
    on_progress: OnProgress | None,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(row numbers, activations), batch by batch and view by view, of the batches that hold a missing row.

    A batch is always computed whole and in the same company, so rows come out the same to the bit whichever of them
    were there before.
    """
    step = make_extract_step(model, loader, plan)
    variables = replicate(variables, loader.mesh)
    total, size = len(loader.kept), loader.batch_size
    wanted = np.zeros(total, bool)
    wanted[missing // plan.num_views] = True
    if not wanted.any():
        return
    first = int(wanted.argmax()) // size
    in_order = loader.in_order().epoch(0, start_batch=first)
    pending: collections.deque[tuple[int, int, Batch, tuple[jax.Array, jax.Array]]] = collections.deque()

    def fetched() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """The oldest of what was dispatched, while the device works on the next."""
        start, view, batch, result = pending.popleft()
        values, finite = fetch(result)
        count = min(size, total - start)
        if not finite[:count].all():
            position = int(fetch(batch.index)[int(finite[:count].argmin())])
            raise ValueError(
                f"picture {loader.dataset.name(position)}: its activation at {plan.cut} is not finite in "
                f"{plan.dtype.name}; store float32, and if that does not help, check the weights"
            )
        yield (start + np.arange(count)) * plan.num_views + view, values[:count]
        if on_progress is not None and view == plan.num_views - 1:
            on_progress(start + count, total)

    for number, batch in enumerate(to_device(in_order, mesh=loader.mesh, batch_size=size), first):
        start = number * size
        if not wanted[start : start + size].any():
            continue
        for view in range(plan.num_views):
            pending.append((start, view, batch, step(variables, batch.inputs, batch.index, view)))
            if len(pending) > 1:
                yield from fetched()
    while pending:
        yield from fetched()


def _on_disk(
    path: Path,
    key: str,
    shape: tuple[int, ...],
    model: Classifier,
    variables: Mapping[str, Any],
    loader: Loader,
    plan: Plan,
    on_progress: OnProgress | None,
) -> ArrayOnDisk:
    """Opens the file, or builds it if it is missing, stale, cut short or damaged."""
    found = open_array(path, key)
    if found is None:
        raw = _raw(plan.dtype)
        writer = ArrayWriter(path, shape, raw, key)
        try:
            for numbers, values in _computed(model, variables, loader, plan, writer.missing, on_progress):
                for number, row in zip(numbers, values.view(raw), strict=True):
                    writer.write(int(number), row)
            writer.finish({"cut": plan.cut, "views": plan.num_views, "augment": plan.augment, "dtype": plan.dtype.name})
        finally:
            writer.close()
        found = open_array(path, key)
        if found is None:
            raise ValueError(f"the cache {path} was damaged while it was written; remove it and try again")
    elif on_progress is not None:
        on_progress(len(loader.kept), len(loader.kept))
    return found


def _loaded(stored: ArrayOnDisk, dtype: np.dtype) -> np.ndarray:
    """All rows, in memory."""
    values = np.empty(stored.shape, stored.dtype)
    for number in range(len(stored)):
        values[number] = stored[number]
    return values.view(dtype)


def _raw(dtype: np.dtype) -> np.dtype:
    """The type that an array file holds: bfloat16, which NumPy itself does not know, as its bits."""
    return np.dtype(np.uint16) if dtype == ml_dtypes.bfloat16 else dtype


def _below(variables: Mapping[str, Any], cut: str) -> dict[str, Any]:
    """The variables that make the activation at a cut: `params` and `batch_stats` without what lies above it."""
    modules = cut_prefix(cut)
    return {name: partition(variables[name], modules)[1] for name in ("params", "batch_stats")}


def _row_shape(model: Classifier, variables: Mapping[str, Any], loader: Loader, cut: str) -> tuple[int, ...]:
    size = loader.preprocess.image_size
    images = jax.ShapeDtypeStruct((1, size, size, model.config.in_channels), jnp.float32)
    out: Any = jax.eval_shape(lambda v, x: model.apply(v, x, stop=cut), variables, images)
    return tuple(out.shape[1:])
