"""What do jaxclf's forms of convolution and max-pool save over XLA's own? Forwards, and forwards and backwards.

Both compute the same values (tests/models/test_conv.py).
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from harness import Run
from jax import lax

from jaxclf.models.conv import convolution
from jaxclf.models.pool import max_pool

NUMBERS = lax.ConvDimensionNumbers((0, 3, 1, 2), (3, 2, 0, 1), (0, 3, 1, 2))
SMOKE = {"side": 2, "inputs": 4, "outputs": 4, "batch_size": 2}


@dataclasses.dataclass(frozen=True)
class Case:
    what: str = "convolution"
    side: int = 2
    inputs: int = 512
    outputs: int = 512
    stride: int = 1
    size: int = 3
    gradient: bool = False
    dtype: str = "float32"
    batch_size: int = 32


def cases() -> list[Case]:
    forms = [Case(side=side) for side in (2, 3, 4)]
    forms += [Case(side=4, inputs=256, stride=2), Case("max-pool", 48, 64, 64, 2)]
    forms += [Case(side=24, inputs=64, outputs=256, size=1), Case(side=12, inputs=512, outputs=128, size=1)]
    forms += [Case(side=24, inputs=256, stride=2, size=1)]
    forms += [Case(side=12, inputs=channels, outputs=channels, dtype="bfloat16") for channels in (128, 256)]
    return [dataclasses.replace(form, gradient=gradient) for form in forms for gradient in (False, True)]


def ours(case: Case) -> Run:
    strides, padding = (case.stride, case.stride), ((case.size // 2, case.size // 2),) * 2
    if case.what == "max-pool":
        return _run("jaxclf", max_pool, case)
    return _run("jaxclf", lambda x, k: convolution(x, k, strides, padding, dimension_numbers=NUMBERS), case)


def peer(case: Case) -> Run:
    strides, padding = (case.stride, case.stride), ((case.size // 2, case.size // 2),) * 2
    if case.what == "max-pool":
        return _run("XLA's", lambda x: nn.max_pool(x, (3, 3), strides, padding), case)
    return _run("XLA's", lambda x, k: lax.conv_general_dilated(x, k, strides, padding, dimension_numbers=NUMBERS), case)


def _run(name: str, function: Callable[..., jax.Array], case: Case) -> Run:
    generator = np.random.default_rng(0)
    shapes = [(case.batch_size, case.side, case.side, case.inputs), (case.size, case.size, case.inputs, case.outputs)]
    arrays = [jnp.asarray(generator.normal(size=shape), case.dtype) for shape in shapes]
    arrays = arrays[: 1 if case.what == "max-pool" else 2]
    if case.gradient:
        function = jax.grad(lambda *a, f=function: (f(*a) ** 2).sum(), argnums=tuple(range(len(arrays))))
    compiled = jax.jit(function)
    return Run(name, lambda number: jax.block_until_ready(compiled(*arrays)))
