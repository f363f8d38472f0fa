"""Many heads at once train as each would alone, never on what they are judged on, and the table adds up."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sklearn.linear_model import LogisticRegression

from jaxclf import ActivationDataset, HeadTraining, SweepGrid, sweep_heads
from jaxclf._progress import silent
from jaxclf.config import Settings
from jaxclf.data.order import epoch_order, k_folds
from jaxclf.metrics import Predictions, summarize
from jaxclf.models import ResNetConfig, create_classifier, create_head, init_head, init_variables
from jaxclf.schedules import cosine
from jaxclf.training.losses import make_loss, weighted_mean
from jaxclf.training.optimizer import make_optimizer
from jaxclf.training.sweep.members import Examples, Members, Program, held_out_rows
from jaxclf.training.sweep.search import _chunk_size
from jaxclf.training.sweep.solved import solve_heads
from jaxclf.training.sweep.table import SweepRow, choose, mean_and_error
from jaxclf.training.sweep.train import first_state, keep, make_epoch, member_variables, orders, train_members

NUM, WIDTH, CLASSES, FOLDS = 46, 12, 3, 2
LRS, DECAYS, SEEDS = (0.3, 0.03), (0.0, 0.1), (5, 6)


def problem(num: int = NUM, width: int = WIDTH, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, CLASSES, num)
    features = generator.normal(size=(num, width)).astype(np.float32)
    features[np.arange(num), width // 2 + labels] += 1.5
    return features, labels


def examples(features: np.ndarray, labels: np.ndarray, num_folds: int = FOLDS) -> Examples:
    return Examples(features, np.eye(CLASSES, dtype=np.float32)[labels], k_folds(labels, num_folds))


def program(kind="linear", head=None, **changes) -> Program:
    common = {"loss": make_loss("softmax", label_smoothing=0.1), "batch_size": 8, "epochs": 3, "order_seed": 2}
    training = HeadTraining(**{**common, **changes})
    return Program(head or create_head(kind, CLASSES), False, FOLDS, training)


def members() -> Members:
    """Two units of two folds each, different in everything."""
    return Members(np.float32([0.3, 0.3, 0.03, 0.03]), np.float32([0, 0, 0.1, 0.1]), np.int32([5, 5, 6, 6]))


def alone(program: Program, examples: Examples, lr: float, decay: float, seed: int, fold: int):
    """One head as the library trains any: make_optimizer, the loss's weighted mean, batch after batch."""
    training, head, loss_of = program.training, program.head, program.training.loss_function()
    variables = init_head(head, jax.random.key(seed), examples.features.shape[1])
    params, stats = variables["params"], variables["batch_stats"]
    steps = -(-NUM // training.batch_size)
    optimizer = make_optimizer(
        {"head": params},
        cosine(training.epochs * steps),
        (lr,),
        optimizer=training.optimizer,
        momentum=training.momentum,
        weight_decay=decay,
    )
    state = optimizer.init({"head": params})

    @jax.jit
    def step(params, stats, state, x, t, mask):
        def loss_fn(params):
            logits, updated = head.apply(
                {"params": params["head"], "batch_stats": stats}, x, train=True, mask=mask, mutable=["batch_stats"]
            )
            return weighted_mean(*loss_of(logits, t), mask), updated

        gradients, updated = jax.grad(loss_fn, has_aux=True)({"head": params})
        updates, state = optimizer.update(gradients, state, {"head": params})
        return optax.apply_updates({"head": params}, updates)["head"], updated.get("batch_stats", {}), state

    mask = (examples.folds != fold).astype(np.float32)
    for epoch in range(training.epochs):
        order = epoch_order(seed if training.own_order else training.order_seed, epoch, NUM)
        for batch in np.array_split(order, steps):
            params, stats, state = step(
                params, stats, state, examples.features[batch], examples.targets[batch], mask[batch]
            )
    logits = head.apply({"params": params, "batch_stats": stats}, examples.features, train=False)
    return params, stats, np.asarray(logits)


def close(ours, theirs, rtol=1e-5):
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol * max(float(np.abs(b).max()), 1e-3))


