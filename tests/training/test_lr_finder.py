"""The learning-rate test itself: it measures what a training would do, and leaves no trace."""

import collections
import io
import logging
import re
from typing import NamedTuple

import jax
import numpy as np
import pytest
from coloured import coloured

from jaxclf.config import MODULES, Settings
from jaxclf.data.loader import Loader
from jaxclf.training import lr_finder, shared
from jaxclf.training import program as phases
from jaxclf.training.lr_curve import LRCurve, smooth_losses, stopping_point


def train_loader(count=48, batch_size=8) -> Loader:
    return Loader(coloured(count), batch_size=batch_size, image_size=32, train=True, presized=False)


#: Rates too low to do harm, and rates that make it diverge.
QUIET = {"high": 1e-3, "num_steps": 30}
LOUD = {"high": 1e4, "num_steps": 40}


def find(tiny, **kwargs):
    return lr_finder.find_lr(*tiny, train_loader(), **kwargs)


class Watched(NamedTuple):
    """A quiet test, and what happened meanwhile."""

    curve: LRCurve
    variables: tuple[list[bytes], list[bytes]]  # before, after
    progress: list[tuple[int, int]]
    fetched: list[tuple[int, int]]  # steps reported as dispatched until then, losses fetched
    log: str


@pytest.fixture(scope="module")
def watched(tiny):
    def raw():
        return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tiny[1])]

    progress, fetched, log, original = [], [], io.StringIO(), jax.device_get
    handler = logging.StreamHandler(log)
    logging.getLogger("jax").addHandler(handler)
    before = raw()
    shared.shared_step.cache_clear()  # an earlier test may have compiled it
    with pytest.MonkeyPatch.context() as patch, jax.log_compiles():
        patch.setattr(
            lr_finder.jax, "device_get", lambda tree: (fetched.append((len(progress), len(tree))), original(tree))[1]
        )
        curve = find(tiny, **QUIET, on_progress=lambda *at: progress.append(at))
    logging.getLogger("jax").removeHandler(handler)
    return Watched(curve, (before, raw()), progress, fetched, log.getvalue())


@pytest.fixture(scope="module")
def loud(tiny):
    return find(tiny, **LOUD)


def equal(a, b) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def test_the_variables_are_bit_identical_afterwards(watched):
    before, after = watched.variables
    assert before == after


def test_nothing_is_fetched_at_a_step(watched):
    """30 steps in blocks of 10: two fetches, the first of work that another block of steps was dispatched behind."""
    assert watched.fetched == [(19, 10), (29, 20)]
    assert watched.progress == [(step, 30) for step in range(1, 31)]


def test_one_compile(watched):
    """Over several passes through the data."""
    compiled = collections.Counter(re.findall(r"Compiling jit\((\w+)\)", watched.log))
    assert compiled["train_step"] == 1, compiled


def test_same_seed_same_curve_other_seed_other_curve(tiny, watched):
    assert equal(find(tiny, **QUIET, settings=Settings(seed=0)), watched.curve)
    other = find(tiny, **QUIET, settings=Settings(seed=1))
    assert not np.isclose(other.losses[0], watched.curve.losses[0], rtol=1e-3), "another order"


def test_the_curve_is_what_plain_steps_at_these_rates_give(tiny):
    """Step by step, each with an optimizer of one constant rate, without momentum."""
    model, variables = tiny
    loader = train_loader()
    low, high, num_steps, ratios = 1e-3, 0.1, 20, np.array([0.2, 0.5, 1.0])
    settings = Settings(momentum=0.0, seed=3, weights="none")
    found = find(tiny, low=low, high=high, num_steps=num_steps, lrs=tuple(ratios), settings=settings)
    np.testing.assert_allclose(found.lrs, np.geomspace(low, high, num_steps), rtol=1e-12)
    np.testing.assert_allclose(found.group_lrs, found.lrs[:, None] * ratios, rtol=1e-12)

    @jax.jit
    def step(params, batch_stats, inputs, labels, rates):
        def loss_fn(params):
            logits, updated = model.apply(
                {"params": params, "batch_stats": batch_stats}, inputs, train=True, mutable=["batch_stats"]
            )
            picked = jax.nn.log_softmax(logits)[np.arange(8), labels]
            return -picked.mean(), updated["batch_stats"]

        (loss, batch_stats), gradients = jax.value_and_grad(loss_fn, has_aux=True)(params)
        group = dict(zip(MODULES, (0, 0, 0, 1, 1, 2), strict=True))

        def moved(module, value, gradient):
            return jax.tree.map(lambda p, g: p - rates[group[module]] * g, value, gradient)

        body = {name: moved(name, params["body"][name], gradients["body"][name]) for name in params["body"]}
        return {"body": body, "head": moved("head", params["head"], gradients["head"])}, batch_stats, loss

    params, batch_stats = variables["params"], variables["batch_stats"]
    batches = (batch for epoch in range(4) for batch in loader.epoch((4 << 32) + epoch))
    for k, batch in zip(range(num_steps), batches, strict=False):
        mean, std = np.float32(loader.preprocess.mean), np.float32(loader.preprocess.std)
        inputs = (batch.inputs / np.float32(255) - mean) / std
        rates = np.float32(found.lrs[k] * ratios)
        params, batch_stats, loss = step(params, batch_stats, inputs, batch.labels, rates)
        assert found.losses[k] == pytest.approx(float(loss), rel=2e-3), k


