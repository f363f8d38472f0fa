"""The presets and pipelines as a whole; the operations are tested in test_augment_geometry, _colour and _mix."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxclf import augment
from jaxclf.augment import presets

KEY = jax.random.key(7)
IMAGES = np.random.default_rng(0).integers(0, 256, (6, 37, 37, 3)).astype(np.uint8)
PRESETS = {name: jax.jit(augment.make_augment(name, 32)) for name in ("none", *augment.PRESETS)}
DRAWN = tuple(augment.PRESETS)
seeds = st.integers(0, 2**31)


@pytest.mark.parametrize("name", PRESETS)
@settings(max_examples=8, deadline=None)
@given(seed=seeds)
def test_shape_range_and_repeatability(name, seed):
    out = np.asarray(PRESETS[name](jax.random.key(seed), IMAGES))
    assert out.shape == (6, 32, 32, 3) and out.dtype == np.float32
    assert out.min() >= 0.0 and out.max() <= 1.0
    np.testing.assert_array_equal(out, PRESETS[name](jax.random.key(seed), IMAGES))


@pytest.mark.parametrize("name", DRAWN)
def test_each_image_has_its_own_draw(name):
    same = np.broadcast_to(IMAGES[:1], IMAGES.shape)
    out = np.asarray(PRESETS[name](jax.random.key(5), same)).reshape(6, -1)
    assert len(np.unique(out, axis=0)) == 6


@pytest.mark.parametrize("name", DRAWN)
def test_keys_differ(name):
    out, other = (np.asarray(PRESETS[name](jax.random.key(seed), IMAGES)) for seed in (0, 1))
    assert (np.abs(out - other).max((1, 2, 3)) > 0.1).all()


@pytest.mark.parametrize("name", DRAWN)
def test_a_row_depends_on_the_key_and_its_number_only(name):
    others = IMAGES.copy()
    others[[0, 1, 3, 4, 5]] = 255 - others[[0, 1, 3, 4, 5]]
    key = jax.random.key(4)
    np.testing.assert_array_equal(PRESETS[name](key, IMAGES)[2], PRESETS[name](key, others)[2])


def test_a_shorter_batch_draws_the_same():
    key, crop = jax.random.key(4), PRESETS["random_resized_crop"]
    np.testing.assert_allclose(crop(key, IMAGES[:3]), crop(key, IMAGES)[:3], atol=1e-6)


@pytest.mark.parametrize("channels", [1, 5])
def test_any_number_of_channels(channels):
    images = np.random.default_rng(1).integers(0, 256, (6, 37, 37, channels)).astype(np.uint8)
    out = np.asarray(PRESETS["random_resized_crop"](jax.random.key(0), images))
    assert out.shape == (6, 32, 32, channels) and out.min() >= 0.0 and out.max() <= 1.0


def test_jit_is_eager():
    eager = augment.make_augment("random_resized_crop", 32)(jax.random.key(2), IMAGES)
    np.testing.assert_allclose(PRESETS["random_resized_crop"](jax.random.key(2), IMAGES), eager, atol=2e-5)


@pytest.mark.parametrize("shown", [31 / 37, 0.83])
def test_none_is_the_centre_crop_exactly_where_evaluation_shows_that_much(shown):
    out = augment.make_augment("none", 31, shown=shown)(jax.random.key(0), IMAGES)
    np.testing.assert_allclose(out, IMAGES[:, 3:34, 3:34] / 255.0, rtol=1e-6)


@pytest.mark.parametrize("shown", [0.8, 1.0])
def test_none_leaves_pictures_of_the_size_asked_for_as_they_are(shown):
    np.testing.assert_array_equal(
        augment.make_augment("none", 37, shown=shown)(jax.random.key(0), IMAGES), augment.to_float(IMAGES)
    )


GRADIENT = np.broadcast_to(
    np.stack(np.meshgrid(np.linspace(-1, 1, 65), np.linspace(-1, 1, 65)), -1).astype(np.float32), (400, 65, 65, 2)
)
"""Each pixel says where it is: (x, y) of its centre, from -1 to 1 between the outermost centres."""


def places(name: str, shown: float, seed: int = 0):
    """Where the pixels (12, 12), (20, 20) and the middle one of each view come from: float [n, 3, 2]."""
    geometry = augment.make_pipeline(33, geometry=_geometry(name, shown))
    out = np.asarray(geometry(jax.random.key(seed), GRADIENT))
    return out[:, [12, 20, 16], [12, 20, 16]]


def _geometry(name: str, shown: float):
    """The operations of a preset without its colours, which would change what the pixels say."""
    caught = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(presets, "make_pipeline", lambda size, *, geometry=(), colour=(): caught.append(geometry))
        augment.make_augment(name, 33, shown=shown)
    return caught[0]


@pytest.mark.parametrize("name", ["side_on", "top_down"])
def test_a_view_shows_as_much_of_the_picture_as_evaluation_does(name):
    """By the length in the picture of a piece of a view's diagonal: the share shown, over what it is zoomed by."""
    seen = places(name, 0.8)
    side = 8 * 2 / 33 * 65 / 64  # of eight pixels, in a view of the whole picture
    across = np.linalg.norm(seen[:, 1] - seen[:, 0], axis=-1) / np.sqrt(2) / side
    assert across.max() < 0.801 and across.min() > 0.8 / 1.1 - 1e-3
    unzoomed = np.isclose(across, 0.8, atol=1e-3).mean()
    assert 0.15 < unzoomed < 0.35, "a quarter is not zoomed"
    assert 0.8 * (0.25 + 0.75 / 1.05) - across.mean() == pytest.approx(0.0, abs=0.01)