@pytest.mark.parametrize(
    ("kind", "optimizer", "own_order"),
    [("linear", "sgd", False), ("linear", "adamw", True), ("concat-like", "sgd", False)],
)
def test_each_member_is_the_head_trained_alone(kind, optimizer, own_order):
    """Its variables, held-out loss and accuracy; the concat head narrow and without dropout, whose keys differ."""
    train = program(optimizer=optimizer, own_order=own_order)
    if kind == "concat-like":
        train = train._replace(head=type(create_head("concat", CLASSES))(CLASSES, hidden=8, dropouts=(0.0, 0.0)))
    data = examples(*problem())
    judged = train_members(train, data, members())
    for number, (lr, decay, seed) in enumerate(zip(*members(), strict=True)):
        fold = number % FOLDS
        params, stats, logits = alone(train, data, float(lr), float(decay), int(seed), fold)
        variables = member_variables(judged, number)
        # BatchNorm over five examples at a high rate is not well conditioned: rounding grows.
        close(variables["params"]["head"], params, rtol=1e-5 if kind == "linear" else 1e-3)
        close(variables["batch_stats"].get("head", {}), stats, rtol=1e-3)
        held = data.folds == fold
        figures = summarize(Predictions(logits[held], data.targets[held].argmax(-1), np.flatnonzero(held)))
        np.testing.assert_allclose(judged.losses[number], figures["loss"], rtol=1e-5 if kind == "linear" else 1e-3)
        np.testing.assert_allclose(judged.accuracies[number], figures["accuracy"], rtol=1e-6)
    assert (judged.epochs == 3).all()


def test_a_head_starts_as_a_classifiers_would():
    config = ResNetConfig("tiny", "basic", (1, 1, 1, 1), stem_width=8, stage_widths=(8, 8, 8, 8))
    for kind in ("linear", "concat"):
        model = create_classifier(config, CLASSES, head=kind)
        whole = init_variables(model, jax.random.key(3), image_size=32)
        ours = init_head(create_head(kind, CLASSES), jax.random.key(3), 16)
        close(ours["params"], whole["params"]["head"], rtol=0)
        close(ours["batch_stats"], whole["batch_stats"].get("head", {}), rtol=0)


def test_shared_batches_give_one_matrix_product():
    """No product of the training step has a batch dimension, unless every seed has its own order."""

    def batched(train):
        data, some = examples(*problem()), members()
        arguments = (first_state(train, WIDTH, some), data, some, orders(train, some, 0, NUM))
        compiled = make_epoch(train, NUM).lower(*arguments, held_out_rows(FOLDS, data.folds), np.int32(0))
        lines = [line for line in compiled.as_text().splitlines() if "dot_general" in line]
        assert lines
        return ["batching_dims" in line for line in lines]

    assert not any(batched(program()))
    assert any(batched(program(own_order=True)))


@pytest.mark.parametrize("kind", ["linear", "concat"])
def test_held_out_examples_leave_no_trace_in_training(kind):
    """Other features and labels in fold 0 change the figures of the members of fold 0, and none of their variables."""
    features, labels = problem()
    train = program(kind, epochs=2)
    if kind == "concat":
        train = train._replace(head=type(train.head)(CLASSES, hidden=8))
    before = examples(features, labels)
    held = before.folds == 0
    other = np.where(held[:, None], 7 - 3 * features, features)
    after = before._replace(features=other, targets=np.where(held[:, None], 1 - before.targets, before.targets))
    first, second = (train_members(train, data, members()) for data in (before, after))
    for number in (0, 2):
        close(member_variables(first, number), member_variables(second, number), rtol=0)
        assert first.losses[number] != second.losses[number]
    for number in (1, 3):
        ours, theirs = (jax.tree.leaves(member_variables(judged, number)["params"])[-1] for judged in (first, second))
        assert not np.array_equal(ours, theirs)


