"""How activations are computed: what is asked for, the key of everything they depend on, and batch after batch."""

import collections
import dataclasses
import hashlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np

from jaxclf._jax import jit_network
from jaxclf._progress import OnProgress
from jaxclf.augment import make_augment, normalize
from jaxclf.config import CUTS, AugmentName, cut_prefix
from jaxclf.data.decode import PRESIZE_RATIO
from jaxclf.data.devices import fetch, replicate
from jaxclf.data.loader import Batch, Loader
from jaxclf.data.manifest import dataset_key, record_fingerprints
from jaxclf.inference.predict import to_device
from jaxclf.models.classifier import Classifier
from jaxclf.models.trees import partition, tree_digest

#: Part of every key: activations that another form of the code computed are not used.
FEATURES_VERSION = 2
#: "auto" is the type that the network computes the activation in, so nothing is rounded.
StorageName = Literal["auto", "float32", "float16", "bfloat16"]
#: (variables, uint8 images [b, ...], index [b], view) -> activations [b, ...] as stored, and which rows are finite.
ExtractStep = Callable[[Any, Any, Any, int], tuple[jax.Array, jax.Array]]


class Plan(NamedTuple):
    """What is extracted, checked and complete: everything the values depend on beside data and weights."""

    cut: str
    num_views: int
    augment: AugmentName
    seed: int
    dtype: np.dtype
    first_view: int = 0  # those before it are known

    @property
    def raw(self) -> np.dtype:
        """The type that an array file holds: bfloat16, which NumPy itself does not know, as its bits."""
        return np.dtype(np.uint16) if self.dtype == ml_dtypes.bfloat16 else self.dtype


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
    """64 hexadecimal digits over everything that activations depend on.

    That is: weights below the cut, network, cut, pixels and their preparation, compute and storage type, platform,
    views, seed and augmentation of a bank, and the pictures' fingerprints in order.
    """
    bank = {"views": plan.num_views, "augment": plan.augment, "seed": plan.seed} if plan.num_views > 1 else None
    config: Any = jax.config  # its matmul precision decides what float32 products are on a GPU; "None" is the default
    precision = str(config.jax_default_matmul_precision)
    return dataset_key(
        record_fingerprints(loader.dataset, content=content)[loader.kept],
        version=FEATURES_VERSION,
        network=dataclasses.asdict(model.config),
        weights=tree_digest(below(variables, plan.cut)),
        cut=plan.cut,
        preprocess=dataclasses.asdict(loader.preprocess),
        pixels=[loader.pixels, PRESIZE_RATIO if loader.presized else None],
        compute=[jnp.dtype(model.dtype).name, precision, jax.default_backend()],
        storage=plan.dtype.name,
        bank=bank,
        index=hashlib.sha256(loader.kept.tobytes()).hexdigest() if bank else None,  # the draws follow it
    )


def make_extract_step(model: Classifier, loader: Loader, plan: Plan) -> ExtractStep:
    """A jitted step: pictures -> stored activations of one view of each, and which of them are finite."""
    size, shown = loader.preprocess.image_size, loader.preprocess.shown
    middle, augment = make_augment("none", size, shown=shown), make_augment(plan.augment, size, shown=shown)

    def finish(variables: Any, pictures: jax.Array) -> tuple[jax.Array, jax.Array]:
        inputs = normalize(pictures, loader.preprocess.mean, loader.preprocess.std)
        values = model.apply(variables, inputs, stop=plan.cut)
        assert isinstance(values, jax.Array)
        stored = values.astype(plan.dtype)
        return stored, jnp.isfinite(stored).reshape(len(stored), -1).all(1)

    @jit_network
    def plain(variables: Any, images: jax.Array) -> tuple[jax.Array, jax.Array]:
        return finish(variables, middle(jax.random.key(0), images))

    @jit_network
    def augmented(variables: Any, images: jax.Array, index: jax.Array, view: int) -> tuple[jax.Array, jax.Array]:
        key = jax.random.fold_in(jax.random.key(plan.seed, impl="threefry2x32"), view)
        keys = jax.vmap(lambda number: jax.random.fold_in(key, number))(index)
        return finish(variables, jax.vmap(lambda key, image: augment(key, image[None])[0])(keys, images))

    def extract_step(variables: Any, images: Any, index: Any, view: int) -> tuple[jax.Array, jax.Array]:
        return plain(variables, images) if view == 0 else augmented(variables, images, index, view)

    return extract_step


def computed(
    model: Classifier,
    variables: Mapping[str, Any],
    loader: Loader,
    plan: Plan,
    on_progress: OnProgress | None,
    missing: np.ndarray,
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
        for view in range(plan.first_view, plan.num_views):
            pending.append((start, view, batch, step(variables, batch.inputs, batch.index, view)))
            if len(pending) > 1:
                yield from fetched()
    while pending:
        yield from fetched()


def below(variables: Mapping[str, Any], cut: str) -> dict[str, Any]:
    """The variables that make the activation at a cut: `params` and `batch_stats` without what lies above it."""
    modules = cut_prefix(cut)
    return {name: partition(variables[name], modules)[1] for name in ("params", "batch_stats")}


def row_shape(model: Classifier, variables: Mapping[str, Any], loader: Loader, cut: str) -> tuple[int, ...]:
    size = loader.preprocess.image_size
    images = jax.ShapeDtypeStruct((1, size, size, model.config.in_channels), jnp.float32)
    out: Any = jax.eval_shape(lambda v, x: model.apply(v, x, stop=cut), variables, images)
    return tuple(out.shape[1:])