@pytest.mark.parametrize("name", ["side_on", "top_down"])
def test_views_of_less_than_the_whole_come_from_anywhere_in_it(name):
    middle = places(name, 0.8)[:, 2]
    assert middle.min() < -0.2 and middle.max() > 0.2, "a piece of .8 can lie .2 from the middle, a zoomed one further"
    assert np.abs(middle.mean(0)).max() < 0.03, "no side is preferred"
    assert np.abs(middle).max() < 1 - 0.8 / 1.1 + 0.05, "none lies outside"


def test_a_preset_of_its_own_scale_does_not_ask_what_evaluation_shows():
    crop = augment.make_augment("random_resized_crop", 32, shown=0.5)
    np.testing.assert_array_equal(jax.jit(crop)(KEY, IMAGES), PRESETS["random_resized_crop"](KEY, IMAGES))


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("shown", [0.0, -1.0, 1.01, float("nan")])
def test_a_share_outside_0_to_1_is_an_error(name, shown):
    with pytest.raises(ValueError, match=f"shown={shown} must lie in \\(0, 1]"):
        augment.make_augment(name, 32, shown=shown)


def test_unknown_preset():
    with pytest.raises(ValueError, match="'upside_down' is not a preset; choose one of 'none', 'side_on', 'top_down'"):
        augment.make_augment("upside_down", 32)
    with pytest.raises(ValueError, match="image_size=0"):
        augment.make_pipeline(0)


def test_crop_larger_than_the_image():
    with pytest.raises(ValueError, match="cannot crop 40"):
        augment.center_crop(IMAGES, 40)


def test_a_pipeline_without_operations_shows_the_whole_picture():
    np.testing.assert_array_equal(
        jax.jit(augment.make_pipeline(37))(jax.random.key(0), IMAGES), augment.to_float(IMAGES)
    )


def test_a_pipeline_applies_in_the_order_given_with_one_sampling():
    """A fixed crop of the left half, then a flip: the right half of the flipped picture, mirrored back to the left."""
    left_half = jnp.array([[0.5, 0, -0.5], [0, 1, 0], [0, 0, 1]])
    operations = (lambda key, num: jnp.tile(left_half, (num, 1, 1)), partial(augment.random_flip, probability=1.0))
    even = IMAGES[:, :36, :36]
    out = jax.jit(augment.make_pipeline(36, geometry=operations))(jax.random.key(0), even)
    expected = jax.jit(augment.sample, static_argnums=2)(even[:, :, :18][:, :, ::-1], augment.identity(6), 36)
    # Away from the crop's cut, where the one sees the next pixel and the other its reflection.
    np.testing.assert_allclose(out[:, :, 2:-1], expected[:, :, 2:-1], atol=1e-5)
    graph = str(jax.make_jaxpr(augment.make_augment("top_down", 36))(jax.random.key(0), even))
    assert graph.count("gather[") == 4  # the four neighbours, once


def test_an_operation_appended_leaves_the_draws_of_the_others():
    calls = []

    def recorded(key, num):
        matrices = augment.random_rotate(key, num)
        calls.append(np.asarray(matrices))
        return matrices

    for geometry in ((augment.random_flip, recorded), (augment.random_flip, recorded, augment.random_zoom)):
        augment.make_pipeline(32, geometry=geometry)(jax.random.key(3), IMAGES)
    np.testing.assert_array_equal(*calls)


def test_the_same_operation_twice_draws_twice():
    calls = []

    def recorded(key, num):
        calls.append(np.asarray(augment.random_rotate(key, num, probability=1.0)))
        return calls[-1]

    augment.make_pipeline(32, geometry=(recorded, recorded))(jax.random.key(3), IMAGES)
    assert np.abs(calls[0] - calls[1]).max(axis=(1, 2)).min() > 1e-4


def test_top_down_has_every_symmetry_and_side_on_only_the_flip():
    """Told apart by where the brightest quarter of a picture goes."""
    corner = np.zeros(IMAGES.shape, np.uint8)
    corner[:, 4:14, 22:32] = 200  # above, right of the middle
    for name, expected in (("side_on", {(0, 0), (0, 1)}), ("top_down", {(y, x) for y in (0, 1) for x in (0, 1)})):
        out = np.concatenate([PRESETS[name](jax.random.key(seed), corner) for seed in range(30)])
        below = out[:, 16:].mean((1, 2, 3)) > out[:, :16].mean((1, 2, 3))
        right = out[:, :, 16:].mean((1, 2, 3)) > out[:, :, :16].mean((1, 2, 3))
        seen, counts = np.unique(np.stack([below, right], 1), axis=0, return_counts=True)
        assert set(map(tuple, seen.astype(int))) == expected
        assert counts.min() > 0.6 * 180 / len(expected)


def test_normalize():
    out = augment.normalize(np.full((1, 1, 1, 3), 0.5, np.float32), (0.5, 0.4, 0.3), (1.0, 0.1, 0.2))
    np.testing.assert_allclose(out[0, 0, 0], [0.0, 1.0, 1.0], rtol=1e-5)
