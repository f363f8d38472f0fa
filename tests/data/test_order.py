import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxclf.data.order import balanced_order, epoch_order, k_folds, stratified_split


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


def test_labels_that_cannot_be_shared_out():
    with pytest.raises(ValueError, match=r"2 examples have no label \(-1\)"):
        stratified_split(np.array([-1, 0, 0, -1]))
    with pytest.raises(ValueError, match="class number 1 has one example only"):
        k_folds(np.array([0, 0, 1]), 2)
    with pytest.raises(ValueError, match="no combination of labels occurs often enough"):
        stratified_split(np.eye(3), valid_fraction=0.2)


MULTI_HOT = st.lists(st.sampled_from([(0, 0, 0), (1, 0, 0), (0, 1, 1), (1, 1, 1)]), min_size=10, max_size=60)


def combinations(rows):
    return np.asarray(rows) @ [1, 2, 4]


@given(MULTI_HOT, st.floats(0.2, 0.8), st.integers(0, 9))
def test_multi_label_split_shares_out_combinations(rows, fraction, seed):
    labels = np.array(rows, np.float32)
    numbers = combinations(rows)
    train, valid = stratified_split(labels, valid_fraction=fraction, seed=seed)
    np.testing.assert_array_equal(np.sort(np.concatenate([train, valid])), np.arange(len(rows)))
    for number, count in zip(*np.unique(numbers, return_counts=True), strict=True):
        assert (numbers[valid] == number).sum() == min(round(fraction * count), count - 1)


def test_the_split_of_a_run_is_frozen():
    """Seeds of old runs keep their validation part, and multi-label ones will."""
    assert stratified_split(np.arange(12) % 2, valid_fraction=0.3, seed=5)[1].tolist() == [4, 5, 7, 8]
    rows = np.array([[1, 0], [1, 1], [0, 0]])[np.arange(12) % 3]
    assert stratified_split(rows, valid_fraction=0.3, seed=5)[1].tolist() == [5, 7, 9]
    assert k_folds(np.arange(12) % 2, 4, seed=5).tolist() == [1, 3, 0, 1, 1, 2, 3, 3, 0, 0, 2, 2]


@given(st.lists(st.integers(2, 20), min_size=1, max_size=5), st.integers(2, 6), st.integers(0, 99), st.booleans())
def test_folds_are_even_in_every_class(counts, num_folds, seed, multi_label):
    labels = np.repeat(np.arange(len(counts)), counts)
    labels = labels[epoch_order(seed, 0, len(labels))]
    if num_folds > len(labels):
        with pytest.raises(ValueError, match=f"num_folds={num_folds}"):
            k_folds(labels, num_folds, seed)
        return
    given_labels = np.eye(len(counts))[labels] if multi_label else labels
    folds = k_folds(given_labels, num_folds, seed)
    assert folds.dtype == np.int32 and folds.shape == labels.shape
    np.testing.assert_array_equal(folds, k_folds(given_labels, num_folds, seed))
    for members in (labels >= 0, *(labels == number for number in range(len(counts)))):
        sizes = np.bincount(folds[members], minlength=num_folds)
        assert len(sizes) == num_folds and sizes.max() - sizes.min() <= 1


def test_folds_depend_on_the_seed():
    labels = np.repeat([0, 1], 50)
    assert len({k_folds(labels, 5, seed).tobytes() for seed in range(5)}) == 5


@pytest.mark.parametrize("num_folds", [1, 0, 5])
def test_bad_number_of_folds(num_folds):
    with pytest.raises(ValueError, match=rf"num_folds={num_folds} must lie between 2 and .* \(4\)"):
        k_folds(np.array([0, 0, 1, 1]), num_folds)


@given(st.lists(st.integers(0, 4), max_size=60), st.integers(0, 99), st.integers(0, 99))
def test_balanced_order_draws_what_is_there(labels, seed, epoch):
    order = balanced_order(seed, epoch, np.array(labels, np.int32), 5)
    assert order.dtype == np.int32 and order.shape == (len(labels),)
    assert ((order >= 0) & (order < len(labels))).all()
    np.testing.assert_array_equal(order, balanced_order(seed, epoch, np.array(labels, np.int32), 5))


def test_balanced_order_gives_every_class_and_every_member_its_share():
    """Chi-square against p = 1 / (classes * size of the class); class 2 has no examples and takes no share."""
    counts = {0: 900, 1: 90, 3: 10}
    labels = np.repeat(list(counts), list(counts.values()))[epoch_order(1, 0, 1000)]
    orders = np.concatenate([balanced_order(3, epoch, labels, 4) for epoch in range(30)])
    expected = len(orders) / len(counts)
    drawn = np.bincount(labels[orders], minlength=4)
    assert drawn[2] == 0
    assert ((drawn[[0, 1, 3]] - expected) ** 2 / expected).sum() < 13.8  # 2 degrees of freedom, p = .001
    for label, count in counts.items():
        each = np.bincount(orders, minlength=1000)[labels == label]
        chi2 = ((each - each.mean()) ** 2 / (expected / count)).sum()
        assert abs(chi2 - (count - 1)) < 4 * np.sqrt(2 * (count - 1) + 8)


def test_balanced_order_is_a_stream_of_its_own():
    labels = np.arange(100) % 2
    orders = {balanced_order(seed, epoch, labels, 2).tobytes() for seed in range(4) for epoch in range(4)}
    assert len(orders) == 16
    assert balanced_order(7, 3, np.array([0] * 8 + [1] * 2), 2).tolist() == [7, 8, 6, 9, 9, 9, 8, 9, 2, 1]


@pytest.mark.parametrize(
    ("labels", "match"),
    [
        ([0, 3], "labels in 0 .. 2; found 0 .. 3"),
        ([0, -1], "labels in 0 .. 2; found -1 .. 0"),
        ([[0, 1]], "one label per example"),
    ],
)
def test_balanced_order_refuses(labels, match):
    with pytest.raises(ValueError, match=match):
        balanced_order(0, 0, np.array(labels), 3)
    with pytest.raises(ValueError, match="seed=-1"):
        balanced_order(-1, 0, np.array([0]), 3)
