import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.utils.class_weight import compute_class_weight

from jaxclf.metrics import (
    Predictions,
    example_losses,
    label_probabilities,
    log_probabilities,
    probabilities,
)
from jaxclf.training.losses import (
    MULTI_LABEL_LOSSES,
    SINGLE_LABEL_LOSSES,
    balanced_class_weights,
    focal_loss,
    make_loss,
    masked_mean,
    sigmoid_cross_entropy,
    sigmoid_focal_loss,
    soft_cross_entropy,
    softmax_cross_entropy,
    targets_from_labels,
    weighted_mean,
)

GENERATOR = np.random.default_rng(0)
LOGITS = GENERATOR.normal(0, 3, (200, 5)).astype(np.float32)
LABELS = GENERATOR.integers(0, 5, 200).astype(np.int32)
ONE_HOT = np.eye(5, dtype=np.float32)[LABELS]
SOFT = GENERATOR.dirichlet(np.ones(5), 200).astype(np.float32)
MULTI_HOT = (GENERATOR.random((200, 5)) < 0.3).astype(np.float32)
WEIGHTS = np.array([0.5, 2.0, 1.0, 0.0, 3.0])
NAMES = SINGLE_LABEL_LOSSES + MULTI_LABEL_LOSSES
EXTREMES = np.array([-1e4, -100.0, -20.0, 0.0, 0.5, 20.0, 100.0, 1e4], np.float32)


def test_training_loss_equals_the_reported_one():
    predictions = Predictions(LOGITS, LABELS, np.arange(200))
    np.testing.assert_allclose(softmax_cross_entropy(LOGITS, LABELS), example_losses(predictions), rtol=2e-5, atol=1e-6)
    several = predictions._replace(labels=MULTI_HOT, multi_label=True)
    np.testing.assert_allclose(sigmoid_cross_entropy(LOGITS, MULTI_HOT), example_losses(several), rtol=2e-6)


def test_label_smoothing_is_the_soft_target_formula():
    target = np.full((200, 5), 0.1 / 5)
    target[np.arange(200), LABELS] += 0.9
    expected = -(target * np.log(probabilities(LOGITS))).sum(-1)
    np.testing.assert_allclose(softmax_cross_entropy(LOGITS, LABELS, label_smoothing=0.1), expected, rtol=1e-5)
    with pytest.raises(ValueError, match="label_smoothing=1"):
        softmax_cross_entropy(LOGITS, LABELS, label_smoothing=1.0)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_class_numbers_and_one_hot_targets_are_the_same_to_the_bit(smoothing, weights):
    options = {"label_smoothing": smoothing, "class_weights": weights}
    targets = targets_from_labels(LABELS, 5)
    np.testing.assert_array_equal(targets, ONE_HOT)
    np.testing.assert_array_equal(
        soft_cross_entropy(LOGITS, targets, **options), softmax_cross_entropy(LOGITS, LABELS, **options)
    )

    def batch_loss(loss, labels):
        return jax.grad(lambda logits: masked_mean(loss(logits, labels, **options), np.ones(200)))(LOGITS)

    np.testing.assert_allclose(
        batch_loss(soft_cross_entropy, targets), batch_loss(softmax_cross_entropy, LABELS), rtol=1e-6, atol=1e-9
    )


def test_soft_targets_against_the_formula_and_optax():
    expected = -(SOFT * log_probabilities(LOGITS)).sum(-1)
    np.testing.assert_allclose(soft_cross_entropy(LOGITS, SOFT), expected, rtol=1e-5)
    np.testing.assert_allclose(
        soft_cross_entropy(LOGITS, SOFT), optax.losses.softmax_cross_entropy(LOGITS, SOFT), rtol=1e-6
    )


@given(st.floats(0, 1))
@settings(max_examples=10, deadline=None)
@pytest.mark.parametrize("name", NAMES)
def test_mixed_targets_give_the_mixed_losses(name, share):
    """What mixup and cutmix rest on."""
    loss = make_loss(name, label_smoothing=0.1, class_weights=WEIGHTS)
    other = ONE_HOT[::-1]
    (first, weight), (second, other_weight) = loss(LOGITS, ONE_HOT), loss(LOGITS, other)
    mixed, mixed_weight = loss(LOGITS, np.float32(share) * ONE_HOT + np.float32(1 - share) * other)
    np.testing.assert_allclose(mixed, share * first + (1 - share) * second, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(mixed_weight, share * weight + (1 - share) * other_weight, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_smoothing_a_loss_is_smoothing_its_targets(name):
    level = 1 / 5 if name in SINGLE_LABEL_LOSSES else 1 / 2
    smoothed, _ = make_loss(name, label_smoothing=0.1)(LOGITS, ONE_HOT)
    expected, _ = make_loss(name)(LOGITS, 0.9 * ONE_HOT + 0.1 * level)
    np.testing.assert_allclose(smoothed, expected, rtol=1e-5)


def test_sigmoid_cross_entropy_against_the_formula_and_optax():
    p = label_probabilities(LOGITS)
    positive = np.array([1.0, 5.0, 0.5, 2.0, 1.0])
    smoothed = 0.9 * MULTI_HOT + 0.05
    terms = WEIGHTS * -(positive * smoothed * np.log(p) + (1 - smoothed) * np.log(1 - p))
    found = sigmoid_cross_entropy(LOGITS, MULTI_HOT, label_smoothing=0.1, class_weights=WEIGHTS, pos_weight=positive)
    np.testing.assert_allclose(found, terms.mean(-1), rtol=1e-5)
    plain = optax.losses.sigmoid_binary_cross_entropy(LOGITS, MULTI_HOT).mean(-1)
    np.testing.assert_allclose(sigmoid_cross_entropy(LOGITS, MULTI_HOT), plain, rtol=1e-5)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0, 5.0])
