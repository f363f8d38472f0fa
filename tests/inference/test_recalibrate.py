"""BatchNorm's statistics taken anew: those of the photos and nothing else, whatever the batches and their padding."""

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from networks import BASIC, RICH

from jaxclf import recalibrate_batch_norm
from jaxclf.augment import normalize, to_float
from jaxclf.config import Preprocess
from jaxclf.data.loader import Loader
from jaxclf.data.sources import ArrayDataset
from jaxclf.inference import recalibrate
from jaxclf.models import create_classifier, init_variables
from jaxclf.models.trees import leaf_paths

SIZE, NUM = 16, 21
PIXELS = np.random.default_rng(0).integers(0, 200, (NUM, SIZE, SIZE, 3), np.uint8)
WHOLE = Preprocess(crop_fraction=1.0)
DATASET = ArrayDataset(PIXELS, np.arange(NUM) % 3, classes=("a", "b", "c"))


def loader(batch_size=8, **options) -> Loader:
    return Loader(DATASET, batch_size=batch_size, image_size=SIZE, preprocess=WHOLE, **{"train": False, **options})


def made(config, head="linear"):
    model = create_classifier(config, 3, head=head)
    return model, init_variables(model, jax.random.key(1), image_size=SIZE)


@pytest.fixture(scope="module")
def basic():
    return made(BASIC)


@pytest.fixture(scope="module")
def anew(basic):
    return recalibrate_batch_norm(*basic, loader())


@pytest.mark.parametrize("config", [BASIC, RICH], ids=("basic", "rich"))
def test_the_statistics_are_those_of_the_photos(config):
    """All photos are one batch here, padded: what a train step over just them moves its statistics to."""
    model, variables = made(config)
    ours = recalibrate_batch_norm(model, variables, loader())["batch_stats"]
    preprocess = loader().preprocess
    inputs = normalize(to_float(PIXELS), preprocess.mean, preprocess.std)
    frozen = {"train": True, "mutable": ["batch_stats"], "rngs": {"dropout": jax.random.key(0)}}
    _, moved = jax.jit(lambda variables, x: model.apply(variables, x, **frozen))(variables, inputs)
    before, after = dict(leaf_paths(variables["batch_stats"])), dict(leaf_paths(moved["batch_stats"]))
    found = dict(leaf_paths(ours))
    assert set(found) == set(before) and len(found) > 10
    for path, values in found.items():
        expected = (np.asarray(after[path]) - 0.9 * np.asarray(before[path])) / 0.1  # Flax keeps nine tenths
        np.testing.assert_allclose(values, expected, rtol=1e-3, atol=1e-4, err_msg=path)
        assert not np.allclose(values, before[path], rtol=0.01), path


def test_in_several_batches_the_first_layer_has_the_same_and_the_others_nearly(basic, anew, monkeypatch):
    monkeypatch.setattr(recalibrate, "MIN_BATCH", 8)
    split = dict(leaf_paths(recalibrate_batch_norm(*basic, loader())["batch_stats"]))
    for path, values in leaf_paths(anew["batch_stats"]):
        first = "stem" in path
        np.testing.assert_allclose(split[path], values, rtol=1e-4 if first else 0.5, atol=1e-5 if first else 0.3)


@pytest.mark.parametrize(
    "options", [{"train": True, "seed": 5}, {"train": True, "sampling": "balanced"}, {"batch_size": 64}], ids=str
)
def test_they_do_not_depend_on_the_loaders_order(basic, anew, options):
    other = recalibrate_batch_norm(*basic, loader(**{"presized": False, **options}))
    jax.tree.map(np.testing.assert_array_equal, other["batch_stats"], anew["batch_stats"])


def test_photos_that_are_left_out_play_no_part(basic):
    few = recalibrate_batch_norm(*basic, loader().without(range(3, NUM)))["batch_stats"]
    alone = ArrayDataset(PIXELS[:3], np.arange(3), classes=("a", "b", "c"))
    three = recalibrate_batch_norm(*basic, Loader(alone, batch_size=3, image_size=SIZE, train=False, preprocess=WHOLE))[
        "batch_stats"
    ]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), few, three)


def test_parameters_and_head_stay_and_progress_is_told():
    model, variables = made(BASIC, "concat")
    calls = []
    new = recalibrate_batch_norm(model, variables, loader(), on_progress=lambda *at: calls.append(at))
    assert new["params"] is variables["params"]
    jax.tree.map(np.testing.assert_array_equal, new["batch_stats"]["head"], variables["batch_stats"]["head"])
    assert calls == [(NUM, NUM)]


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.integers(0, 99))
def test_moments_pool_exactly(sizes, seed):
    values = np.random.default_rng(seed).normal(100, 0.1, (sum(sizes), 4))
    pooled = None
    for part in np.split(values, np.cumsum(sizes)[:-1]):
        pooled = recalibrate._pooled(pooled, part.mean(0), part.var(0), len(part))
    mean, squares, count = pooled
    assert count == len(values)
    np.testing.assert_allclose(mean, values.mean(0), rtol=1e-12)
    np.testing.assert_allclose(squares / count, values.var(0), rtol=1e-6, atol=1e-12)
