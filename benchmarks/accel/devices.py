"""Compiling for an H100 or a TPU on a machine that has neither: both compilers run on a CPU, nothing else does.

It needs `jax[tpu]` and `jax[cuda12]` in one environment (`make accelerators`).
"""

import importlib.util
import os
from typing import Any

import jax
import numpy as np
from jax._src import xla_bridge
from jax.experimental import topologies

#: What the GPU compiler wants to know of an H100 SXM, in the names of xla/stream_executor/device_description.proto.
H100 = """
platform_name: "CUDA"
device_description_str: "NVIDIA H100 80GB HBM3"
dnn_version_info { major: 9 minor: 10 }
runtime_version { major: 12 minor: 9 patch: 0 }
gpu_device_info {
  cuda_compute_capability { major: 9 }
  core_count: 132  fpus_per_core: 128  clock_rate_ghz: 1.98
  threads_per_block_limit: 1024  threads_per_warp: 32  threads_per_core_limit: 2048
  block_dim_limit_x: 2147483647  block_dim_limit_y: 65535  block_dim_limit_z: 65535
  registers_per_core_limit: 65536  registers_per_block_limit: 65536
  shared_memory_per_block: 49152  shared_memory_per_block_optin: 232448  shared_memory_per_core: 233472
  memory_bandwidth: 3352320000000  l2_cache_size: 52428800  device_memory_size: 84929347584
}
"""
#: The smallest topology of each kind of TPU that the compiler knows; one of its devices is compiled for.
TOPOLOGIES = {"v5e": "v5e:2x2", "v6e": "v6e:2x2"}
#: Bytes a second from main memory, and dense bfloat16 and float32 operations a second, from the makers' data sheets.
#: An H100 multiplies float32 as TF32, a TPU by default in one pass of bfloat16.
BANDWIDTH = {"h100": 3.35e12, "v5e": 8.19e11, "v6e": 1.64e12}
PEAK = {"h100": 9.89e14, "v5e": 1.97e14, "v6e": 9.18e14}
#: A TPU's cycles a second, as far as its peak gives them away.
CLOCK = {"v5e": 1.5e9, "v6e": 1.75e9}


def prepare() -> None:
    """To be called before JAX looks for devices: only the CPU is one, and kernels are not tuned, as that needs one."""
    jax.config.update("jax_platforms", "cpu")
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    os.environ["TPU_SKIP_MDS_QUERY"] = "1"
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_gpu_autotune_level=0".strip()
    canonical: Any = xla_bridge.canonicalize_platform

    def canonical_platform(platform: str) -> str:
        try:
            return str(canonical(platform))
        except RuntimeError:  # without a GPU, "gpu" has no canonical name, see jax-ml/jax#23971
            return "cuda" if platform == "gpu" else platform

    xla_bridge.canonicalize_platform = canonical_platform


def missing(kind: str) -> str:
    """The package without which a kind cannot be compiled for; "" if it is there."""
    module, package = ("jax_cuda12_plugin", "jax[cuda12]") if kind == "h100" else ("libtpu", "jax[tpu]")
    return "" if importlib.util.find_spec(module) else package


def describe(kind: str) -> Any:
    """One device of a kind: a key of BANDWIDTH."""
    if package := missing(kind):
        raise SystemExit(f"error: {package} is not installed, which compiles for {kind}: make accelerators")
    if kind == "h100":
        topology = topologies.get_topology_desc(platform="cuda", target_config=H100, topology="1x1x1")
    else:
        topology = topologies.get_topology_desc(platform="tpu", topology_name=TOPOLOGIES[kind])
    return topology.devices[0]


def lower_for(kind: str, function: Any, *arguments: Any, donate: tuple[int, ...] = ()) -> Any:
    """`function` lowered for one device of a kind; arguments are trees of ShapeDtypeStruct."""
    mesh = jax.sharding.Mesh(np.array([describe(kind)]), ("x",))
    place = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    placed = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place), arguments)
    return jax.jit(function, donate_argnums=donate, out_shardings=place).lower(*placed)
