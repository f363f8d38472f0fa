"""Several devices: the rows of a batch are divided among them, everything else lies on each of them in full.

`jit` does the rest: a step whose batch is sharded computes every row where it lies, and what is summed over the batch
(loss, gradient, BatchNorm's moments) is summed over all devices. So a step is the same function of the whole batch,
however many devices there are. `mesh=None` everywhere means JAX's default device.
"""

from typing import TypeVar

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

    >>> data_mesh(1).shape
    OrderedDict({'data': 1})
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
    return tree if mesh is None else jax.device_put(tree, replicated(mesh))


def shard_batch(batch: T, mesh: Mesh | None) -> T:
    """The arrays of a batch on the devices of the mesh, divided along their first axis; else on the default device.

    Raises:
      ValueError: for a number of rows that the devices cannot share evenly.
    """
    if mesh is None:
        return jax.device_put(batch)
    check_divisible(len(jax.tree.leaves(batch)[0]), mesh)
    return jax.device_put(batch, sharded(mesh))