@pytest.mark.parametrize("every", [1, 7])
def test_the_curve_does_not_depend_on_the_blocks_it_is_fetched_in(tiny, loud, every, monkeypatch):
    """Not even where it diverges in the middle of one."""
    assert "at step" in loud.reason and len(loud.lrs) < 40
    monkeypatch.setattr(lr_finder, "FETCH_EVERY", every)
    assert equal(find(tiny, **LOUD), loud)


def test_the_reason_and_the_end_are_those_of_the_rule(watched, loud):
    assert stopping_point(loud.losses, loud.smoothed) == (len(loud.lrs), loud.reason)
    assert stopping_point(loud.losses[:-1], loud.smoothed[:-1]) is None
    assert loud.num_steps == 40
    np.testing.assert_array_equal(loud.smoothed, smooth_losses(loud.losses))
    quiet = watched.curve
    assert quiet.reason == "completed" and len(quiet.lrs) == len(quiet.losses) == len(quiet.group_lrs) == 30
    assert quiet.lrs[-1] == 1e-3


def test_a_loss_that_is_not_finite_ends_the_test(tiny, monkeypatch):
    original, count = phases.Program.train_step, iter(range(100))

    def wrapped(self, state, batch, key):
        state, metrics = original(self, state, batch, key)
        return state, {**metrics, "loss": metrics["loss"] if next(count) != 13 else np.float32("nan")}

    monkeypatch.setattr(phases.Program, "train_step", wrapped)
    found = find(tiny, **QUIET)
    assert found.reason == "the loss is nan at step 13" and len(found.lrs) == len(found.losses) == 13
    assert np.isfinite(found.smoothed).all()


def test_the_reported_rates_are_those_of_the_optimizer(tiny, monkeypatch):
    """`group_lrs` against what the steps themselves report, at every step; a frozen group keeps its share."""
    reported = []
    original = phases.Program.train_step

    def wrapped(self, state, batch, key):
        state, metrics = original(self, state, batch, key)
        reported.append(metrics["lrs"])
        return state, metrics

    monkeypatch.setattr(phases.Program, "train_step", wrapped)
    found = find(tiny, lrs=(0.0004, 0.004, 0.04), frozen=MODULES[:3], **QUIET)
    np.testing.assert_allclose(np.array(jax.device_get(reported)), found.group_lrs, rtol=1e-5)
    np.testing.assert_allclose(found.group_lrs[:, :2], found.lrs[:, None] * [0.01, 0.1], rtol=1e-12)
    np.testing.assert_array_equal(found.group_lrs[:, 2], found.lrs)


def test_the_data_come_as_often_as_needed_in_an_order_of_their_own():
    loader = train_loader(count=22)  # three batches an epoch
    seen = [batch.index for batch in lr_finder._recycled(loader, 0, 7)]
    assert len(seen) == 7
    for i in (0, 3):
        real = np.concatenate(seen[i : i + 3])
        assert sorted(real[real >= 0]) == list(range(22)), "each picture once in an epoch"
    for epoch in range(3):
        assert not np.array_equal(loader.order(epoch), np.concatenate(seen[:3])), "not the order of a run's epoch"
    other = [batch.index for batch in lr_finder._recycled(loader, 1, 3)]
    assert not np.array_equal(np.concatenate(other), np.concatenate(seen[:3]))


@pytest.mark.parametrize(
    ("kwargs", "mentions"),
    [
        ({"num_steps": 19}, "num_steps=19"),
        ({"low": 1.0, "high": 0.5}, "low=1.0 and high=0.5"),
        ({"beta": 1.0}, "beta=1.0"),
        ({"lrs": ()}, "lrs=()"),
        ({"lrs": (1.0, 1.0, 0.0)}, "the last positive"),
        ({"lrs": (-1.0, 1.0)}, "none negative"),
        ({"lrs": (1.0,) * 4}, "1, 2, 3 or 6 rates"),
        ({"frozen": MODULES}, "nothing is left to train"),
        ({"frozen": ("stage2",)}, "prefix"),
    ],
)
def test_arguments_out_of_range_are_errors(tiny, kwargs, mentions):
    with pytest.raises(ValueError, match=re.escape(mentions)):
        find(tiny, **kwargs)
