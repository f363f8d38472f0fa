"""JAX's persistent compilation cache: what was compiled once on this machine is not compiled again."""

import functools
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any


def default_cache_dir() -> Path:
    """The user's own directory for compiled programs: `$XDG_CACHE_HOME/jaxclf/xla`, or under `~/.cache`."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "jaxclf" / "xla"


def enable_compilation_cache(directory: str | os.PathLike[str] | None = None) -> Path | None:
    """Points JAX at a persistent compilation cache, unless one is set already. The command line calls it; you may.

    Args:
      directory: where to keep compiled programs; `None` means `default_cache_dir()`.

    Returns:
      The directory in force, or None if the directory cannot be written (then nothing is cached).
    """
    import jax

    _load_quietly()
    existing = getattr(jax.config, "jax_compilation_cache_dir", None)  # also filled from JAX_COMPILATION_CACHE_DIR
    if existing:
        return Path(existing)
    path = Path(directory) if directory is not None else default_cache_dir()
    try:
        path.mkdir(parents=True, exist_ok=True)
        if not os.access(path, os.W_OK):
            return None
    except OSError:
        return None
    jax.config.update("jax_compilation_cache_dir", str(path))
    # Small programs are worth keeping too: a run compiles dozens of them.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
    return path


#: Severity from which on XLA's C++ prints, if only what ends the process shall be left.
_FATAL = 3


def _load_quietly() -> None:
    """Keeps XLA from logging two errors of a kilobyte for every program that it loads from the cache on a CPU.

    They say that `prefer-no-gather` and `prefer-no-scatter` are no features of this machine: XLA chooses them when it
    compiles for AVX-512 and does not find them on any host (openxla/xla#44565, jax-ml/jax#38445). A program of another
    machine is never loaded, since the features are part of the cache's key. What fails here raises in Python all the
    same, and errors outside of loading are printed as ever; so is everything where TF_CPP_MIN_LOG_LEVEL is 0 or
    JAX_LOGGING_LEVEL is set.
    """
    import jax

    try:  # JAX has no public way to this
        from jax._src import compilation_cache
        from jax._src.lib import utils

        load, set_level = compilation_cache.get_executable_and_time, utils.absl_set_min_log_level
        usual = int(os.environ.get("TF_CPP_MIN_LOG_LEVEL", "1"))  # JAX sets it, too
        wanted = usual == 0 or usual >= _FATAL or getattr(jax.config, "jax_logging_level", None) not in (None, "NOTSET")
    except (ImportError, AttributeError, ValueError):
        return
    if wanted or hasattr(load, "__wrapped__"):
        return
    one_at_a_time = threading.Lock()  # the level is the process's

    @functools.wraps(load)
    def quiet(*args: Any, **kwargs: Any) -> Any:
        with one_at_a_time:
            set_level(_FATAL)
            try:
                return load(*args, **kwargs)
            finally:
                set_level(usual)

    compilation_cache.get_executable_and_time = quiet


#: Makes XLA take GPU kernels whose sums always run in the same order, and none by how fast it was just now.
DETERMINISTIC_FLAG = "--xla_gpu_deterministic_ops=true"


def enable_determinism() -> None:
    """Makes GPUs give the same bits in every run, at a price in speed; on CPU and TPU they do so anyway.

    Adds `DETERMINISTIC_FLAG` to the environment's `XLA_FLAGS`, which are read once, when JAX first touches a device.

    Raises:
      ValueError: if a GPU is in use already, without the flag.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    if DETERMINISTIC_FLAG in flags:
        return
    from jax._src import xla_bridge  # there is no public way to ask without starting one

    if xla_bridge.backends_are_initialized():
        import jax

        if jax.default_backend() == "gpu":
            raise ValueError(
                f"deterministic=True came after JAX had started its GPU; set XLA_FLAGS={DETERMINISTIC_FLAG} in the "
                "environment, or ask for it before anything is computed"
            )
        return
    os.environ["XLA_FLAGS"] = f"{flags} {DETERMINISTIC_FLAG}".strip()


#: XLA's CPU compiler hands convolutions to a library. With jax 0.10 the gradients of kernels take it twice as long as
#: XLA's own code (24 maps of 64 x 64, 32 to 64 channels: 60 against 25 ms); with 0.12 there is little between them.
#: Sums and products stay with the library.
CPU_OPTIONS = {
    "xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_REDUCE,LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT",
}


@functools.cache
def cpu_options() -> dict[str, Any] | None:
    """Compiler options of programs with convolutions where JAX computes on a CPU; None elsewhere, or if XLA knows none.

    Whether it knows them is tried, on a program of nothing: XLA has no list of them.
    """
    import jax

    if jax.default_backend() != "cpu":
        return None
    try:
        jax.jit(lambda x: x, compiler_options=dict(CPU_OPTIONS)).lower(0.0).compile()
    except jax.errors.JaxRuntimeError:
        return None
    return dict(CPU_OPTIONS)


def jit_network(function: Callable[..., Any], **options: Any) -> Any:
    """`jax.jit` of a program with convolutions, with `cpu_options`.

    JAX takes compiler options for whole programs only: inside another program, or another transformation, it is as
    `jax.jit` made it.
    """
    import jax

    found = cpu_options()
    if found is None:
        return jax.jit(function, **options)
    whole = jax.jit(function, **options, compiler_options=found)
    return functools.update_wrapper(_Network(jax.jit(function, **options), whole), function)


class _Network:
    """Callable like the jitted function `whole`, with what that has besides; `plain` while another one is traced."""

    def __init__(self, plain: Any, whole: Any):
        self._plain, self._whole = plain, whole

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        import jax

        # Inside `jax.jit` even a sum of constants is traced; inside `jax.grad` only what depends on the argument is.
        leaves = (jax.numpy.add(0, 0), *jax.tree.leaves((args, kwargs)))
        traced = any(isinstance(leaf, jax.core.Tracer) for leaf in leaves)
        return (self._plain if traced else self._whole)(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._whole, name)
