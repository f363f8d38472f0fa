"""Matrices and the one sampling, against float64 NumPy and SciPy and against what each operation promises."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import map_coordinates

from jaxclf import augment
from jaxclf.augment.draws import box_sides

NUM = 400
RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (8, 20, 20, 3)).astype(np.uint8)
CORNERS = np.array([[x, y, 1.0] for x in (-1, 1) for y in (-1, 1)])  # [4, 3]
sample = jax.jit(augment.sample, static_argnums=2)
seeds = st.integers(0, 2**31)


def drawn(operation, seed=0, **options):
    """float64 [NUM, 3, 3]."""
    return np.asarray(jax.jit(lambda key: operation(key, NUM, **options))(jax.random.key(seed)), np.float64)


def shown(matrices, points):
    """Where homogeneous points [p, 3] of the output lie in the input: [b, p, 2]."""
    mapped = np.einsum("bij,pj->bpi", matrices, points)
    return mapped[..., :2] / mapped[..., 2:]


def reference(images, matrices, size):
    """The sampling in float64: SciPy's mode "mirror" at the same pixel centres."""
    num, height, width, channels = images.shape
    centres = (np.arange(size) + 0.5) * 2 / size - 1
    points = np.stack([*np.meshgrid(centres, centres), np.ones((size, size))], -1).reshape(-1, 3)
    x, y = np.moveaxis(shown(np.asarray(matrices, np.float64), points), -1, 0)
    columns, rows = (x + 1) * width / 2 - 0.5, (y + 1) * height / 2 - 0.5
    out = np.empty((num, size * size, channels))
    for image, channel in itertools.product(range(num), range(channels)):
        plane = images[image, :, :, channel].astype(np.float64)
        out[image, :, channel] = map_coordinates(plane, [rows[image], columns[image]], order=1, mode="mirror")
    return out.reshape(num, size, size, channels)


@settings(max_examples=15, deadline=None)
@given(seed=seeds)
def test_sampling_is_the_float64_reference(seed):
    """Affine, perspective and far outside the picture, on a height that is not the width."""
    rng = np.random.default_rng(seed)
    images = rng.random((4, 9, 13, 2)).astype(np.float32)
    matrices = np.eye(3) + rng.normal(0, [[0.7, 0.7, 2.0], [0.7, 0.7, 2.0], [0.1, 0.1, 0.0]], (4, 3, 3))
    out = sample(images, matrices.astype(np.float32), 11)
    np.testing.assert_allclose(out, reference(images, matrices.astype(np.float32), 11), atol=2e-5)


def test_sampling_at_a_photograph_s_size():
    """Positions near 258 have 2**-16 of a pixel in float32: neighbours that differ by 1 may differ by that."""
    images = RNG.integers(0, 256, (2, 258, 258, 1)).astype(np.uint8)
    matrices = augment.product(
        augment.random_rotate(jax.random.key(0), 2, probability=1.0), augment.random_warp(jax.random.key(1), 2)
    )
    out = sample(images, matrices, 224)
    np.testing.assert_allclose(out, reference(images / 255.0, matrices, 224), atol=5e-5)
    assert np.abs(out - reference(images / 255.0, matrices, 224)).mean() < 5e-6


def test_uint8_is_float_in_0_1():
    matrices = augment.random_warp(jax.random.key(0), 8)
    np.testing.assert_allclose(
        sample(IMAGES, matrices, 16), sample(augment.to_float(IMAGES), matrices, 16), rtol=1e-6, atol=1e-6
    )


@pytest.mark.parametrize("side", [20, 19])
def test_the_identity_is_the_picture_bit_for_bit(side):
    images = IMAGES[:, :side, :side]
    np.testing.assert_array_equal(sample(images, augment.identity(8), side), augment.to_float(images))


def test_the_border_is_numpy_s_reflect():
    """Zoomed out by three: the picture, and around it what np.pad gives."""
    out = sample(IMAGES, augment.identity(8) * jnp.array([3.0, 3.0, 1.0]), 60)
    inner = np.pad(IMAGES, ((0, 0), (19, 19), (19, 19), (0, 0)), mode="reflect")  # as far as one reflection reaches
    np.testing.assert_allclose(out[:, 1:-1, 1:-1], inner / 255.0, atol=1e-5)