def test_batches_without_training_examples_change_nothing_but_momentum():
    """Fold 0 is nearly everything and batches hold two: many weigh nothing, and nothing becomes NaN."""
    features, labels = problem()
    data = examples(features, labels)._replace(folds=(np.arange(NUM) < 4).astype(np.int32))
    for head in (create_head("linear", CLASSES), type(create_head("concat", CLASSES))(CLASSES, hidden=8)):
        judged = train_members(program(head=head, batch_size=2, epochs=1), data, members())
        assert np.isfinite(judged.losses).all()
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(judged.variables))


def sweep(features=None, labels=None, *, max_bytes=None, on_progress=silent, **options):
    """A sweep with the options of both kinds together."""
    grid = {"lrs": LRS, "weight_decays": DECAYS, "seeds": SEEDS, "num_folds": FOLDS}
    named = {field.name for field in dataclasses.fields(SweepGrid)}
    grid |= {name: value for name, value in options.items() if name in named}
    training = {"epochs": 3, "batch_size": 8} | {name: value for name, value in options.items() if name not in named}
    features, labels = problem() if features is None else (features, labels)
    data = ActivationDataset(features, labels, classes=[str(i) for i in range(CLASSES)], cut="pooled")
    return sweep_heads(data, SweepGrid(**grid), HeadTraining(**training), max_bytes=max_bytes, on_progress=on_progress)


@pytest.fixture(scope="module")
def found():
    return sweep()


def test_any_chunking_gives_the_same_figures(found):
    each = FOLDS * program().bytes_per_member(WIDTH)
    calls: list[tuple[int, int]] = []
    chunked = sweep(max_bytes=3 * each, on_progress=lambda done, total: calls.append((done, total)))
    np.testing.assert_allclose(chunked.losses, found.losses, rtol=1e-5)
    np.testing.assert_allclose(chunked.accuracies, found.accuracies, rtol=1e-5)
    close(chunked.best_variables, found.best_variables)
    assert (chunked.best, chunked.close) == (found.best, found.close)
    # 8 sets of folds in chunks of 3, 3 and 2, filled up to 3; then the best one.
    assert calls[-1] == (12, 12) and [done for done, _ in calls] == sorted(done for done, _ in calls)
    with pytest.raises(ValueError, match="max_bytes=.* does not hold"):
        sweep(max_bytes=each - 1)


def test_chunks_are_few_and_about_equal():
    assert [_chunk_size(8, 10, limit) for limit in (1000, 80, 79, 30, 10)] == [8, 8, 4, 3, 1]


def test_the_table_is_the_mean_over_seeds_and_folds(found):
    assert found.losses.shape == found.accuracies.shape == found.epochs.shape == (4, 2, 2)
    assert [(row.lr, row.weight_decay) for row in found.rows] == [(lr, decay) for lr in LRS for decay in DECAYS]
    data = examples(*problem())
    train = program(loss=make_loss(), order_seed=0)
    for setting, row in enumerate(found.rows):
        for seed_number, seed in enumerate(SEEDS):
            for fold in range(FOLDS):
                *_, logits = alone(train, data, row.lr, row.weight_decay, seed, fold)
                held = data.folds == fold
                loss = optax.softmax_cross_entropy(logits[held], data.targets[held]).mean()
                np.testing.assert_allclose(found.losses[setting, seed_number, fold], loss, rtol=1e-4)
        np.testing.assert_allclose(row.loss, found.losses[setting].mean())
        a, b = found.losses[setting].mean(0)  # two folds: the error of their mean is half their distance
        np.testing.assert_allclose(row.loss_error, abs(a - b) / 2)
        np.testing.assert_allclose(row.accuracy, found.accuracies[setting].mean())
    assert found.best_row.loss == min(row.loss for row in found.rows)
    assert found.close[0] == found.best and found.best_epochs == 3


