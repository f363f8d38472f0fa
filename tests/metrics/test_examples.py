import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxclf.metrics import (
    Estimate,
    Predictions,
    compare_predictions,
    confusion_matrix,
    example_losses,
    label_probabilities,
    most_confused,
    most_correct,
    most_incorrect,
    most_uncertain,
    probabilities,
    top_losses,
    uncertainty,
)

N, C = 60, 4
GENERATOR = np.random.default_rng(0)
# Few different values: many rows tie.
LOGITS = GENERATOR.integers(-2, 3, (N, C)).astype(np.float32)
LABELS = GENERATOR.integers(0, C, N).astype(np.int32)
INDEX = (3 * GENERATOR.permutation(N) + 1).astype(np.int32)
PREDICTIONS = Predictions(LOGITS, LABELS, INDEX)
MULTI_HOT = GENERATOR.integers(0, 2, (N, C)).astype(np.float32)
SEVERAL = PREDICTIONS._replace(labels=MULTI_HOT, multi_label=True)
OTHER = (LOGITS + GENERATOR.normal(0, 1, LOGITS.shape)).astype(np.float32)


PICKERS = {
    "top_losses": top_losses,
    "top_losses_multi_label": lambda p, k: top_losses(p._replace(labels=MULTI_HOT[p.index // 3], multi_label=True), k),
    "most_correct": most_correct,
    "most_incorrect": most_incorrect,
    "most_correct_of_1": lambda p, k: most_correct(p, k, label=1),
    "most_incorrect_of_1": lambda p, k: most_incorrect(p, k, label=1),
    "by_confidence": most_uncertain,
    "by_margin": lambda p, k: most_uncertain(p, k, by="margin"),
    "by_entropy": lambda p, k: most_uncertain(p, k, by="entropy"),
}


@pytest.mark.parametrize("pick", PICKERS.values(), ids=PICKERS)
@settings(max_examples=10, deadline=None)
@given(st.permutations(range(N)), st.integers(1, N + 5))
def test_what_is_picked_does_not_depend_on_the_order_of_the_rows(pick, order, k):
    expected, found = pick(PREDICTIONS, N), pick(PREDICTIONS.rows(np.array(order)), k)
    for name in ("index", "label", "predicted", "loss", "probability"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name)[:k])
    np.testing.assert_array_equal(INDEX[np.array(order)][found.row], found.index)


@pytest.mark.parametrize(
    ("pick", "key"),
    [
        (top_losses, -example_losses(PREDICTIONS)),
        (most_uncertain, np.abs(probabilities(LOGITS).max(-1) - 1 / C)),
    ],
)
def test_order_and_ties(pick, key):
    """Sorted in Python by (figure, index), as the description says it."""
    assert len(set(np.round(key, 9))) < N, "no ties to see"
    expected = sorted(range(N), key=lambda row: (round(key[row], 9), INDEX[row]))
    assert pick(PREDICTIONS, N).row.tolist() == expected


def test_rows_say_what_was_predicted():
    found = top_losses(PREDICTIONS, N)
    p = probabilities(LOGITS)
    for row, index, label, predicted, loss, probability in zip(*found, strict=True):
        assert (index, label, predicted) == (INDEX[row], LABELS[row], LOGITS[row].argmax())
        assert probability == p[row].max()
        assert np.exp(-loss) == pytest.approx(p[row, label], rel=1e-12)


@pytest.mark.parametrize("label", [None, 0, 3])
def test_correct_and_incorrect_share_out_the_examples(label):
    right, wrong = (pick(PREDICTIONS, N, label=label) for pick in (most_correct, most_incorrect))
    assert (right.label == right.predicted).all() and (wrong.label != wrong.predicted).all()
    members = np.flatnonzero(label == LABELS) if label is not None else np.arange(N)
    assert sorted([*right.row, *wrong.row]) == members.tolist()
    assert (np.diff(right.loss) > -1e-9).all() and (np.diff(wrong.loss) < 1e-9).all()


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-6, 6).map(lambda x: round(x, 2)), min_size=5, max_size=5, unique_by=abs))
def test_two_classes_have_one_order_of_uncertainty(differences):
    """fast.ai's: the smallest |p - 1/2|, whichever of the two classes p is of."""
    logits = np.stack([np.zeros(5), np.array(differences)], -1)
    expected = np.argsort(np.abs(probabilities(logits)[:, 1] - 0.5)).tolist()
    for by in ("confidence", "margin", "entropy"):
        assert np.argsort(-uncertainty(logits, by=by)).tolist() == expected


def test_uncertainties_of_several_classes_differ():
    p = np.array([[0.5, 0.48, 0.02], [0.45, 0.28, 0.27], [1 / 3, 1 / 3, 1 / 3]])
    confidence, margin, entropy = (uncertainty(np.log(p), by=by) for by in ("confidence", "margin", "entropy"))
    np.testing.assert_allclose(confidence, 1 / 3 - p.max(-1), atol=1e-15)
    np.testing.assert_allclose(margin, [-0.02, -0.17, 0], atol=1e-15)
    np.testing.assert_allclose(entropy, -(p * np.log(p)).sum(-1))


