"""Training, prediction and the range test from cached activations: what the whole network would give."""

import collections
import dataclasses
import logging
import re

import jax
import numpy as np
import optax
import pytest
from coloured import coloured
from hypothesis import given
from hypothesis import strategies as st

from jaxclf.augment import mixup
from jaxclf.config import MODULES, Phase, Preprocess, Settings, cut_prefix
from jaxclf.data.activations import ActivationDataset, ActivationLoader
from jaxclf.data.loader import Loader
from jaxclf.data.order import epoch_views
from jaxclf.inference import predict as inference
from jaxclf.inference import tta
from jaxclf.inference.features import extract_features
from jaxclf.models import create_classifier, init_variables
from jaxclf.models.trees import leaf_paths
from jaxclf.training import fit as loop
from jaxclf.training import lr_finder, shared
from jaxclf.training import scan as scanned
from jaxclf.training.step import make_train_step

RNG = np.random.default_rng(0)
POOLED = RNG.normal(0, 1, (3 * 21, 32)).astype(np.float32)
LABELS = np.arange(21) % 3
CLASSES = ("a", "b", "c")


def image_loader(train=True, count=37, **kwargs) -> Loader:
    options = {"presized": False, "num_threads": 2, "seed": 3, **kwargs}
    return Loader(coloured(count, seed=int(not train)), batch_size=8, image_size=32, train=train, **options)


def cached(tiny, data: Loader, cut="pooled", placement="device", **kwargs) -> ActivationLoader:
    dataset = extract_features(*tiny, data, cut=cut, placement=placement, **kwargs)
    return ActivationLoader(dataset, batch_size=8, train=data.train, seed=data.seed, sampling=data.sampling)


def phase(cut="pooled", epochs=10, **kwargs) -> Phase:
    return Phase("part", lrs=(0.02,), frozen=cut_prefix(cut), cycle_epochs=epochs, augment="none", **kwargs)


def pooled_dataset(num_views=1, host=False, labels=LABELS) -> ActivationDataset:
    """Made up: [maximum, average] of 16 channels each, as the tiny network has."""
    rows = POOLED[: 21 * num_views]
    options = {"num_views": num_views, "augment": "side_on" if num_views > 1 else "none"}
    return ActivationDataset(rows if host else jax.device_put(rows), labels, classes=CLASSES, cut="pooled", **options)


def pooled_loader(num_views=1, host=False, train=True, labels=LABELS, **kwargs) -> ActivationLoader:
    return ActivationLoader(pooled_dataset(num_views, host, labels), batch_size=8, train=train, **kwargs)


def assert_same_state(one, other, rtol, atol=0.0):
    for name in ("params", "batch_stats", "ema"):
        trees = getattr(one, name), getattr(other, name)
        if trees[0] is None:
            assert trees[1] is None
            continue
        for (path, a), (_, b) in zip(leaf_paths(trees[0]), leaf_paths(trees[1]), strict=True):
            np.testing.assert_allclose(a, b, rtol=rtol, atol=atol, err_msg=f"{name} {path}")


