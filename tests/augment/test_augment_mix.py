import jax
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from jaxclf import augment
from jaxclf.augment.mix import partners

NUM = 12
IMAGES = np.random.default_rng(0).random((NUM, 10, 15, 3), np.float32)
OWN = np.eye(NUM, dtype=np.float32)  # a class for each row: what a row keeps of its own stands on the diagonal
ALL = np.ones(NUM, np.float32)
MIXES = {"mixup": jax.jit(augment.mixup), "cutmix": jax.jit(augment.cutmix)}
partners_of = jax.jit(partners)
seeds = st.integers(0, 2**31)
masks = st.lists(st.booleans(), min_size=NUM, max_size=NUM).map(lambda rows: np.array(rows, np.float32))


@settings(max_examples=30, deadline=None)
@given(seeds, masks)
def test_partners_are_one_cycle_of_the_real_rows(seed, mask):
    partner = np.asarray(partners_of(jax.random.key(seed), mask))
    np.testing.assert_array_equal(np.sort(partner), np.arange(NUM))
    np.testing.assert_array_equal(partner[mask == 0], np.flatnonzero(mask == 0))
    real = np.flatnonzero(mask)
    if len(real):
        visited, row = [], real[0]
        for _ in real:
            visited.append(row)
            row = partner[row]
        assert row == real[0] and sorted(visited) == list(real)


@pytest.mark.parametrize("name", MIXES)
@settings(max_examples=15, deadline=None)
@given(seed=seeds, mask=masks)
@example(seed=1128, mask=ALL)  # cutmix: a box over the whole picture, whose mean is 1 and a rounding error
def test_sums_shapes_and_padding(name, seed, mask):
    """Padding holds a value and a class of its own: neither may reach a real row, and nothing reaches padding."""
    images, targets = IMAGES.copy(), OWN.copy()
    images[mask == 0], targets[0], targets[mask == 0] = 1e6 * images[mask == 0] + 2, OWN[1], OWN[0]
    out, soft = (np.asarray(part) for part in MIXES[name](jax.random.key(seed), images, targets, mask))
    assert out.shape == images.shape and soft.shape == targets.shape and out.dtype == soft.dtype == np.float32
    np.testing.assert_allclose(soft.sum(1), 1.0, rtol=1e-5)
    assert (soft >= 0).all()
    np.testing.assert_array_equal(out[mask == 0], images[mask == 0])
    np.testing.assert_array_equal(soft[mask == 0], targets[mask == 0])
    assert (out[mask != 0] <= 1.0 + 1e-6).all() and (soft[mask != 0, 0] == 0).all()


@pytest.mark.parametrize("name", MIXES)
def test_repeatable_and_per_image(name):
    first, again = (MIXES[name](jax.random.key(3), IMAGES, OWN, ALL) for _ in range(2))
    jax.tree.map(np.testing.assert_array_equal, first, again)
    assert len(np.unique(np.diag(first[1]))) > NUM // 2
    assert not np.array_equal(first[0], MIXES[name](jax.random.key(4), IMAGES, OWN, ALL)[0])


def test_mixup_is_the_same_combination_of_images_and_targets():
    for seed in range(4):
        out, soft = MIXES["mixup"](jax.random.key(seed), IMAGES, OWN, ALL)
        np.testing.assert_allclose(out, np.einsum("ij,jhwc->ihwc", soft, IMAGES), atol=1e-5)
        share = np.diag(np.asarray(soft))
        assert (share >= 0.5 - 1e-6).all() and ((np.asarray(soft) > 0).sum(1) <= 2).all()


def test_mixup_s_shares_are_beta():
    """The larger of l and 1 - l with l ~ Beta(.4, .4), against NumPy's generator."""
    shares = np.stack([np.diag(MIXES["mixup"](jax.random.key(seed), IMAGES, OWN, ALL)[1]) for seed in range(100)])
    drawn = np.random.default_rng(0).beta(0.4, 0.4, 100_000)
    expected = np.maximum(drawn, 1 - drawn)
    assert abs(shares.mean() - expected.mean()) < 0.015
    assert abs((shares > 0.99).mean() - (expected > 0.99).mean()) < 0.05


def test_cutmix_weighs_by_the_pixels_that_changed():
    share = []
    for seed in range(6):
        out, soft = (np.asarray(part) for part in MIXES["cutmix"](jax.random.key(seed), IMAGES, OWN, ALL))
        kept = (out == IMAGES).all(-1)
        np.testing.assert_allclose(np.diag(soft), kept.mean((1, 2)), rtol=1e-5)
        rows, columns = (~kept).any(2), (~kept).any(1)
        np.testing.assert_array_equal(~kept, rows[:, :, None] & columns[:, None, :])  # a box
        partner = np.asarray(partners_of(jax.random.split(jax.random.key(seed), 3)[0], ALL))
        np.testing.assert_array_equal(out[~kept], IMAGES[partner][~kept])
        share.extend(np.diag(soft))
    assert min(share) < 0.3 and max(share) > 0.9


@pytest.mark.parametrize("mix", [augment.mixup, augment.cutmix])
def test_what_cannot_be_mixed(mix):
    with pytest.raises(ValueError, match="alpha=0"):
        mix(jax.random.key(0), IMAGES, OWN, ALL, alpha=0)
    with pytest.raises(ValueError, match="one_hot first"):
        mix(jax.random.key(0), IMAGES, np.zeros(NUM, np.int32), ALL)