def test_labels_may_be_unknown_where_none_is_needed():
    some = PREDICTIONS._replace(labels=np.where(np.arange(N) % 2, LABELS, -1))
    found = most_uncertain(some, N)
    np.testing.assert_array_equal(found.index, most_uncertain(PREDICTIONS, N).index)
    np.testing.assert_array_equal(np.isnan(found.loss), found.label < 0)
    with pytest.raises(ValueError, match="no labels"):
        top_losses(some)


def test_top_losses_of_several_labels():
    found = top_losses(SEVERAL._replace(threshold=0.3), 5)
    np.testing.assert_allclose(found.loss, -np.sort(-example_losses(SEVERAL))[:5])
    np.testing.assert_array_equal(found.label, MULTI_HOT[found.row])
    np.testing.assert_array_equal(found.probability, label_probabilities(LOGITS[found.row]))
    np.testing.assert_array_equal(found.predicted, found.probability >= 0.3)


def test_an_empty_set_has_no_examples():
    empty = PREDICTIONS.rows(slice(0))
    for pick in (top_losses, most_correct, most_incorrect, most_uncertain):
        assert len(pick(empty).row) == 0


def test_most_confused_adds_up_to_the_errors():
    matrix = confusion_matrix(PREDICTIONS)
    pairs = most_confused(matrix, tuple("abcd"))
    assert sum(count for _, _, count in pairs) == len(most_incorrect(PREDICTIONS, N).row)
    assert [count for _, _, count in pairs] == sorted((count for _, _, count in pairs), reverse=True)


# Comparison


@settings(max_examples=20, deadline=None)
@given(st.permutations(range(N)))
def test_comparison_matches_examples_by_index(order):
    other = PREDICTIONS._replace(logits=OTHER)
    expected = compare_predictions(PREDICTIONS, other)
    assert compare_predictions(PREDICTIONS, other.rows(np.array(order))) == expected
    back = compare_predictions(other, PREDICTIONS.rows(np.array(order)))
    assert back.loss == Estimate(-expected.loss.mean, expected.loss.standard_error)
    assert back.accuracy == Estimate(-expected.accuracy.mean, expected.accuracy.standard_error)
    assert (back.mended, back.broken) == (expected.broken, expected.mended)


def test_comparison_by_hand():
    other = PREDICTIONS._replace(logits=OTHER)
    found = compare_predictions(PREDICTIONS, other)
    difference = example_losses(other) - example_losses(PREDICTIONS)
    assert found.loss == pytest.approx((difference.mean(), difference.std(ddof=1) / np.sqrt(N)))
    before, after = (LOGITS.argmax(-1) == LABELS), (OTHER.argmax(-1) == LABELS)
    assert found.accuracy.mean == pytest.approx(after.mean() - before.mean())
    assert (found.mended, found.broken) == ((after & ~before).sum(), (before & ~after).sum())
    assert found.mended > 0 and found.broken > 0 and found.num_examples == N
    # For 0/1 answers the paired standard error follows from the two counts alone.
    share = (found.mended - found.broken) / N
    variance = ((found.mended + found.broken) / N - share**2) / (N - 1)
    assert found.accuracy.standard_error == pytest.approx(np.sqrt(variance))


def test_comparison_of_several_labels():
    other = SEVERAL._replace(logits=np.where(MULTI_HOT > 0, 1.0, -1.0))
    found = compare_predictions(SEVERAL, other)
    exact = ((LOGITS >= 0) == (MULTI_HOT > 0)).all(-1)
    assert (found.mended, found.broken) == ((~exact).sum(), 0)
    assert found.loss.mean == pytest.approx((example_losses(other) - example_losses(SEVERAL)).mean())
    # Each has its own threshold, and calls nothing right that the other's would.
    strict = compare_predictions(other, other._replace(threshold=0.99))
    assert (strict.mended, strict.broken) == (0, (MULTI_HOT.sum(-1) > 0).sum())


BAD_CALLS = [
    (lambda: top_losses(PREDICTIONS, 0), "k=0"),
    (lambda: top_losses(SEVERAL, 0), "k=0"),
    (lambda: top_losses(SEVERAL._replace(multi_label=False)), "multi_label=True"),
    (lambda: most_correct(PREDICTIONS, label=C), "label=4 .* classes 0 to 3"),
    (lambda: most_uncertain(PREDICTIONS, label=-1), "label=-1"),
    (lambda: most_uncertain(PREDICTIONS, by="doubt"), "'doubt'"),
    (lambda: uncertainty(np.zeros((2, 1)), by="margin"), "two classes"),
    (lambda: confusion_matrix(SEVERAL), "not one class number per example"),
    (lambda: most_correct(SEVERAL), "not one class number per example"),
    (lambda: most_incorrect(SEVERAL), "not one class number per example"),
    (lambda: most_uncertain(SEVERAL), "not one class number per example"),
    (lambda: compare_predictions(PREDICTIONS, PREDICTIONS.rows(slice(9))), "60 and 9, of which 9 are in both"),
    (lambda: compare_predictions(PREDICTIONS, PREDICTIONS._replace(index=INDEX + 1)), "0 are in both"),
    (lambda: compare_predictions(PREDICTIONS, PREDICTIONS._replace(labels=(LABELS + 1) % C)), "different labels"),
    (lambda: compare_predictions(PREDICTIONS._replace(index=INDEX // 6), PREDICTIONS), "before holds .* twice"),
]


@pytest.mark.parametrize(("call", "message"), BAD_CALLS)
def test_bad_arguments(call, message):
    with pytest.raises(ValueError, match=message):
        call()
