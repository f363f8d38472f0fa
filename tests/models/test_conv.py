import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax

from jaxclf.models.conv import MAX_PRODUCT_POSITIONS, convolution
from jaxclf.models.pool import max_pool
from jaxclf.models.products import MIN_CHANNELS
from jaxclf.training.flops import count_flops

GENERATOR = np.random.default_rng(0)


def plain(x, kernel, strides, padding, groups=1):
    numbers = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=numbers, feature_group_count=groups)


def ours(x, kernel, strides, padding, groups=1):
    numbers = nn.linear._conv_dimension_numbers(x.shape)
    return convolution(x, kernel, strides, padding, feature_group_count=groups, dimension_numbers=numbers)


def products(x, kernel, *rest):
    return str(jax.make_jaxpr(lambda x, k: ours(x, k, *rest))(x, kernel)).count("dot_general")


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.sampled_from([1, 3]), st.integers(1, 2), st.sampled_from([1, 2]))
def test_values_and_gradients_are_the_convolutions(height, width, size, stride, groups):
    """H differs from W, so that swapped axes show."""
    x = jnp.asarray(GENERATOR.normal(size=(2, height, width, 4)), jnp.float32)
    kernel = jnp.asarray(GENERATOR.normal(size=(size, size, 4 // groups, 6)), jnp.float32)
    rest = ((stride, stride), ((size // 2, size // 2),) * 2, groups)

    def loss(function):
        return lambda x, k: (jnp.sin(function(x, k, *rest))).sum()

    np.testing.assert_allclose(ours(x, kernel, *rest), plain(x, kernel, *rest), rtol=1e-4, atol=1e-5)
    for a, b in zip(*(jax.grad(loss(f), argnums=(0, 1))(x, kernel) for f in (ours, plain)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def test_small_maps_are_products():
    small, large = jnp.ones((1, 4, 4, 2)), jnp.ones((1, 5, 4, 2))
    kernel, same = jnp.ones((3, 3, 2, 2)), ((1, 1), (1, 1))
    assert small.shape[1] * small.shape[2] == MAX_PRODUCT_POSITIONS
    assert products(small, kernel, (1, 1), same) == 1
    assert products(large, kernel, (1, 1), same) == 0
    assert products(small, jnp.ones((3, 3, 1, 2)), (1, 1), same, 2) == 0


@pytest.mark.parametrize(("size", "stride", "dots"), [(1, 1, 2), (1, 2, 2), (3, 2, 0), (3, 1, 0), (7, 2, 0)])
def test_gradients_are_products_where_a_cpu_gains_by_them_and_nowhere_else(size, stride, dots):
    x, kernel = jnp.ones((2, 20, 18, 4)), jnp.ones((size, size, 4, 6))
    rest = ((stride, stride), ((size // 2, size // 2),) * 2)
    gradient = jax.jit(jax.grad(lambda x, k: jnp.sin(ours(x, k, *rest)).sum(), argnums=(0, 1))).trace(x, kernel)
    texts = {name: gradient.lower(lowering_platforms=(name,)).as_text() for name in ("cpu", "cuda", "tpu")}
    assert [texts[name].count("stablehlo.dot_general") for name in texts] == [dots, 0, 0]
    assert [texts[name].count("stablehlo.convolution") for name in texts] == [1 if dots else 3, 3, 3]


@pytest.mark.parametrize(("argnums", "number"), [(0, 2), (1, 2), ((0, 1), 3)])
def test_a_gradient_that_nobody_wants_is_not_traced(argnums, number):
    """With a frozen layer before it a convolution has only its kernel's."""
    x, kernel = jnp.ones((2, 20, 18, 4)), jnp.ones((1, 1, 4, 6))
    rest = ((1, 1), ((0, 0), (0, 0)))
    gradient = jax.grad(lambda x, k: jnp.sin(ours(x, k, *rest)).sum(), argnums)
    assert count_flops(jax.make_jaxpr(gradient)(x, kernel).jaxpr) == number * 2 * 2 * 20 * 18 * 4 * 6


@pytest.mark.parametrize("stride", [1, 2])
def test_bfloat16_products_are_added_up_in_float32(stride):
    """Nine of them, forwards and back to the input: as near to float32's convolution as one in bfloat16 is."""
    x = jnp.asarray(GENERATOR.normal(size=(4, 12, 10, MIN_CHANNELS)), jnp.bfloat16)
    kernel = jnp.asarray(GENERATOR.normal(size=(3, 3, MIN_CHANNELS, 24)), jnp.bfloat16)
    rest = ((stride, stride), ((1, 1), (1, 1)))
    assert products(x, kernel, *rest) == 9
    assert products(x.astype(jnp.float32), kernel.astype(jnp.float32), *rest) == 0

    def both(function, x, kernel):
        y, back = jax.vjp(lambda x, k: function(x, k, *rest), x, kernel)
        return (y, *back(jnp.cos(jnp.arange(y.size, dtype=jnp.float32)).reshape(y.shape).astype(y.dtype)))

    exact = both(plain, x.astype(jnp.float32), kernel.astype(jnp.float32))
    for a, b in zip(both(ours, x, kernel), exact, strict=True):
        assert a.dtype == jnp.bfloat16
        np.testing.assert_allclose(a.astype(jnp.float32), b, atol=2.0**-8 * float(jnp.abs(b).max()))


@pytest.mark.parametrize("shape", [(1, 1), (2, 5), (7, 4), (12, 9)])
def test_max_pool_is_flax_max_pool(shape):
    x = jnp.asarray(GENERATOR.normal(size=(2, *shape, 3)), jnp.float32) - 5.0  # negative: zero padding would show

    def theirs(x):
        return nn.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))

    np.testing.assert_array_equal(max_pool(x), theirs(x))
    gradients = [jax.grad(lambda x, f=f: (f(x) ** 2).sum())(x) for f in (max_pool, theirs)]
    np.testing.assert_allclose(*gradients, rtol=1e-6)
    assert max_pool(x.astype(jnp.bfloat16)).dtype == jnp.bfloat16


@pytest.mark.parametrize(
    ("side", "size", "stride", "padding"), [(8, 3, 2, 1), (7, 3, 2, 1), (9, 2, 2, 0), (6, 3, 1, 1)]
)
def test_of_equal_maxima_the_first_gets_the_gradient(side, size, stride, padding):
    """As in torch: by hand, window after window, on small whole numbers, among which there are many ties."""
    draws = np.random.default_rng(side)
    x = draws.integers(0, 3, (2, side, side + 1, 3)).astype(np.float32)
    pooled, back = jax.vjp(lambda x: max_pool(x, size, stride, padding), x)
    upstream = draws.normal(size=pooled.shape).astype(np.float32)
    expected = np.zeros_like(x)
    padded = np.pad(x, ((0, 0), (padding,) * 2, (padding,) * 2, (0, 0)), constant_values=-np.inf)
    for b, i, j, c in np.ndindex(*pooled.shape):
        window = padded[b, i * stride : i * stride + size, j * stride : j * stride + size, c]
        assert pooled[b, i, j, c] == window.max()
        row, column = np.unravel_index(window.argmax(), window.shape)  # the first
        expected[b, i * stride + row - padding, j * stride + column - padding, c] += upstream[b, i, j, c]
    np.testing.assert_allclose(back(upstream)[0], expected, atol=1e-6)
