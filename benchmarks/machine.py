"""What every benchmark prints first: machine, versions and how it measured. Used by the files beside it."""

import platform
import statistics
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path


def describe(*packages: str) -> str:
    """Processor, cores, Python and package versions in one line."""
    import jax

    from jaxclf.data.cache import default_num_threads

    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
    names = ", ".join(f"{name} {version(name)}" for name in ("jax", "flax", *packages))
    device = jax.devices()[0].device_kind
    return f"{device} | {model}, {default_num_threads()} cores | Python {platform.python_version()}, {names}"


def spread(values: Sequence[float], unit: str = "s", digits: int = 3) -> str:
    """Median, and the range around it."""
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{middle:.{digits}f} {unit} (of {len(values)}: {low:.{digits}f} to {high:.{digits}f})"
