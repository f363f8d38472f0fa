"""Several devices: the rows of a batch are divided among them, everything else lies on each of them in full.

`jit` does the rest: a step whose batch is sharded computes every row where it lies, and what is summed over the batch
(loss, gradient, BatchNorm's moments) is summed over all devices. So a step is the same function of the whole batch,
however many devices there are. `mesh=None` everywhere means JAX's default device.
"""

import functools
from typing import Any, TypeVar

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

#: The mesh's only axis: rows of a batch, and heads of a sweep.
AXIS = "data"

T = TypeVar("T")


def data_mesh(num_devices: int | None = None) -> Mesh:
    """The mesh of one axis over the first `num_devices` devices, of all processes.

    Args:
      num_devices: at least 1; None takes all.

    Raises:
      ValueError: for more devices than there are, or, with several processes, for fewer.

    >>> dict(data_mesh(1).shape)
    {'data': 1}
    """
    devices = jax.devices()
    number = len(devices) if num_devices is None else num_devices
    if not 1 <= number <= len(devices):
        hint = "; XLA_FLAGS=--xla_force_host_platform_device_count=8 makes 8 of a CPU"
        raise ValueError(
            f"num_devices={number} must lie in 1 .. {len(devices)}: JAX sees {len(devices)} {devices[0].platform} "
            f"device{'s' * (len(devices) > 1)}{hint * (devices[0].platform == 'cpu')}"
        )
    if number < len(devices) and jax.process_count() > 1:
        raise ValueError(
            f"num_devices={number}: with {jax.process_count()} processes all {len(devices)} devices take part; leave "
            "it out, or start fewer processes"
        )
    return Mesh(np.asarray(devices[:number]), (AXIS,), axis_types=(AxisType.Auto,))


def all_devices(batch_size: int = 0) -> Mesh | None:
    """The mesh of all devices, for work that may as well run on one: None where there is one, or they cannot share."""
    number = len(jax.devices())
    return data_mesh() if number > 1 and batch_size % number == 0 else None


def check_divisible(batch_size: int, mesh: Mesh | None) -> None:
    """Raises ValueError, naming sizes that fit, unless each device gets equally many rows of a batch.

    >>> check_divisible(12, None)
    """
    number = 1 if mesh is None else mesh.size
    if batch_size % number:
        below = batch_size // number * number
        sizes = f"{below} or {below + number}" if below else f"{number}"
        raise ValueError(f"batch_size={batch_size} cannot be divided evenly among {number} devices; take {sizes}")


def replicated(mesh: Mesh) -> NamedSharding:
    """On every device in full."""
    return NamedSharding(mesh, PartitionSpec())


def sharded(mesh: Mesh) -> NamedSharding:
    """Divided along the first axis."""
    return NamedSharding(mesh, PartitionSpec(AXIS))


def replicate(tree: T, mesh: Mesh | None) -> T:
    """The tree on every device of the mesh in full; what lies there already is not copied. Without a mesh as it is.

    With several processes each gives the same values.
    """
    return tree if mesh is None else place(tree, replicated(mesh))


def place(tree: T, over: NamedSharding) -> T:
    """The tree laid out as `replicated(mesh)` or `sharded(mesh)` says. With several processes each gives all of it."""
    assert isinstance(over.mesh, Mesh)
    if _several(over.mesh):
        return jax.tree.map(lambda leaf: _placed(leaf, over), tree)
    return jax.device_put(tree, over)


def shard_batch(batch: T, mesh: Mesh | None, *, batch_size: int | None = None) -> T:
    """The arrays of a batch on the devices of the mesh, divided along their first axis; else on the default device.

    Args:
      batch: arrays that have the batch's rows as their first axis. With several processes each gives either all rows,
        the same as the others do, or its own part of them, the parts being in the order of the processes.
      mesh: from `data_mesh`, or None.
      batch_size: rows over all processes; None: those that are here.

    Raises:
      ValueError: for a number of rows that the devices cannot share evenly, or that is neither all nor this process's
        part.
    """
    if mesh is None:
        return jax.device_put(batch)
    rows = len(jax.tree.leaves(batch)[0])
    total = rows if batch_size is None else batch_size
    check_divisible(total, mesh)
    num_processes = len({device.process_index for device in mesh.devices.flat})
    if rows not in (total, total // num_processes):
        raise ValueError(
            f"a batch of {rows} rows is neither all of batch_size={total} nor a part of it for each of "
            f"{num_processes} processes; give each its `loader.part(process, {num_processes})`"
        )
    over = sharded(mesh)
    if not _several(mesh):
        return jax.device_put(batch, over)

    def place(leaf: Any) -> jax.Array:
        if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
            return _placed(leaf, over)
        host = np.asarray(leaf)
        return jax.make_array_from_process_local_data(over, host, (total, *host.shape[1:]))

    return jax.tree.map(place, batch)


def fetch(tree: Any) -> Any:
    """The arrays of a tree on the host, complete in every process; as `jax.device_get`, which it is for one process.

    With several processes all have to call it with the same arrays.
    """

    def whole(leaf: Any) -> Any:
        if not isinstance(leaf, jax.Array) or leaf.is_fully_addressable or leaf.is_fully_replicated:
            return leaf
        assert isinstance(leaf.sharding, NamedSharding) and isinstance(leaf.sharding.mesh, Mesh)
        return _placed(leaf, replicated(leaf.sharding.mesh))

    return jax.device_get(jax.tree.map(whole, tree) if jax.process_count() > 1 else tree)


def _several(mesh: Mesh) -> bool:
    """Whether devices of other processes are part of the mesh."""
    return any(device.process_index != jax.process_index() for device in mesh.devices.flat)


def _placed(leaf: Any, over: NamedSharding) -> Any:
    """An array that every process has, or that lies on the mesh already, laid out in another way."""
    if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
        return leaf if leaf.sharding.is_equivalent_to(over, leaf.ndim) else _laid_out(over)(leaf)
    if isinstance(leaf, jax.Array) and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        bits = _placed(jax.random.key_data(leaf), over)
        return jax.random.wrap_key_data(bits, impl=jax.random.key_impl(leaf))
    host = np.asarray(leaf)
    return jax.make_array_from_callback(host.shape, over, lambda index: host[index])


@functools.lru_cache(maxsize=8)
def _laid_out(over: NamedSharding) -> Any:
    """A jitted identity whose result is laid out so."""
    return jax.jit(lambda leaf: leaf, out_shardings=over)
