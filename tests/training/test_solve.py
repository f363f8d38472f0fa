"""The solved head is scikit-learn's, whatever the shape; its ridge is chosen on examples that took no part."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier
from sklearn.preprocessing import StandardScaler

from jaxclf import ActivationDataset, ActivationLoader, Settings, evaluate, solve_head
from jaxclf.models import create_classifier, init_variables
from jaxclf.plots import plot_ridge
from jaxclf.training import lbfgs, logistic
from jaxclf.training.columns import make_columns
from jaxclf.training.logistic import LogisticProblem, assign_folds, solve_logistic
from jaxclf.training.losses import balanced_class_weights, make_loss
from jaxclf.training.solve import LEAST_SPREAD


def draw(number: int, width: int, classes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Correlated features of very different scale and offset, and labels that follow them, common to rare."""
    generator = np.random.default_rng(seed)
    mixing = generator.normal(size=(width, width)) * np.logspace(0, -2, width)
    x = generator.normal(size=(number, width)) @ mixing * generator.uniform(0.1, 10, width)
    x = (x + 5 * generator.normal(size=width)).astype(np.float32)
    signal = scaled(x) @ generator.normal(size=(width, classes)) * 0.3 - np.arange(classes) / classes
    labels = (signal + generator.gumbel(size=(number, classes))).argmax(1)
    labels[: 2 * classes] = np.arange(2 * classes) % classes
    return x, labels


def scaled(x: np.ndarray) -> np.ndarray:
    return StandardScaler().fit_transform(x.astype(np.float64))


def one_hot(labels: np.ndarray) -> np.ndarray:
    return np.eye(labels.max() + 1, dtype=np.float32)[labels]


def logits_of(solved, x: np.ndarray) -> np.ndarray:
    return x.astype(np.float64) @ solved.variables["kernel"] + solved.variables["bias"]


def log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(1, keepdims=True))


def sklearn_logits(x: np.ndarray, labels: np.ndarray, ridge: float, weights=None, on=None) -> np.ndarray:
    """Of the same problem; on two classes scikit-learn has one column of weights, whose ridge is half of two's."""
    two = labels.max() == 1
    model = LogisticRegression(C=(2 if two else 1) / ridge, tol=1e-9, max_iter=20000).fit(x, labels, weights)
    logits = model.decision_function(x if on is None else on)
    return np.stack([-logits / 2, logits / 2], 1) if two else logits


