"""A mark for what compiles for a GPU that this machine does not have."""

import importlib.util

import pytest

needs_compilers = pytest.mark.skipif(
    importlib.util.find_spec("jax_cuda12_plugin") is None,
    reason="compiles for a GPU, which takes 7 GB of packages: `make accelerators` installs them and runs this",
)