@pytest.mark.parametrize("cut", ["pooled", "stage3", "stage2"])
def test_fifty_steps_from_a_cut_are_those_of_the_network_with_the_prefix_frozen(tiny, cut):
    """Losses, parameters, statistics, predictions; and the parameters are back in their place."""
    train, valid, scratch = image_loader(), image_loader(train=False, count=11), Settings(weights="none")
    whole = loop.fit(*tiny, phase(cut), train, valid, settings=scratch, log_every=1)
    data = cached(tiny, train, cut), cached(tiny, valid, cut)
    part = loop.fit(*tiny, phase(cut), *data, settings=scratch, log_every=1)
    assert len(whole.steps) == 50 and int(part.state.step) == 50
    losses = [[row["loss"] for row in result.steps] for result in (whole, part)]
    np.testing.assert_allclose(*losses, rtol=1e-3, atol=1e-4)
    assert losses[0][-1] < 0.7 * losses[0][0], "it learned something, so the comparison says something"
    assert_same_state(whole.state, part.state, rtol=2e-3, atol=2e-4)
    for (path, a), (_, b) in zip(leaf_paths(tiny[1]["params"]), leaf_paths(part.state.params), strict=True):
        assert np.array_equal(a, b) == any(name in cut_prefix(cut) for name in path.split("/")), path
    np.testing.assert_array_equal(whole.predictions.index, part.predictions.index)
    np.testing.assert_allclose(whole.predictions.logits, part.predictions.logits, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("sampling", ["shuffle", "balanced"])
@pytest.mark.parametrize("train", [True, False])
def test_the_loader_hands_out_what_the_image_loader_does(tiny, train, sampling):
    data = image_loader(train, count=21, sampling=sampling).without([3, 4])
    own = cached(tiny, data, placement="host")
    assert (len(own), own.num_examples, own.classes) == (len(data), data.num_examples, data.classes)
    for epoch in range(2):
        np.testing.assert_array_equal(own.order(epoch), data.order(epoch))
        for one, other in zip(own.epoch(epoch), data.epoch(epoch), strict=True):
            np.testing.assert_array_equal(one.index, other.index)
            np.testing.assert_array_equal(one.mask, other.mask)
            np.testing.assert_array_equal(one.labels[one.mask > 0], other.labels[other.mask > 0])


def test_a_loader_goes_on_where_it_was_and_stops_when_told():
    own = pooled_loader(3, host=True)
    batches = own.epoch(1)
    next(batches)
    rest = list(own.restore(batches.state))
    assert len(rest) == 2
    assert all(np.array_equal(a, b) for a, b in zip(next(batches), rest[0], strict=True))
    batches = own.epoch(1)
    batches.close()
    assert list(batches) == []


HARD = {
    "plain": Settings(),
    "ema, concat head": Settings(ema_decay=0.9, head="concat", clip_norm=0.5, optimizer="adamw", weight_decay=0.1),
    "parts": Settings(accumulate=2, label_smoothing=0.1),
}


@pytest.mark.parametrize("name", HARD)
def test_one_dispatch_per_epoch_gives_what_single_steps_give(tiny, name):
    """Rows, epochs, state and random draws (dropout, views of a bank)."""
    choice = HARD[name]
    concat = choice.head == "concat"
    model = create_classifier(tiny[0].config, 3, head=choice.head, dropout=0.0 if concat else 0.3)
    variables = init_variables(model, jax.random.key(0), image_size=32)
    part = dataclasses.replace(phase(epochs=3), augment="side_on")
    results = [
        loop.fit(
            model, variables, part, pooled_loader(3, host), pooled_loader(3, host, train=False), settings=choice,
            log_every=2,
        )
        for host in (False, True)
    ]  # fmt: skip
    assert [scanned.can_scan(pooled_loader(3, host)) for host in (False, True)] == [True, False]
    for rows in zip(results[0].steps + results[0].epochs, results[1].steps + results[1].epochs, strict=True):
        assert rows[0].keys() == rows[1].keys()
        for field, value in rows[0].items():
            assert value == (pytest.approx(rows[1][field], rel=1e-5) if not isinstance(value, str) else rows[1][field])
    assert_same_state(results[0].state, results[1].state, rtol=1e-5, atol=1e-6)


def test_an_epoch_is_one_dispatch_and_compiled_once(tiny, caplog):
    shared.shared_step.cache_clear()  # an earlier test may have compiled it
    with jax.log_compiles(), caplog.at_level(logging.WARNING):
        loop.fit(*tiny, phase(epochs=3), pooled_loader())
    compiled = collections.Counter(re.findall(r"Compiling jit\((\w+)\)", caplog.text))
    assert compiled["scanned_steps"] == 1 and compiled["train_step"] == 0, compiled


def test_divergence_in_a_scanned_epoch_names_the_step_and_keeps_the_last_good_state(tiny):
    with pytest.raises(loop.NonFiniteLoss, match=r"diverged at step \d+ of phase 'part'") as error:
        loop.fit(*tiny, dataclasses.replace(phase(epochs=5), lrs=(3e38,)), pooled_loader())
    assert all(np.isfinite(leaf).all() for _, leaf in leaf_paths(error.value.state.params))


def test_several_labels(tiny):
    labels = (RNG.random((21, 3)) < 0.5).astype(np.float32)
    result = loop.fit(
        *tiny, phase(epochs=2), pooled_loader(labels=labels), pooled_loader(labels=labels, train=False),
        settings=Settings(loss="sigmoid"),
    )  # fmt: skip
    np.testing.assert_array_equal(result.predictions.labels, labels)


def test_each_epoch_shows_one_view_per_picture_drawn_at_random():
    own = pooled_loader(3)
    shown = np.zeros((60, 21), int)
    for epoch in range(60):
        positions, rows = own.epoch_rows(epoch)
        rows, positions = rows[positions >= 0], positions[positions >= 0]
        assert (rows // 3 == positions).all() and len(rows) == 21
        shown[epoch, positions] = rows % 3
    counts = np.bincount(shown.reshape(-1))
    assert (np.abs(counts / counts.sum() - 1 / 3) < 0.05).all()
    assert len(np.unique(shown, axis=0)) == 60
    assert not (own.epoch_rows(0)[1] % 3 == pooled_loader(3, seed=1).epoch_rows(0)[1] % 3).all()
    for plain in (pooled_loader(3, augmented=False), pooled_loader(3, train=False)):
        assert (plain.epoch_rows(0)[1] % 3 == 0).all()


@given(st.integers(0, 2**31), st.integers(0, 2**40), st.integers(1, 9), st.integers(0, 40), st.integers(0, 40))
def test_the_view_of_an_example_does_not_depend_on_how_many_there_are(seed, epoch, num_views, few, more):
    one, other = (epoch_views(seed, epoch, number, num_views) for number in (few, few + more))
    np.testing.assert_array_equal(one, other[:few])
    assert ((other >= 0) & (other < num_views)).all() and other.dtype == np.int32


@pytest.mark.parametrize(
    ("change", "num_views", "kwargs", "mentions"),
    [
        ({"augment": "side_on"}, 1, {}, "augmented bank: extract_features"),
        ({"augment": "top_down"}, 3, {}, "made with 'side_on'"),
        ({"augment": "side_on"}, 3, {"augmented": False}, "augmented=True"),
        ({"augment": "none"}, 3, {}, "augmented=False"),
        ({"frozen": MODULES[:4]}, 1, {}, "activations were computed with stage4"),
    ],
)
def test_phases_that_do_not_fit_the_activations_are_errors(tiny, change, num_views, kwargs, mentions):
    with pytest.raises(ValueError, match=mentions):
        loop.fit(*tiny, dataclasses.replace(phase(), **change), pooled_loader(num_views, **kwargs))


def test_activations_are_not_mixed(tiny):
    """A program leaves mixing to the phases that see pictures; the step itself refuses it."""
    plain, mixed = (loop.fit(*tiny, phase(), pooled_loader(), settings=Settings(mixup=m)).state for m in (0.0, 0.4))
    assert_same_state(mixed, plain, rtol=0, atol=0)
    with pytest.raises(ValueError, match="mixup and cutmix mix pictures"):
        make_train_step(tiny[0], optax.sgd(0.1), preprocess=Preprocess(), frozen=MODULES[:5], mix=mixup, start="pooled")


def test_loaders_that_cannot_be_are_errors():
    for make, mentions in (
        (lambda: pooled_loader(augmented=True), "extract_features"),
        (lambda: ActivationLoader(pooled_dataset(), batch_size=0, train=True), "batch_size=0"),
        (lambda: pooled_loader(sampling="odd"), "sampling='odd'"),
        (lambda: pooled_loader(3).view(3), "view=3"),
        (lambda: pooled_dataset(labels=LABELS[:5]), "21 activations for 5 labels"),
    ):
        with pytest.raises(ValueError, match=mentions):
            make()


def test_tta_takes_the_views_of_a_bank_and_refuses_a_plain_cache(tiny):
    with pytest.raises(ValueError, match="test-time augmentation has no effect .* augmented bank"):
        tta.predict_tta(*tiny, pooled_loader(train=False))
    own = pooled_loader(3, train=False)
    _, views = tta.predict_tta(*tiny, own, num_views=2, return_views=True)
    for view in range(3):
        alone = inference.predict(*tiny, ActivationLoader(
            ActivationDataset(POOLED[view::3], LABELS, classes=CLASSES, cut="pooled"), batch_size=8, train=False
        ))  # fmt: skip
        probabilities = np.asarray(jax.nn.softmax(alone.logits))
        np.testing.assert_allclose(views[view], probabilities, rtol=1e-4)


TEST = {"frozen": MODULES[:5], "high": 1e4, "num_steps": 40, "lrs": (0.1, 1.0)}


def test_the_scanned_range_test_is_the_stepwise_one(tiny):
    curves = [lr_finder.find_lr(*tiny, pooled_loader(3, host), **TEST) for host in (False, True)]
    assert len(curves[0].lrs) == len(curves[1].lrs) < 40 and curves[0].reason[:20] == curves[1].reason[:20]
    for name in ("lrs", "losses", "smoothed", "group_lrs"):
        np.testing.assert_allclose(getattr(curves[0], name), getattr(curves[1], name), rtol=1e-5, err_msg=name)


def test_each_seed_of_a_band_is_a_test_of_its_own(tiny):
    dropping = create_classifier(tiny[0].config, 3, dropout=0.3), tiny[1]
    band = lr_finder.find_lr_band(*dropping, pooled_loader(3), seeds=(0, 7), **TEST)
    for number, seed in enumerate((0, 7)):
        test = {**TEST, "settings": Settings(seed=seed)}
        alone, row = lr_finder.find_lr(*dropping, pooled_loader(3, host=True), **test), band.curve(number)
        np.testing.assert_allclose(row.losses, alone.losses, rtol=1e-4)
        assert row.reason[:20] == alone.reason[:20] and row.num_steps == 40
    assert band.losses.shape == band.smoothed.shape == (2, 40) and np.isnan(band.losses).any()
    middle = band.middle()
    low, high = band.bounds()
    assert (
        len(low) == len(high) == len(middle.lrs) and (low <= middle.smoothed).all() and (middle.smoothed <= high).all()
    )
    assert not np.allclose(band.losses[0, :10], band.losses[1, :10]), "another order for each seed"
    with pytest.raises(ValueError, match="call find_lr once for each seed"):
        lr_finder.find_lr_band(*tiny, pooled_loader(host=True), **TEST)
    with pytest.raises(ValueError, match="seeds=0"):
        lr_finder.find_lr_band(*tiny, pooled_loader(), seeds=0, **TEST)
