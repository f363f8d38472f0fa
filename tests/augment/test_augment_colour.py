from functools import partial

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxclf import augment

IMAGES = np.random.default_rng(1).random((400, 12, 16, 3), np.float32)


def test_lighting_is_the_formula():
    images = IMAGES[:, :4, :4] * 0.4 + 0.3  # far from the clip
    out = np.asarray(augment.random_lighting(jax.random.key(0), images))
    brightness = out.mean((1, 2, 3)) - images.mean((1, 2, 3))
    assert np.abs(brightness).max() <= 0.05 + 1e-6 and np.abs(brightness).max() > 0.045
    contrast = out.std((1, 2, 3)) / images.std((1, 2, 3))
    assert 1 / 1.05 - 1e-4 <= contrast.min() < 0.96 and 1.04 < contrast.max() <= 1.05 + 1e-4


def test_lighting_keeps_the_range_and_can_be_nothing():
    out = np.asarray(augment.random_lighting(jax.random.key(0), IMAGES, max_change=0.8))
    assert out.min() == 0.0 and out.max() == 1.0
    nothing = augment.random_lighting(jax.random.key(0), IMAGES, max_change=0.0)
    np.testing.assert_allclose(nothing, IMAGES, atol=1e-6)
    with pytest.raises(ValueError, match="max_change=2"):
        augment.random_lighting(jax.random.key(0), IMAGES, max_change=2)


erase = jax.jit(partial(augment.random_erasing, fill=-1.0))


@settings(max_examples=5, deadline=None)
@given(st.integers(0, 2**31))
def test_erasing_paints_one_box_of_the_area_drawn(seed):
    out = np.asarray(erase(jax.random.key(seed), IMAGES))
    erased = (out == -1).all(-1)
    np.testing.assert_array_equal((out == -1).any(-1), erased)
    np.testing.assert_array_equal(out[~erased], IMAGES[~erased])
    rows, columns = erased.any(2), erased.any(1)
    np.testing.assert_array_equal(erased, rows[:, :, None] & columns[:, None, :])  # a box...
    for side in (rows, columns):
        assert (np.abs(np.diff(side.astype(int), axis=1, prepend=0, append=0)).sum(1) <= 2).all()  # ...in one piece
    touched = erased.any((1, 2))
    assert 0.15 < touched.mean() < 0.35  # p .25
    # Each side is rounded by at most half a pixel, of 12 and 16.
    width, height = columns.sum(1)[touched], rows.sum(1)[touched]
    assert ((width + 0.5) * (height + 0.5) >= 0.02 * 192).all()
    assert ((width - 0.5) * (height - 0.5) <= 192 / 3).all()


def test_erasing_reaches_every_pixel():
    erased = np.asarray(jax.jit(partial(augment.random_erasing, fill=-1.0, probability=1.0))(jax.random.key(0), IMAGES))
    counts = (erased[..., 0] == -1).sum(0)
    assert counts.min() > 0 and abs(counts[:, :8].sum() / counts.sum() - 0.5) < 0.05


def test_erasing_takes_the_image_s_own_mean():
    out = np.asarray(jax.jit(partial(augment.random_erasing, probability=1.0))(jax.random.key(0), IMAGES))
    means = IMAGES.mean((1, 2), keepdims=True)
    painted = np.abs(out - means).max(-1) < 1e-6
    assert painted.any((1, 2)).all()
    np.testing.assert_array_equal(out[~painted], IMAGES[~painted])
    assert out.min() >= IMAGES.min() and out.max() <= IMAGES.max()


def test_erasing_nothing_and_out_of_bounds():
    nothing = jax.jit(partial(augment.random_erasing, probability=0.0))(jax.random.key(0), IMAGES)
    np.testing.assert_array_equal(nothing, IMAGES)
    with pytest.raises(ValueError, match=r"area=\(0.0, 0.5\)"):
        augment.random_erasing(jax.random.key(0), IMAGES, area=(0.0, 0.5))