def test_a_horizon_gives_finite_pixels_of_the_picture():
    """No operation here makes one, a matrix of one's own may: no index leaves the picture."""
    matrices = augment.identity(8).at[:, 2].set(jnp.array([1.0, 0.0, 0.0]))
    out = np.asarray(sample(IMAGES, matrices, 21))  # the middle column divides by 0
    middle = np.delete(out, 10, axis=2)
    assert np.isfinite(middle).all() and middle.min() >= 0 and middle.max() <= 1


@pytest.mark.parametrize(
    ("images", "matrices", "size", "message"),
    [
        (np.zeros((2, 4, 4)), np.zeros((2, 3, 3)), 4, "images must be"),
        (np.zeros((2, 1, 4, 3)), np.zeros((2, 3, 3)), 4, "sides of at least 2"),
        (np.zeros((2, 4, 4, 3)), np.zeros((3, 3)), 4, r"matrices must be \[2, 3, 3\]"),
        (np.zeros((2, 4, 4, 3)), np.zeros((2, 3, 3)), 0, "size=0"),
    ],
)
def test_what_cannot_be_sampled(images, matrices, size, message):
    with pytest.raises(ValueError, match=message):
        augment.sample(images, matrices, size)


def test_flip_twice_is_nothing_and_once_is_the_mirror_image():
    once = augment.random_flip(jax.random.key(0), 8, probability=1.0)
    np.testing.assert_array_equal(sample(IMAGES, once, 20), augment.to_float(IMAGES[:, :, ::-1]))
    np.testing.assert_array_equal(augment.product(once, once), augment.identity(8))
    share = (drawn(augment.random_flip)[:, 0, 0] < 0).mean()
    assert 0.4 < share < 0.6


def test_the_eight_symmetries_permute_pixels_bit_for_bit():
    out = np.asarray(sample(IMAGES, augment.dihedral(np.arange(8)), 20))
    pictures = np.asarray(augment.to_float(IMAGES))
    for which, picture in enumerate(pictures):
        expected = picture[:: -1 if which & 2 else 1, :: -1 if which & 1 else 1]
        expected = expected.transpose(1, 0, 2) if which & 4 else expected
        np.testing.assert_array_equal(out[which], expected)


def test_the_symmetries_are_a_group_of_eight():
    group = np.asarray(augment.dihedral(np.arange(8)))
    assert len(np.unique(group, axis=0)) == 8
    products = np.einsum("aij,bjk->abik", group, group).reshape(-1, 3, 3)
    assert len(np.unique(np.concatenate([group, products]), axis=0)) == 8  # closed
    counts = np.unique(drawn(augment.random_dihedral), axis=0, return_counts=True)[1]
    assert len(counts) == 8 and counts.min() > 0.5 * NUM / 8


def test_a_product_shows_the_first_operation_s_picture_through_the_second():
    """Two samplings one after the other against one through the product; smooth pictures, so that blur is small."""
    grid = np.linspace(0, 3, 64)
    pictures = (np.sin(grid)[:, None] * np.cos(grid) * np.ones((4, 1, 1)))[..., None].astype(np.float32)
    first = augment.random_zoom(jax.random.key(0), 4, max_zoom=1.5, probability=1.0)
    second = augment.random_rotate(jax.random.key(1), 4, probability=1.0)
    at_once = np.asarray(sample(pictures, augment.product(first, second), 64))
    in_turn = np.asarray(sample(sample(pictures, first, 64), second, 64))
    swapped = np.asarray(sample(pictures, augment.product(second, first), 64))
    inner = np.s_[:, 10:-10, 10:-10]
    assert np.abs(at_once - in_turn)[inner].max() < 2e-3 < np.abs(at_once - swapped)[inner].max()


def test_rotation_keeps_lengths_and_its_range():
    matrices = drawn(augment.random_rotate)
    rotation = matrices[:, :2, :2]
    np.testing.assert_allclose(rotation @ rotation.transpose(0, 2, 1), np.eye(2) + 0 * rotation, atol=3e-6)
    degrees = np.degrees(np.arctan2(matrices[:, 1, 0], matrices[:, 0, 0]))
    assert 9 < degrees.max() <= 10.0001 and -10.0001 <= degrees.min() < -9
    assert 0.18 < (degrees == 0).mean() < 0.32  # p .75