def test_the_best_head_is_the_setting_trained_on_everything(found):
    """And it goes straight into a classifier."""
    data = examples(*problem())
    best = found.best_row
    train = program(loss=make_loss(), order_seed=0)
    params, _, logits = alone(train, data, best.lr, best.weight_decay, SEEDS[0], fold=-1)
    close(found.best_variables["params"]["head"], params)
    config = ResNetConfig("tiny", "basic", (1, 1, 1, 1), stem_width=8, stage_widths=(8, 8, 8, WIDTH // 2))
    model = create_classifier(config, CLASSES)
    variables = init_variables(model, jax.random.key(0), image_size=32)
    variables = {name: {**variables[name], **found.best_variables[name]} for name in variables}
    ours = model.apply(variables, jnp.asarray(data.features), start="pooled")
    np.testing.assert_allclose(ours, logits, rtol=1e-4, atol=1e-5)


def test_one_seed_gives_one_result_and_another_another(found):
    again = sweep()
    np.testing.assert_array_equal(again.losses, found.losses)
    assert not np.allclose(found.losses[:, 0], found.losses[:, 1], rtol=1e-3)
    assert not np.allclose(sweep(order_seed=1).losses, found.losses, rtol=1e-4)


def test_of_a_bank_the_plain_pictures_count(found):
    features, labels = problem()
    views = np.stack([features, features[::-1]], 1).reshape(2 * NUM, WIDTH)
    bank = ActivationDataset(views, labels, classes=("a", "b", "c"), cut="pooled", num_views=2, augment="side_on")
    grid = SweepGrid(lrs=LRS, weight_decays=DECAYS, seeds=SEEDS, num_folds=FOLDS)
    np.testing.assert_array_equal(sweep_heads(bank, grid, HeadTraining(epochs=3, batch_size=8)).losses, found.losses)


def test_early_stopping_keeps_the_best_epoch():
    """At a rate that soon overfits: each epoch's loss from runs without it, and the same rule by hand."""
    generator = np.random.default_rng(1)
    features, labels = generator.normal(size=(NUM, WIDTH)).astype(np.float32), generator.integers(0, CLASSES, NUM)
    data, epochs, patience = examples(features, labels), 6, 2
    heads = members()._replace(lrs=np.float32([0.5, 0.5, 1e-3, 1e-3]))
    train = program(epochs=epochs)
    history = [train_members(train, data, heads, stop_after=end) for end in range(1, epochs + 1)]
    losses = np.array([judged.losses for judged in history])  # [epochs, m]
    stopped = train_members(program(epochs=epochs, patience=patience), data, heads)
    for number in range(4):
        best = 0
        for epoch in range(1, epochs):
            if losses[epoch, number] < losses[best, number]:
                best = epoch
            elif epoch - best >= patience:
                break
        assert stopped.epochs[number] == best + 1
        np.testing.assert_allclose(stopped.losses[number], losses[best, number], rtol=1e-6)
        close(member_variables(stopped, number), member_variables(history[best], number))
    assert stopped.epochs.min() < epochs and len(set(stopped.epochs.tolist())) > 1


def test_patience_counts_epochs_without_a_new_lowest_loss():
    """On losses made up for it: one comes back after two worse epochs, one is NaN, one only falls."""
    losses = np.array([[1.0, 0.9, 0.95, 0.92, 0.5, 0.4], [np.nan] * 6, [6.0, 5.0, 4.0, 3.0, 2.0, 1.0]], np.float32)
    expected = {
        2: ([2, 0, 6], [True, True, False]),
        3: ([6, 0, 6], [False, True, False]),
        None: ([6, 6, 6], [False] * 3),
    }
    for patience, (epochs, stopped) in expected.items():
        state = {name: np.zeros(3, dtype) for name, dtype in (("accuracy", "f"), ("epoch", "i"), ("stopped", "?"))}
        state |= {"loss": np.full(3, np.inf, np.float32), "best": {"kernel": np.zeros((3, 1), np.float32)}}
        for epoch in range(6):
            weights = {"kernel": np.full((3, 1), epoch + 1, np.float32)}
            state = keep(state, weights, losses[:, epoch], losses[:, epoch], epoch, patience)
        assert state["epoch"].tolist() == epochs and state["stopped"].tolist() == stopped
        assert state["best"]["kernel"][:, 0].tolist() == epochs, "the weights are those of the epoch"


def test_logistic_regression_finds_the_same_loss():
    features, labels = problem(240, 16)
    found = sweep(features, labels, lrs=(0.1,), weight_decays=(0.0,), seeds=(0,), num_folds=3, epochs=60, batch_size=24)
    folds = k_folds(labels, 3)
    losses = []
    for fold in range(3):
        model = LogisticRegression(C=np.inf, max_iter=1000).fit(features[folds != fold, 8:], labels[folds != fold])
        log_probs = model.predict_log_proba(features[folds == fold, 8:])
        losses.append(-np.take_along_axis(log_probs, labels[folds == fold, None], 1).mean())
    np.testing.assert_allclose(found.losses[0, 0], losses, rtol=0.02)


def test_several_labels_per_example():
    features, labels = problem()
    several = np.eye(CLASSES)[labels]
    several[:, 0] = 1 - several[:, 0]
    found = sweep(features, several, loss="sigmoid", epochs=10)
    assert found.best_row.accuracy > 0.7 and found.best_row.loss < 0.6


def test_both_kinds_of_head_in_one_table():
    found = sweep(heads=("linear", "concat"), lrs=(0.03,), weight_decays=(0.0,), seeds=(0,), epochs=1)
    assert [row.head for row in found.rows] == ["linear", "concat"]
    assert found.losses.shape == (2, 1, 2) and found.losses[0, 0, 0] != found.losses[1, 0, 0]


def test_dropout_draws_for_every_member():
    """With the same seed and rate the masks are the same, with another seed they are not; without, all is as it was."""
    twins = Members(np.full(6, 0.1, np.float32), np.zeros(6, np.float32), np.int32([5, 5, 5, 5, 6, 6]))
    data = examples(*problem())
    train = program(head=create_head("linear", CLASSES, dropout=0.5), epochs=1)
    kernels = train_members(train, data, twins).variables["params"]["fc"]["kernel"]
    np.testing.assert_array_equal(kernels[0], kernels[2])
    plain = train_members(program(epochs=1), data, twins).variables["params"]["fc"]["kernel"]
    assert np.abs(kernels[0] - plain[0]).max() > 0.01 and np.abs(kernels[0] - kernels[4]).max() > 0.01


def test_what_diverges_comes_last_and_is_never_best():
    features, labels = problem()
    found = sweep(1e4 * features, labels, lrs=(1e-9, 1e30), weight_decays=(0.0,), epochs=2)
    assert found.best == 0 and found.close == (0,)
    assert found.rows[1].loss == found.rows[1].loss_error == np.inf
    with pytest.raises(ValueError, match=r"diverged with every setting; try lower rates than lrs=\[1e\+30\]"):
        sweep(1e4 * features, labels, lrs=(1e30,), weight_decays=(0.0,), epochs=2)


def test_standard_errors_and_choice_by_hand():
    values = np.array([[[1.0, 2.0, 3.0], [3.0, 4.0, 5.0]], [[1.0, np.nan, 1.0], [1.0, 1.0, 1.0]]])
    mean, error = mean_and_error(values)
    np.testing.assert_allclose(mean, [3.0, np.inf])
    np.testing.assert_allclose(error, [1 / np.sqrt(3), np.inf])  # the folds' means 2, 3, 4 have a spread of 1
    rows = [SweepRow("linear", 1.0, 0.0, loss, 0.1, 0.5, 0.0, 1.0) for loss in (0.75, 0.5, 0.6, 0.61)]
    assert choose(rows) == (1, (1, 2))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lrs": ()}, "lrs="),
        ({"lrs": (0.1, 0.1)}, "none twice"),
        ({"lrs": (-0.1,)}, r"lrs=\(-0.1,\) must be finite and positive"),
        ({"weight_decays": (np.nan,)}, "weight_decays="),
        ({"seeds": (-1,)}, "seeds="),
        ({"heads": ("mlp",)}, "head: expected one of"),
        ({"num_folds": 1}, "num_folds=1"),
        ({"num_folds": 47}, "num_folds=47"),
        ({"epochs": 0}, "epochs=0"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"patience": 0}, "patience=0"),
        ({"momentum": 1.0}, "momentum=1.0"),
        ({"optimizer": "lion"}, "optimizer='lion'"),
        ({"dropout": 1.0}, "dropout=1.0"),
        ({"dropout": 0.5, "heads": ("concat",)}, "dropout=0.5"),
        ({"loss": "hinge"}, "loss 'hinge'"),
        ({"loss": "sigmoid"}, "loss='sigmoid' is not for one label per example; choose softmax"),
    ],
)
def test_options_that_make_no_sense(options, message):
    with pytest.raises(ValueError, match=message):
        sweep(**options)


