"""Programs with convolutions are compiled for the CPU with options of their own, and are jitted functions otherwise."""

import re

import jax
import jax.numpy as jnp
import numpy as np

from jaxclf import _jax
from jaxclf._jax import cpu_options, jit_network


def convolve(x, kernel):
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), ((1, 1), (1, 1)), dimension_numbers=("NHWC", "HWIO", "NHWC"))


def kernel_gradient(x, kernel):
    return jax.grad(lambda kernel: (convolve(x, kernel) ** 2).sum())(kernel)


X, KERNEL = jnp.ones((8, 32, 32, 16)), jnp.ones((3, 3, 16, 32))


def handed_over(compiled):
    """Convolutions that XLA leaves to the library."""
    text = compiled.as_text()
    bodies = dict(re.findall(r"\n%?([\w.]+) \([^\n]*\{\n(.*?)\n\}", text, re.DOTALL))
    called = re.findall(r"ynn_fusion[\w.]* = [^\n]*calls=%?([\w.]+)", text)
    return [name for name in called if " convolution(" in bodies[name]]


def test_no_convolution_is_left_to_the_library_that_is_slow_at_their_gradients():
    """Nor on a machine or with an XLA that has no such library."""
    compiled = jit_network(kernel_gradient).lower(X, KERNEL).compile()
    assert not handed_over(compiled)
    if jax.default_backend() == "cpu":
        assert " convolution(" in compiled.as_text(), "they are there, under the name that is looked for"


def test_it_can_be_part_of_another_program():
    network = jit_network(kernel_gradient)
    expected = np.asarray(network(X, KERNEL))
    assert network.__name__ == "kernel_gradient" and network.__wrapped__ is kernel_gradient
    np.testing.assert_allclose(jax.jit(lambda x, kernel: network(x, kernel) * 2)(X, KERNEL), 2 * expected, rtol=1e-5)
    np.testing.assert_allclose(jax.jit(lambda: network(X, KERNEL))(), expected, rtol=1e-5)  # nothing but constants
    assert "conv_general_dilated" in str(jax.make_jaxpr(network)(X, KERNEL))
    summed = jax.grad(lambda kernel: jit_network(convolve)(X, kernel).sum())(KERNEL)
    assert summed.shape == KERNEL.shape and (summed > 0).all()
    stacked = jax.lax.map(lambda x: network(x[None], KERNEL), X)
    np.testing.assert_allclose(stacked.sum(0), expected, rtol=1e-5)


def test_an_xla_that_does_not_know_the_options_does_without(monkeypatch):
    monkeypatch.setattr(_jax, "CPU_OPTIONS", {"xla_cpu_no_such_option": True})
    cpu_options.cache_clear()
    try:
        assert cpu_options() is None
        np.testing.assert_array_equal(jit_network(lambda x: x + 1)(X), X + 1)
    finally:
        cpu_options.cache_clear()


def test_what_is_donated_is_gone():
    start = jnp.ones(4)
    jit_network(lambda x: x + 1, donate_argnums=0)(start)
    assert start.is_deleted()