def test_zoom_stays_inside_and_in_its_range():
    matrices = drawn(augment.random_zoom)
    assert np.abs(shown(matrices, CORNERS)).max() <= 1 + 1e-6
    zoom = 1 / matrices[:, 0, 0]
    np.testing.assert_array_equal(matrices[:, 0, 0], matrices[:, 1, 1])
    assert zoom.min() == 1.0 and 1.09 < zoom.max() <= 1.1 + 1e-6
    assert 0.18 < (zoom == 1).mean() < 0.32
    zoomed = matrices[zoom > 1.001]
    room = zoomed[:, :2, 2] / (1 - zoomed[:, :1, 0])
    assert room.min() < -0.9 and room.max() > 0.9 and abs(np.corrcoef(room.T)[0, 1]) < 0.2  # placed anywhere


def test_a_crop_has_the_area_and_shape_drawn_and_lies_inside():
    matrices = drawn(augment.random_resized_crop)
    width, height = matrices[:, 0, 0], matrices[:, 1, 1]
    assert np.abs(shown(matrices, CORNERS)).max() <= 1 + 1e-6
    area, aspect = width * height, width / height
    assert 0.35 - 1e-5 <= area.min() < 0.37 and 0.98 < area.max() <= 1 + 1e-6
    assert abs(np.quantile(area, 0.5) - 0.675) < 0.05  # uniform, also near 1
    assert 3 / 4 - 1e-5 <= aspect.min() < 0.78 and 1.28 < aspect.max() <= 4 / 3 + 1e-5
    assert abs(np.log(aspect).mean()) < 0.03  # wide and tall alike


@settings(max_examples=20, deadline=None)
@given(st.floats(0.01, 1), st.floats(0.01, 1), st.floats(0.1, 10), st.floats(0.1, 10), seeds)
def test_boxes_have_the_area_drawn_and_fit(area, other_area, aspect, other_aspect, seed):
    areas, aspects = sorted((area, other_area)), sorted((aspect, other_aspect))
    width, height = (
        np.asarray(s) for s in box_sides(jax.random.key(seed), 8, (areas[0], areas[1]), (aspects[0], aspects[1]))
    )
    assert (width <= 1).all() and (height <= 1).all() and (width > 0).all()
    assert (width * height >= areas[0] * (1 - 1e-4)).all() and (width * height <= areas[1] * (1 + 1e-4)).all()
    fits = (width < 1 - 1e-6) & (height < 1 - 1e-6)  # where the aspect was not cut down to what fits
    ratio = (width / height)[fits]
    assert (ratio >= aspects[0] * (1 - 1e-4)).all() and (ratio <= aspects[1] * (1 + 1e-4)).all()


def test_a_warp_moves_corners_by_at_most_its_limit_and_keeps_lines():
    matrices = drawn(augment.random_warp)
    moved = np.abs(shown(matrices, CORNERS) - CORNERS[:, :2])
    assert 0.19 < moved.max() <= 0.2 + 1e-5
    np.testing.assert_allclose(moved, np.broadcast_to(moved[:, :1], moved.shape), atol=1e-5)  # each corner as far
    line = np.stack([np.linspace(-1, 1, 7), 0.3 + 0.5 * np.linspace(-1, 1, 7), np.ones(7)], -1)
    points = shown(matrices, line)
    start, end = points[:, :1], points[:, -1:]
    along, across = end - start, points - start
    assert np.abs(along[..., 0] * across[..., 1] - along[..., 1] * across[..., 0]).max() < 1e-5
    assert 0.18 < (moved.max((1, 2)) == 0).mean() < 0.32


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda key: augment.random_flip(key, 2, probability=1.5), "probability=1.5"),
        (lambda key: augment.random_zoom(key, 2, max_zoom=0.9), "max_zoom=0.9"),
        (lambda key: augment.random_warp(key, 2, max_warp=0.5), "max_warp=0.5"),
        (lambda key: augment.random_resized_crop(key, 2, area=(0.5, 1.1)), r"area=\(0.5, 1.1\)"),
        (lambda key: augment.random_resized_crop(key, 2, aspect=(2.0, 1.0)), r"aspect=\(2.0, 1.0\)"),
    ],
)
def test_options_out_of_bounds(call, message):
    with pytest.raises(ValueError, match=message):
        call(jax.random.key(0))