def test_data_that_makes_no_sense():
    features, labels = problem()
    for bad in (features[:, 0], features[:, :-1], features[:, :0]):
        with pytest.raises(ValueError, match="features of shape"):
            sweep(bad, labels)
    with pytest.raises(ValueError, match="46 activations for 45 labels"):
        sweep(features, labels[:-1])
    with pytest.raises(ValueError, match="labels must be whole class numbers"):
        sweep(features, labels + 0.5)
    with pytest.raises(ValueError, match="loss='softmax' is not for several labels per example; choose sigmoid"):
        sweep(features, np.eye(CLASSES)[labels])
    with pytest.raises(ValueError, match="of 0 and 1 for several labels"):
        sweep(features, 2 * np.eye(CLASSES)[labels], loss="sigmoid")
    with pytest.raises(ValueError, match="labels from 1 to 3 do not fit 3 classes"):
        sweep(features, labels + 1)
    broken = features.copy()
    broken[7, 3] = np.nan
    with pytest.raises(ValueError, match="features of example 7 are not finite"):
        sweep(broken, labels)


def test_solved_heads_are_judged_in_the_folds_of_the_trained_ones():
    """Each on what it has not seen, by the loss and accuracy of scikit-learn's head with the same ridge."""
    features, labels = problem(60)
    data = ActivationDataset(features, labels, classes=("a", "b", "c"), cut="pooled")
    grid = SweepGrid(heads=("concat", "linear", "pools"), num_folds=3, fold_seed=1)
    calls = []
    rows = solve_heads(data, grid, Settings(), on_progress=lambda *at: calls.append(at))
    assert [row.head for row in rows] == ["linear", "pools"] and calls[-1] == (8, 8)
    folds = k_folds(labels, 3, 1)
    for row, x in zip(rows, (features[:, WIDTH // 2 :], features), strict=True):
        figures = []
        for fold in range(3):
            rest, held = folds != fold, folds == fold
            mean, deviation = x[rest].mean(0), x[rest].std(0)
            peer = LogisticRegression(C=1 / row.solved.ridge, tol=1e-8, max_iter=5000)
            peer.fit((x[rest] - mean) / deviation, labels[rest])
            logits = peer.decision_function((x[held] - mean) / deviation)
            found = summarize(Predictions(logits, labels[held], np.flatnonzero(held)))
            figures.append((found["loss"], found["accuracy"]))
        losses, accuracies = np.transpose(figures)
        np.testing.assert_allclose(row.loss, losses.mean(), rtol=1e-4)
        np.testing.assert_allclose(row.accuracy, accuracies.mean(), rtol=1e-6)
        np.testing.assert_allclose(row.loss_error, losses.std(ddof=1) / 3**0.5, rtol=1e-3)


def test_nothing_is_solved_for_a_loss_that_is_not_convex():
    data = ActivationDataset(*problem(), classes=("a", "b", "c"), cut="pooled")
    assert solve_heads(data, SweepGrid(), Settings(loss="focal")) == ()
    assert solve_heads(data, SweepGrid(heads=("concat",)), Settings()) == ()
