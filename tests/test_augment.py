import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxclf import augment

IMAGES = np.random.default_rng(0).integers(0, 256, (6, 37, 37, 3)).astype(np.uint8)
SIDE_ON = jax.jit(augment.make_augment("side_on", 32))


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**31))
def test_shape_range_and_repeatability(seed):
    out = np.asarray(SIDE_ON(jax.random.key(seed), IMAGES))
    assert out.shape == (6, 32, 32, 3) and out.dtype == np.float32
    assert out.min() >= 0.0 and out.max() <= 1.0
    np.testing.assert_array_equal(out, SIDE_ON(jax.random.key(seed), IMAGES))


def test_each_image_has_its_own_draw():
    same = np.broadcast_to(IMAGES[:1], IMAGES.shape)
    out = np.asarray(SIDE_ON(jax.random.key(0), same)).reshape(6, -1)
    assert len(np.unique(out, axis=0)) == 6


def test_keys_differ():
    assert np.abs(SIDE_ON(jax.random.key(0), IMAGES) - SIDE_ON(jax.random.key(1), IMAGES)).max() > 0.1


def test_none_is_the_centre_crop_exactly():
    out = augment.make_augment("none", 31)(jax.random.key(0), IMAGES)
    np.testing.assert_allclose(out, IMAGES[:, 3:34, 3:34] / 255.0, rtol=1e-6)


def test_unknown_preset():
    with pytest.raises(ValueError, match="upside_down"):
        augment.make_augment("upside_down", 32)


def test_crop_larger_than_the_image():
    with pytest.raises(ValueError, match="cannot crop 40"):
        augment.center_crop(IMAGES, 40)


def draws(images, number=300):
    return np.asarray(augment.random_affine(jax.random.key(3), np.repeat(images, number, 0), images.shape[1]))


def test_the_affine_map_moves_a_picture_as_stated():
    """From where a bright dot lands: half are mirrored, and it never moves further than 10 degrees and 1.1 allow."""
    size, dot = 65, np.zeros((1, 65, 65, 1), np.float32)
    dot[0, 30:35, 52:57] = 1.0  # on the horizontal axis, right of the centre
    out = draws(dot)[..., 0]
    total = out.sum((1, 2))
    grid = np.arange(size) - 32.0
    y, x = (out.sum(2) @ grid) / total, (out.sum(1) @ grid) / total
    assert 0.4 < (x < 0).mean() < 0.6
    radius, degrees = np.hypot(x, y), np.degrees(np.arctan2(y, np.abs(x)))
    assert np.abs(degrees).max() < 10 + 8  # the crop's shift adds to the angle
    assert np.abs(degrees).max() > 6
    assert radius.min() > 15 and radius.max() < 32
    untouched = np.isclose(np.abs(x), 22.0, atol=1e-3) & np.isclose(y, 0.0, atol=1e-3)
    assert 0.01 < untouched.mean() < 0.2  # a quarter of a quarter


def test_a_constant_picture_stays_constant_to_the_border():
    """Reflection, not black corners."""
    out = draws(np.full((1, 24, 24, 3), 0.7, np.float32), 50)
    np.testing.assert_allclose(out, 0.7, rtol=1e-5)


def test_without_flip_nothing_is_mirrored():
    ramp = np.broadcast_to(np.linspace(0, 1, 32, dtype=np.float32)[None, None, :, None], (20, 32, 32, 1))
    out = np.asarray(augment.random_affine(jax.random.key(0), ramp, 32, flip=False))
    assert (out[:, :, 24:].mean((1, 2, 3)) > out[:, :, :8].mean((1, 2, 3))).all()


def test_lighting_is_the_formula():
    images = np.random.default_rng(1).random((400, 4, 4, 3), np.float32) * 0.4 + 0.3  # far from the clip
    out = np.asarray(augment.random_lighting(jax.random.key(0), images))
    brightness = out.mean((1, 2, 3)) - images.mean((1, 2, 3))
    assert np.abs(brightness).max() <= 0.05 + 1e-6 and np.abs(brightness).max() > 0.045
    contrast = out.std((1, 2, 3)) / images.std((1, 2, 3))
    assert 1 / 1.05 - 1e-4 <= contrast.min() < 0.96 and 1.04 < contrast.max() <= 1.05 + 1e-4


def test_normalize():
    out = augment.normalize(np.full((1, 1, 1, 3), 0.5, np.float32), (0.5, 0.4, 0.3), (1.0, 0.1, 0.2))
    np.testing.assert_allclose(out[0, 0, 0], [0.0, 1.0, 1.0], rtol=1e-5)
