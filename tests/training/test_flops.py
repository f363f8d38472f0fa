"""FLOPs of convolutions and matrix products, read off traces: against the definition."""

import jax
import jax.numpy as jnp
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import ShapeDtypeStruct, lax

from jaxclf.training.flops import count_flops


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 3), st.sampled_from([1, 2]), st.sampled_from([1, 2]), st.sampled_from([8, 12]))
def test_a_convolution_and_its_gradients_are_equally_dear(kernel, stride, groups, size):
    """By the definition: output positions times window times channels; the gradients' zeros do not count."""
    x, pad = ShapeDtypeStruct((2, size, size, 4), jnp.float32), (kernel // 2, (kernel - 1) // 2)
    weights = ShapeDtypeStruct((kernel, kernel, 4 // groups, 6), jnp.float32)

    def convolve(x, weights):
        numbers = ("NHWC", "HWIO", "NHWC")
        return lax.conv_general_dilated(
            x, weights, (stride, stride), (pad, pad), dimension_numbers=numbers, feature_group_count=groups
        )

    def both(x, weights):
        out, backward = jax.vjp(convolve, x, weights)
        return backward(out)

    by_hand = 2 * 2 * (size // stride) ** 2 * 6 * kernel**2 * 4 // groups
    assert count_flops(jax.make_jaxpr(convolve)(x, weights)) == by_hand
    assert count_flops(jax.make_jaxpr(both)(x, weights)) == 3 * by_hand


def test_loops_count_each_turn_branches_the_dearest_and_platforms_the_default():
    x = ShapeDtypeStruct((4, 4), jnp.float32)
    scanned = jax.make_jaxpr(lambda x: lax.scan(lambda c, _: (c @ c, None), x, length=7)[0])(x)
    branches = jax.make_jaxpr(lambda x: lax.cond(x[0, 0] > 0, lambda x: x @ x @ x, lambda x: x @ x, x))(x)
    forms = {"cpu": lambda x: x @ x @ x, "default": lambda x: x @ x}
    platforms = jax.make_jaxpr(lambda x: lax.platform_dependent(x, **forms))(x)
    counts = [count_flops(jaxpr) for jaxpr in (scanned, branches, platforms)]
    assert counts == [7 * 128, 2 * 128, 128]
