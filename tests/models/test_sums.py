"""Sums of channels in both forms against float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxclf.models import sums
from jaxclf.models.sums import channel_sums


def terms(x, valid, shift):
    d = jnp.where(valid, x - shift, 0.0)
    return d, jnp.square(d)


@pytest.mark.parametrize("form", [channel_sums, sums._folded, sums._in_two_steps])
@pytest.mark.parametrize("shape", [(5, 3), (4, 7, 3), (3, 8, 12, 5), (2, 11, 13, 4), (2, 1, 9, 3), (3, 48, 50, 2)])
def test_sums_are_those_of_the_terms(form, shape):
    draws = np.random.default_rng(0)
    x, shift = draws.normal(1.0, 2.0, shape).astype(np.float32), draws.normal(size=shape[-1]).astype(np.float32)
    x[0] = np.nan
    valid = (np.arange(shape[0]) > 0).reshape(-1, *(1,) * (len(shape) - 1))
    found = jax.jit(functools.partial(form, terms))(x, valid, shift)
    from_shift = (x[1:].astype(np.float64) - shift).reshape(-1, shape[-1])
    assert found.shape == (2, shape[-1])
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, [from_shift.sum(0), (from_shift**2).sum(0)], rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("form", [sums._folded, sums._in_two_steps])
def test_of_nothing_the_sums_are_zero(form):
    found = form(lambda x: (x, x), jnp.ones((0, 6, 6, 3)))
    np.testing.assert_array_equal(found, np.zeros((2, 3)))
    assert form(lambda x: (x,), jnp.ones((2, 0, 6, 3))).tolist() == [[0.0, 0.0, 0.0]]


def test_a_cpu_reads_the_arrays_once():
    """One loop over all of x, and nothing of its size written: what is left to reduce is a thirty-second."""
    x = jnp.ones((32, 24, 24, 64))
    compiled = jax.jit(lambda x: channel_sums(lambda x: (x - 1.0, jnp.square(x - 1.0)), x)).lower(x).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < x.nbytes / 8