@pytest.mark.parametrize("ridge", [1000.0, 10.0, 0.1])
@pytest.mark.parametrize(
    ("number", "width", "classes", "weighted"),
    [(200, 30, 2, False), (300, 40, 10, False), (60, 150, 4, False), (60, 150, 2, True), (250, 20, 5, True)],
)
def test_same_optimum_as_scikit_learn(number, width, classes, weighted, ridge):
    x, labels = draw(number, width, classes)
    by_class = balanced_class_weights(labels, classes) if weighted else np.ones(classes)
    solved = solve_logistic(
        LogisticProblem(x, one_hot(labels), class_weights=by_class if weighted else None), [ridge], num_folds=0
    )
    theirs = sklearn_logits(scaled(x), labels, ridge, by_class[labels])
    losses = [
        -(by_class[labels] * log_softmax(logits)[np.arange(number), labels]).sum() / number
        for logits in (logits_of(solved, x), theirs)
    ]
    np.testing.assert_allclose(*losses, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(log_softmax(logits_of(solved, x)), log_softmax(theirs), rtol=5e-3, atol=2e-3)
    assert solved.gradient_norm <= 1e-5
    np.testing.assert_allclose(solved.variables["bias"].sum(), 0, atol=1e-3 * np.abs(solved.variables["bias"]).max())
    assert solved.ridge == ridge
    assert not solved.at_edge
    assert np.isnan(solved.losses).all()


@pytest.mark.parametrize("ridge", [100.0, 1.0])
def test_several_labels_are_one_versus_rest(ridge):
    x, _ = draw(150, 20, 2)
    generator = np.random.default_rng(1)
    labels = (scaled(x) @ generator.normal(size=(20, 3)) * 0.4 + generator.logistic(size=(150, 3)) > 0.5).astype(float)
    solved = solve_logistic(LogisticProblem(x, labels, multi_label=True), [ridge], num_folds=0)
    model = OneVsRestClassifier(LogisticRegression(C=1 / ridge, tol=1e-9, max_iter=20000)).fit(scaled(x), labels)
    np.testing.assert_allclose(logits_of(solved, x), model.decision_function(scaled(x)), atol=2e-3)


@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize("number", [90, 20])
def test_soft_smoothed_weighted_targets_of_several_views_have_no_gradient_left(multi_label, number):
    generator = np.random.default_rng(2)
    x, _ = draw(3 * number, 25, 4)
    targets = generator.dirichlet(np.ones(4) / 3, number).astype(np.float32)
    weights = np.array([1.0, 3.0, 0.5, 0.0])
    problem = LogisticProblem(x, targets, multi_label, num_views=3, class_weights=weights, label_smoothing=0.1)
    solved = solve_logistic(problem, [2.0], num_folds=0)
    loss = make_loss("sigmoid" if multi_label else "softmax", label_smoothing=0.1, class_weights=weights)
    mean, spread = x.astype(np.float64).mean(0), x.astype(np.float64).std(0)
    kernel = solved.variables["kernel"] * spread[:, None]
    bias = solved.variables["bias"] + mean @ solved.variables["kernel"]

    def objective(params):
        logits = ((x - mean) / spread).astype(np.float32) @ params[0] + params[1]
        total = loss(logits, np.repeat(targets, 3, 0))[0].sum() / 3 * (4 if multi_label else 1)
        return total + (params[0] ** 2).sum()  # ridge / 2 = 1

    left, start = (
        np.sqrt(sum((np.asarray(g) ** 2).sum() for g in jax.grad(objective)(params)))
        for params in ((jnp.float32(kernel), jnp.float32(bias)), (jnp.zeros((25, 4)), jnp.zeros(4)))
    )
    assert left < 3e-5 * start


def test_constant_features_get_no_weight_and_change_nothing():
    x, labels = draw(80, 10, 3)
    constant = np.full((80, 2), np.float32([0.1, 7.3]))
    constant[::3, 1] = np.nextafter(constant[0, 1], np.float32(8))  # up to the last digit
    solved = solve_logistic(LogisticProblem(np.hstack([x, constant]), one_hot(labels)), [1.0], num_folds=0)
    assert not solved.variables["kernel"][10:].any()
    alone = solve_logistic(LogisticProblem(x, one_hot(labels)), [1.0], num_folds=0)
    np.testing.assert_allclose(logits_of(solved, np.hstack([x, constant])), logits_of(alone, x), atol=1e-4)


@pytest.mark.parametrize("width", [3, 40])
def test_without_any_feature_that_varies_the_bias_says_how_common_classes_are(width):
    labels = np.array([0] * 6 + [1] * 12)
    solved = solve_logistic(LogisticProblem(np.full((18, width), 0.3, np.float32), one_hot(labels)), [1.0], num_folds=0)
    assert not solved.variables["kernel"].any()
    np.testing.assert_allclose(np.exp(log_softmax(solved.variables["bias"][None]))[0], [1 / 3, 2 / 3], rtol=1e-5)
    assert solved.iterations < 50


def test_the_curve_is_that_of_models_which_never_saw_what_they_are_judged_on():
    x, labels = draw(90, 8, 3)
    problem, ridges = LogisticProblem(x, one_hot(labels)), [0.5, 50.0, 5.0]
    solved = solve_logistic(problem, ridges, num_folds=4, seed=3, tolerance=1e-6)
    folds = assign_folds(problem, 4, 3)
    assert solved.ridges.tolist() == [50.0, 5.0, 0.5]
    for ridge, mean, error in zip(solved.ridges, solved.losses, solved.errors, strict=True):
        held_out = np.empty(90)
        for fold in range(4):
            train, out = folds != fold, folds == fold
            logits = sklearn_logits(scaled(x)[train], labels[train], ridge, on=scaled(x)[out])
            held_out[out] = -log_softmax(logits)[np.arange(out.sum()), labels[out]]
        assert mean == pytest.approx(held_out.mean(), rel=1e-4)
        assert error == pytest.approx(held_out.std(ddof=1) / np.sqrt(90), rel=1e-3)
    assert solved.ridge == solved.ridges[solved.losses.argmin()]
    assert solved.loss == solved.losses.min()
    assert (solved.num_folds, solved.num_held_out) == (4, 90)
    alone = solve_logistic(problem, [solved.ridge], num_folds=0)
    np.testing.assert_allclose(logits_of(solved, x), logits_of(alone, x), atol=1e-2)


def test_held_out_losses_are_weighted_as_the_objective_and_not_smoothed():
    labels = np.repeat([0, 1, 2], [160, 30, 10])
    x = np.random.default_rng(0).normal(size=(200, 5)).astype(np.float32)
    by_class = np.array([1.0, 1.5, 2.0])
    solved = solve_logistic(LogisticProblem(x, one_hot(labels), class_weights=by_class, label_smoothing=0.3), [1e6])
    # So strong a ridge leaves the bias alone.
    smoothed = 0.7 * one_hot(labels) * by_class + 0.3 / 3 * by_class
    share, total = smoothed.sum(0) / smoothed.sum(), by_class[labels].sum()
    assert solved.losses[0] == pytest.approx(-(by_class[labels] * np.log(share[labels])).sum() / total, rel=0.01)
    assert -(smoothed * np.log(share)).sum() / total > 1.1 * solved.losses[0]


def test_held_out_losses_of_several_labels_are_means_over_them():
    x = np.random.default_rng(0).normal(size=(100, 5)).astype(np.float32)
    labels = np.arange(100)[:, None] % np.array([2, 4, 5]) == 0
    solved = solve_logistic(LogisticProblem(x, labels.astype(np.float32), multi_label=True), [1e6])
    share = labels.mean(0)
    assert solved.losses[0] == pytest.approx(
        -(share * np.log(share) + (1 - share) * np.log(1 - share)).mean(), rel=0.01
    )


def test_the_edge_of_the_grid_is_told():
    x, labels = draw(90, 8, 3)
    solved = solve_logistic(LogisticProblem(x, one_hot(labels)), [1e6, 1e5, 1e4])
    assert solved.ridge == 1e4
    assert solved.at_edge


def test_folds_are_even_over_classes_keep_equals_together_and_single_ones_in_training():
    generator = np.random.default_rng(0)
    labels = np.array([0] * 20 + [1] * 10 + [2, 3, 3])
    x = generator.normal(size=(33, 4)).astype(np.float32)
    x[[5, 6, 25]] = x[4]  # three equals of class 0, one more that is said to be 1
    x[32] = x[31]  # all of class 3 is one photo
    problem = LogisticProblem(x, one_hot(labels))
    folds = assign_folds(problem, 5, 1)
    assert folds[30] == folds[31] == folds[32] == -1
    assert len(set(folds[[4, 5, 6, 25]])) == 1
    np.testing.assert_array_equal(np.sort(np.bincount(np.delete(folds[:20], [5, 6]))), [3, 3, 4, 4, 4])
    np.testing.assert_array_equal(np.sort(np.bincount(folds[np.delete(np.arange(20, 30), 5)])), [1, 2, 2, 2, 2])
    assert (folds != assign_folds(problem, 5, 2)).any()
    views = problem._replace(x=np.repeat(x, 2, 0) + np.tile(np.float32([0, 1]), 33)[:, None], num_views=2)
    np.testing.assert_array_equal(assign_folds(views, 5, 1), folds)
    assert assign_folds(problem._replace(targets=one_hot(labels)[:3], x=x[:3]), 5, 0).max() == 2


def test_the_only_one_with_a_label_stays_in_training():
    labels = np.zeros((12, 3))
    labels[:6, 0] = labels[4:11, 1] = 1
    labels[11, 2] = 1
    x = np.arange(12, dtype=np.float32)[:, None]
    folds = assign_folds(LogisticProblem(x, labels, multi_label=True), 3, 0)
    assert folds[11] == -1
    assert (folds[:11] >= 0).all()


def test_many_rows_hold_out_one_fifth_once(monkeypatch):
    monkeypatch.setattr(logistic, "MAX_FOLD_ROWS", 99)
    x, labels = draw(100, 6, 2)
    problem = LogisticProblem(x, one_hot(labels))
    solved = solve_logistic(problem, [10.0, 1.0], num_folds=3, tolerance=1e-6)
    out = assign_folds(problem, 5, 0) == 0
    assert (solved.num_folds, solved.num_held_out) == (1, 20)
    logits = sklearn_logits(scaled(x)[~out], labels[~out], 1.0, on=scaled(x)[out])
    held_out = -log_softmax(logits)[np.arange(20), labels[out]]
    assert solved.losses[1] == pytest.approx(held_out.mean(), rel=1e-4)


@pytest.mark.parametrize("multi_label", [False, True])
def test_in_chunks_as_at_once_with_progress_and_the_same_bits_twice(multi_label):
    x, labels = draw(120, 30, 3)
    problem = LogisticProblem(x, one_hot(labels), multi_label)
    at_once = solve_logistic(problem, [100.0, 3.0, 0.3], max_bytes=10**9)
    calls: list[tuple[int, int]] = []
    each = lbfgs.problem_bytes(120, 3, 31)
    chunked = solve_logistic(
        problem, [100.0, 3.0, 0.3], max_bytes=2 * each, on_progress=lambda *call: calls.append(call)
    )
    one_by_one = solve_logistic(problem, [100.0, 3.0, 0.3], max_bytes=1)
    assert calls == [(done, 10) for done in range(1, 11)]  # three chunks, of 2, 2 and 1 folds
    for other in (chunked, one_by_one):
        np.testing.assert_allclose(other.losses, at_once.losses, rtol=1e-6)
        np.testing.assert_allclose(logits_of(other, x), logits_of(at_once, x), atol=1e-4)
    again = solve_logistic(problem, [100.0, 3.0, 0.3], max_bytes=10**9)
    np.testing.assert_array_equal(again.variables["kernel"], at_once.variables["kernel"])
    np.testing.assert_array_equal(again.variables["bias"], at_once.variables["bias"])
    np.testing.assert_array_equal(again.losses, at_once.losses)


@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize(("problems", "number", "classes"), [(1, 4000, 50), (4, 2000, 20)])
def test_the_memory_of_a_problem_is_not_more_than_said(problems, number, classes, multi_label):
    def shape(*sizes):
        return jax.ShapeDtypeStruct(sizes, jnp.float32)

    weights = shape(classes, 1) if multi_label else shape(1, number)
    examples = lbfgs.Examples(shape(number, 65), shape(classes, number), weights)
    arguments = (examples, shape(problems, number), shape(), shape(problems, classes, 65), shape())
    memory = lbfgs.minimise.lower(*arguments, multi_label=multi_label).compile().memory_analysis()
    if memory is None:
        pytest.skip("needs a backend whose compiler says how much memory a program takes; XLA for CPU does")
    said = problems * lbfgs.problem_bytes(number, classes, 65)
    assert said / 2 < memory.temp_size_in_bytes + memory.output_size_in_bytes < said


def test_columns_are_a_rotation_of_the_standardised_features():
    for number, width in ((50, 20), (20, 50)):
        x, _ = draw(number, width, 2)
        columns = make_columns(x)
        z = columns.z[:, :-1].astype(np.float64)
        assert z.shape[1] == min(number, width)
        np.testing.assert_allclose(z @ z.T, scaled(x) @ scaled(x).T, atol=2e-4 * width)
        products = z.T @ z
        assert np.abs(products - np.diag(np.diag(products))).max() < 1e-5 * products.max()


def dataset(x: np.ndarray, labels: np.ndarray, classes: int = 3, **options) -> ActivationDataset:
    """Features of the average pool, beside a maximum pool that means nothing."""
    noise = np.random.default_rng(9).normal(size=x.shape).astype(np.float32)
    names = [f"c{number}" for number in range(classes)]
    return ActivationDataset(np.hstack([noise, x]), labels, classes=names, **{"cut": "pooled", **options})


def test_the_head_is_put_into_the_model_and_judged_as_it_was_solved(tiny):
    model, variables = tiny
    x, labels = draw(90, 16, 3)
    features = dataset(x, labels)
    solved = solve_head(model, variables, features, ridges=[30.0, 3.0])
    plain = solve_logistic(LogisticProblem(x, one_hot(labels), least_spread=LEAST_SPREAD), [30.0, 3.0])
    np.testing.assert_array_equal(solved.variables["params"]["head"]["fc"]["kernel"], plain.variables["kernel"])
    np.testing.assert_array_equal(solved.losses, plain.losses)
    assert jax.tree.structure(solved.variables) == jax.tree.structure(variables)
    assert solved.variables["params"]["body"] is variables["params"]["body"]
    found = evaluate(model, solved.variables, ActivationLoader(features, batch_size=32, train=False))
    expected = -log_softmax(logits_of(plain, x))[np.arange(90), labels].mean()
    assert found["loss"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("classes", [2, 3])
def test_a_head_on_both_pools_is_scikit_learn_s_on_both(tiny, classes):
    """Both halves tell something here, and logits are those of the network from its cut on."""
    x, labels = draw(90, 32, classes)
    x = x / x.std(0)  # as pools do, in one unit
    model = create_classifier(tiny[0].config, classes, head="pools")
    variables = init_variables(model, jax.random.key(0), image_size=32)
    names = [f"c{number}" for number in range(classes)]
    features = ActivationDataset(x, labels, classes=names, cut="pooled")
    solved = solve_head(model, variables, features, ridges=[3.0], num_folds=0)
    assert jax.tree.map(np.shape, solved.variables) == jax.tree.map(np.shape, variables)
    logits = model.apply(solved.variables, jnp.asarray(x), start="pooled")
    theirs = sklearn_logits(scaled(x), labels, 3.0)
    losses = [-log_softmax(np.float64(found))[np.arange(90), labels].mean() for found in (logits, theirs)]
    np.testing.assert_allclose(*losses, rtol=1e-4)
    np.testing.assert_allclose(log_softmax(np.float64(logits)), log_softmax(theirs), rtol=5e-3, atol=2e-3)


def test_the_settings_say_loss_weights_smoothing_and_seed(tiny):
    model, variables = tiny
    x, labels = draw(90, 16, 3)
    features = dataset(x, labels)

    def losses(**settings):
        return solve_head(model, variables, features, ridges=[10.0, 1.0], settings=Settings(**settings)).losses

    problem = LogisticProblem(x, one_hot(labels), least_spread=LEAST_SPREAD)
    weighted = problem._replace(class_weights=balanced_class_weights(labels, 3))
    for found, expected in (
        (losses(seed=4), solve_logistic(problem, [10.0, 1.0], seed=4)),
        (losses(class_weights="balanced"), solve_logistic(weighted, [10.0, 1.0])),
        (losses(sampling="balanced"), solve_logistic(weighted, [10.0, 1.0])),
        (losses(label_smoothing=0.1), solve_logistic(problem._replace(label_smoothing=0.1), [10.0, 1.0])),
    ):
        np.testing.assert_array_equal(found, expected.losses)
    several = dataset(x, one_hot(labels))
    found = solve_head(model, variables, several, ridges=[1.0], settings=Settings(loss="sigmoid"))
    expected = solve_logistic(problem._replace(multi_label=True), [1.0])
    np.testing.assert_array_equal(found.losses, expected.losses)


def test_a_bank_of_equal_views_is_the_plain_problem_and_a_loader_shows_what_it_shows(tiny):
    model, variables = tiny
    x, labels = draw(90, 16, 3)
    ridges = [10.0, 1.0]
    plain = solve_head(model, variables, dataset(x, labels), ridges=ridges)
    twice = dataset(np.repeat(x, 2, 0), labels, num_views=2, augment="side_on")
    same = solve_head(model, variables, twice, ridges=ridges)
    np.testing.assert_allclose(same.losses, plain.losses, rtol=1e-4)
    np.testing.assert_allclose(same.errors, plain.errors, rtol=1e-4)
    assert same.num_held_out == 90
    other = draw(90, 16, 3, seed=7)[0]
    bank = dataset(np.stack([x, other], 1).reshape(180, 16), labels, num_views=2, augment="side_on")
    loader = ActivationLoader(bank, batch_size=8, train=True)
    both = solve_head(model, variables, bank, ridges=ridges)
    np.testing.assert_array_equal(solve_head(model, variables, loader, ridges=ridges).losses, both.losses)
    assert np.abs(both.losses - plain.losses).max() > 0.01
    shown = [ActivationLoader(bank, batch_size=8, train=True, augmented=False), loader.view(0), loader.view(1)]
    alone = solve_head(model, variables, dataset(other, labels), ridges=ridges)
    for one, expected in zip(shown, (plain, plain, alone), strict=True):
        np.testing.assert_array_equal(solve_head(model, variables, one, ridges=ridges).losses, expected.losses)


def test_what_cannot_be_solved_names_the_way_out(tiny):
    model, variables = tiny
    x, labels = draw(30, 16, 3)
    features = dataset(x, labels)
    with pytest.raises(ValueError, match=r"concat.*jaxclf\.fit"):
        solve_head(create_classifier(model.config, 3, head="concat"), variables, features)
    with pytest.raises(ValueError, match="cut 'pooled'"):
        solve_head(model, variables, dataset(x, labels, cut="stage4"))
    with pytest.raises(ValueError, match="3 classes, the features have 4"):
        solve_head(model, variables, dataset(x, labels, classes=4))
    with pytest.raises(ValueError, match="focal.*not convex"):
        solve_head(model, variables, features, settings=Settings(loss="focal"))
    with pytest.raises(ValueError, match="sigmoid.*one label"):
        solve_head(model, variables, features, settings=Settings(loss="sigmoid"))
    several = Settings(loss="sigmoid", class_weights="balanced")
    with pytest.raises(ValueError, match="balanced"):
        solve_head(model, variables, dataset(x, one_hot(labels)), settings=several)


@pytest.mark.parametrize(
    ("changes", "options", "message"),
    [
        ({}, {"ridges": []}, "ridges"),
        ({}, {"ridges": [0.0, 1.0]}, "ridges"),
        ({}, {"ridges": [1.0, 1.0]}, "ridges"),
        ({}, {"num_folds": 1}, "num_folds"),
        ({}, {"num_folds": 0}, "num_folds"),
        ({}, {"tolerance": 1e-8}, "tolerance"),
        ({"num_views": 2}, {}, "num_views"),
        ({"x": np.full((30, 5), np.nan, np.float32)}, {}, "row 0"),
        ({"targets": -np.ones((30, 3), np.float32)}, {}, "targets"),
        ({"targets": np.eye(30, dtype=np.float32)}, {}, "only ones of their class"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(changes, options, message):
    x, labels = draw(30, 5, 3)
    problem = LogisticProblem(x, one_hot(labels))._replace(**changes)
    with pytest.raises(ValueError, match=message):
        solve_logistic(problem, **{"ridges": [1.0, 2.0], **options})


def test_the_plot_shows_the_curve_and_marks_what_was_chosen():
    x, labels = draw(60, 6, 2)
    solved = solve_logistic(LogisticProblem(x, one_hot(labels)), [100.0, 10.0, 1.0, 0.1])
    ax = plot_ridge(solved)
    np.testing.assert_array_equal(ax.containers[0].lines[0].get_xydata(), np.c_[solved.ridges, solved.losses])
    bars = np.array(ax.containers[0].lines[2][0].get_segments())[:, :, 1]
    np.testing.assert_allclose(bars, np.c_[solved.losses - solved.errors, solved.losses + solved.errors])
    np.testing.assert_array_equal(ax.lines[-1].get_xydata(), [[solved.ridge, solved.loss]])
    ax.get_figure().draw_without_rendering()
    with pytest.raises(ValueError, match="num_folds"):
        plot_ridge(solve_logistic(LogisticProblem(x, one_hot(labels)), [1.0], num_folds=0))


def test_a_feature_that_one_row_hardly_showed_decides_nothing():
    """As the maxima of rectified maps are on pictures of few kinds: 0 but for one, and for one held back much more."""
    generator = np.random.default_rng(5)
    labels = np.arange(80) % 2
    x = generator.normal(size=(80, 6)).astype(np.float32) + 2 * labels[:, None]
    x[:, 5] = 0
    x[7, 5] = 1e-4
    problem = LogisticProblem(x, np.eye(2, dtype=np.float32)[labels], least_spread=LEAST_SPREAD)
    solved = solve_logistic(problem, [0.1], num_folds=0)
    kernel = np.asarray(solved.variables["kernel"])
    assert np.abs(0.1 * kernel[5]).max() < 1.0, "a thousand times as much of it as was seen"