def test_focal_losses_against_the_formulas_and_optax(gamma):
    log_p = log_probabilities(LOGITS)
    expected = -(WEIGHTS * SOFT * (1 - np.exp(log_p)) ** gamma * log_p).sum(-1)
    np.testing.assert_allclose(focal_loss(LOGITS, SOFT, gamma=gamma, alpha=WEIGHTS), expected, rtol=1e-4, atol=1e-7)
    by_optax = optax.losses.sigmoid_focal_loss(LOGITS, MULTI_HOT, alpha=0.25, gamma=gamma).mean(-1)
    found = sigmoid_focal_loss(LOGITS, MULTI_HOT, gamma=gamma, alpha=0.25)
    np.testing.assert_allclose(found, by_optax, rtol=1e-4, atol=1e-7)


def test_focal_without_focus_is_cross_entropy():
    np.testing.assert_allclose(focal_loss(LOGITS, SOFT, gamma=0.0), soft_cross_entropy(LOGITS, SOFT), rtol=1e-6)
    np.testing.assert_allclose(
        sigmoid_focal_loss(LOGITS, MULTI_HOT, gamma=0.0), sigmoid_cross_entropy(LOGITS, MULTI_HOT), rtol=1e-6
    )


def test_two_classes_are_one_sigmoid():
    margin = LOGITS[:, 0]
    of_two = focal_loss(np.stack([np.zeros_like(margin), margin], -1), np.eye(2)[LABELS % 2], gamma=1.5)
    of_one = sigmoid_focal_loss(margin[:, None], (LABELS % 2)[:, None], gamma=1.5)
    np.testing.assert_allclose(of_two, of_one, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("gamma", [0.0, 0.3, 1.0, 2.0])
@pytest.mark.parametrize("name", NAMES)
def test_huge_logits_give_exact_values_and_finite_gradients(name, gamma):
    logits = np.stack(np.meshgrid(EXTREMES, EXTREMES, [0.0]), -1).reshape(-1, 3).astype(np.float32)
    targets = np.tile(np.eye(3, dtype=np.float32)[:1], (len(logits), 1))
    loss = make_loss(name, focal_gamma=gamma)

    @jax.jit
    def values_and_gradient(logits):
        return jax.value_and_grad(lambda z: loss(z, targets)[0].sum())(logits), loss(logits, targets)[0]

    (_, gradient), values = values_and_gradient(logits)
    assert np.isfinite(gradient).all()
    if name in SINGLE_LABEL_LOSSES:
        log_p = log_probabilities(logits)[:, 0]
        expected = -log_p * (-np.expm1(log_p)) ** (gamma if name == "focal" else 0)
    else:
        z = logits.astype(np.float64)
        minus_log_p, minus_log_q = np.logaddexp(0, -z), np.logaddexp(0, z)
        power = gamma if name == "sigmoid_focal" else 0
        terms = np.where(
            targets > 0, np.exp(-power * minus_log_q) * minus_log_p, np.exp(-power * minus_log_p) * minus_log_q
        )
        expected = terms.mean(-1)
    np.testing.assert_allclose(values, expected, rtol=1e-5, atol=1e-7)


@given(hnp.arrays(np.float32, (200,), elements=st.floats(0, 1, width=32)), st.integers(0, 200))
@settings(max_examples=20, deadline=None)
@pytest.mark.parametrize("name", ["softmax", "focal", "sigmoid"])
def test_padding_never_changes_the_mean(name, junk, number):
    loss = make_loss(name, class_weights=WEIGHTS)
    mask = (np.arange(200) < number).astype(np.float32)
    padded = np.where(mask[:, None] > 0, ONE_HOT, junk[:, None])
    with_padding = weighted_mean(*loss(LOGITS, padded), mask)
    losses, weights = (np.asarray(part, np.float64)[:number] for part in loss(LOGITS, ONE_HOT))
    expected = losses.sum() / weights.sum() if weights.sum() > 0 else 0.0
    np.testing.assert_allclose(with_padding, expected, rtol=1e-5)


def test_the_weighted_mean_divides_by_the_weights():
    """The documented reduction of torch's weighted cross-entropy, smoothing included."""
    loss = make_loss("softmax", class_weights=WEIGHTS, label_smoothing=0.1)
    log_p = log_probabilities(LOGITS)
    nll = -WEIGHTS[LABELS] * log_p[np.arange(200), LABELS]
    expected = (0.9 * nll.sum() - 0.1 / 5 * (WEIGHTS * log_p).sum()) / WEIGHTS[LABELS].sum()
    np.testing.assert_allclose(weighted_mean(*loss(LOGITS, ONE_HOT), np.ones(200)), expected, rtol=1e-5)
    tenth = make_loss("softmax", class_weights=WEIGHTS / 1000, label_smoothing=0.1)
    np.testing.assert_allclose(weighted_mean(*tenth(LOGITS, ONE_HOT), np.ones(200)), expected, rtol=1e-5)


def test_without_weights_the_weighted_mean_is_the_masked_mean():
    mask = (LABELS != 2).astype(np.float32)
    losses, weights = make_loss()(LOGITS, ONE_HOT)
    assert weighted_mean(losses, weights, mask) == masked_mean(softmax_cross_entropy(LOGITS, LABELS), mask)
    assert weighted_mean(losses, weights, np.zeros(200)) == 0.0


def test_masked_mean_ignores_what_is_masked():
    values = np.array([1.0, 2.0, np.inf], np.float32)
    assert masked_mean(values[:2], np.array([1.0, 0.0])) == 1.0
    assert masked_mean(values[:2], np.zeros(2)) == 0.0
    gradient = jax.grad(lambda v: masked_mean(v, np.array([1.0, 1.0, 0.0])))(values[:2].repeat(2)[:3])
    np.testing.assert_allclose(gradient, [0.5, 0.5, 0.0])


@pytest.mark.parametrize("name", NAMES)
def test_losses_are_float32_whatever_comes_in(name):
    losses, weights = make_loss(name)(jnp.asarray(LOGITS, jnp.bfloat16), ONE_HOT.astype(np.float64))
    assert losses.dtype == weights.dtype == np.float32
    assert losses.shape == weights.shape == (200,)


@given(st.lists(st.integers(1, 30), min_size=1, max_size=6))
def test_balanced_weights_agree_with_scikit_learn(counts):
    labels = np.repeat(np.arange(len(counts)), counts)
    weights = balanced_class_weights(labels, len(counts))
    np.testing.assert_allclose(
        weights, compute_class_weight("balanced", classes=np.arange(len(counts)), y=labels), rtol=1e-12
    )
    np.testing.assert_allclose(weights[labels].mean(), 1.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "hinge"}, "'hinge' is not known; choose one of softmax, focal, sigmoid"),
        ({"label_smoothing": -0.1}, "label_smoothing=-0.1"),
        ({"class_weights": [1.0, -1.0]}, "class_weights=.* at least 0"),
        ({"class_weights": [0.0, 0.0]}, "not all 0"),
        ({"class_weights": 2.0}, "one number per class"),
        ({"name": "sigmoid", "pos_weight": [np.nan]}, "pos_weight=.* finite"),
        ({"name": "softmax", "pos_weight": [1.0]}, "pos_weight is for the loss 'sigmoid'"),
        ({"name": "focal", "focal_alpha": 0.25}, "focal_alpha is for the loss 'sigmoid_focal'"),
        ({"name": "sigmoid_focal", "focal_alpha": 1.5}, "alpha=1.5"),
        ({"name": "focal", "focal_gamma": -1.0}, "gamma=-1.0"),
        ({"name": "focal", "focal_gamma": float("inf")}, "gamma=inf"),
    ],
)
def test_make_loss_checks_before_anything_is_traced(options, message):
    with pytest.raises(ValueError, match=message):
        make_loss(**options)


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="targets_from_labels"):
        make_loss("sigmoid")(LOGITS, LABELS)
    with pytest.raises(ValueError, match="not class numbers"):
        softmax_cross_entropy(LOGITS, ONE_HOT)
    with pytest.raises(ValueError, match="not class numbers"):
        softmax_cross_entropy(LOGITS, LABELS.astype(np.float32))
    with pytest.raises(ValueError, match="5 numbers, one per class"):
        make_loss(class_weights=[1.0, 2.0])(LOGITS, ONE_HOT)
    with pytest.raises(ValueError, match="class number 1 has no examples"):
        balanced_class_weights([0, 2], 3)
    with pytest.raises(ValueError, match="num_classes=2"):
        balanced_class_weights([0, 2], 2)
