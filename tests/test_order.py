import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxclf.order import epoch_order, stratified_split


@given(st.integers(0, 2**31), st.integers(0, 1000), st.integers(0, 300))
def test_every_index_exactly_once(seed, epoch, number):
    order = epoch_order(seed, epoch, number)
    assert order.dtype == np.int32
    np.testing.assert_array_equal(np.sort(order), np.arange(number))
    np.testing.assert_array_equal(order, epoch_order(seed, epoch, number))


def test_seed_and_epoch_both_matter():
    orders = {epoch_order(seed, epoch, 100).tobytes() for seed in range(4) for epoch in range(4)}
    assert len(orders) == 16


def test_the_stream_is_frozen():
    """The same order on every machine, Python and NumPy: a run repeats elsewhere."""
    assert epoch_order(7, 3, 10).tolist() == [5, 4, 9, 2, 7, 1, 0, 8, 3, 6]


@given(
    st.lists(st.integers(2, 40), min_size=2, max_size=6),
    st.floats(0.05, 0.9),
    st.integers(0, 100),
)
def test_split_is_a_stratified_partition(counts, fraction, seed):
    labels = np.repeat(np.arange(len(counts)), counts)
    labels = labels[epoch_order(seed, 0, len(labels))]
    train, valid = stratified_split(labels, valid_fraction=fraction, seed=seed)
    np.testing.assert_array_equal(np.sort(np.concatenate([train, valid])), np.arange(len(labels)))
    for label, count in enumerate(counts):
        held = int((labels[valid] == label).sum())
        assert held == min(max(round(fraction * count), 1), count - 1)


def test_split_depends_on_the_seed():
    labels = np.repeat([0, 1], 50)
    first, again, other = (stratified_split(labels, seed=seed)[1] for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert set(first) != set(other)


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1])
def test_bad_fraction(fraction):
    with pytest.raises(ValueError, match="valid_fraction"):
        stratified_split(np.array([0, 0]), valid_fraction=fraction)


def test_negative_arguments():
    with pytest.raises(ValueError, match="epoch=-1"):
        epoch_order(0, -1, 3)
