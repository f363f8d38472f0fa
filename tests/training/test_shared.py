"""One compiled step for all that differ in rates, schedules, seeds and numbers of photos: finder, phases and runs."""

import collections
import dataclasses
import logging
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from coloured import coloured

from jaxclf import schedules
from jaxclf.augment import make_augment
from jaxclf.config import MODULES, Phase, Preprocess, Settings
from jaxclf.data.loader import Loader
from jaxclf.models import create_classifier, init_variables
from jaxclf.models.trees import leaf_paths
from jaxclf.training import fit as loop
from jaxclf.training import lr_finder, shared
from jaxclf.training.losses import balanced_class_weights, make_loss
from jaxclf.training.optimizer import make_transformation
from jaxclf.training.program import make_program
from jaxclf.training.state import create_train_state
from jaxclf.training.step import make_train_step

BODY = MODULES[:5]
FROZEN = Phase("head", lrs=(0.01, 0.1, 1.0), frozen=BODY, augment="none")
#: Of a run with everything that could end up as a constant; the second differs in all that may not.
FIRST = Settings(class_weights="balanced", weight_decay=1e-4, clip_norm=1.0, ema_decay=0.9, bn_frozen=False)
SECOND = dataclasses.replace(FIRST, seed=5, momentum=0.8)


def train_loader(count):
    return Loader(coloured(count), batch_size=8, image_size=32, train=True, presized=False)


def run(tiny, count, settings, high, **cycles):
    """A finder and two phases that freeze the same, and one more of another schedule."""
    train = train_loader(count)
    lr_finder.find_lr(
        *tiny, train, lrs=FROZEN.lrs, frozen=BODY, high=high, num_steps=20, settings=settings, augment="none"
    )
    for number, schedule in enumerate(("sgdr", "one_cycle")):
        lrs = tuple(high / 10 * lr for lr in FROZEN.lrs)
        phase = dataclasses.replace(FROZEN, lrs=lrs, schedule=schedule, **(cycles if schedule == "sgdr" else {}))
        loop.fit(*tiny, phase, train, settings=settings, phase_number=number)


def test_one_compile_over_finder_phases_and_runs(tiny, caplog):
    shared.shared_step.cache_clear()
    with jax.log_compiles(), caplog.at_level(logging.WARNING):
        run(tiny, 24, FIRST, 0.1)
        run(tiny, 35, SECOND, 0.3, num_cycles=2, cycle_mult=2, warmup_steps=1)
    compiled = collections.Counter(re.findall(r"Compiling jit\((\w+)\)", caplog.text))
    assert compiled["train_step"] == 1, compiled


def lowered(model, phase, count, settings):
    """The step's text, of a program that shares nothing with one before."""
    shared.shared_step.cache_clear()
    program = make_program(model, phase, train_loader(count), settings)
    variables = jax.eval_shape(lambda: init_variables(model, jax.random.key(0), image_size=32))
    state = jax.eval_shape(program.init, variables)
    batch = next(iter(train_loader(count).epoch(0)))
    return program.shared_step.lower(state, batch, program.key, program.hyperparameters(0)).as_text()


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_the_lowered_step_knows_no_rate_schedule_seed_or_number_of_photos(tiny, optimizer):
    """So a compilation cache on disk finds it. What is a constant of the run is in it."""
    settings = dataclasses.replace(FIRST, optimizer=optimizer)
    text = lowered(tiny[0], FROZEN, 24, settings)
    phase = dataclasses.replace(FROZEN, lrs=(1e-4, 2e-3, 3e-2), schedule="one_cycle", cycle_epochs=3)
    assert lowered(tiny[0], phase, 35, dataclasses.replace(settings, seed=5, momentum=0.8)) == text
    assert lowered(tiny[0], FROZEN, 24, dataclasses.replace(settings, weight_decay=2e-4)) != text


def test_a_resnet50_is_traced_once(monkeypatch):
    """By a finder's program, a phase's, and those of another run. Nothing is compiled."""
    traces, original = [], shared.named_loss

    def counted(settings):
        loss = original(settings)
        return lambda *args, **kwargs: (traces.append(1), loss(*args, **kwargs))[1]

    monkeypatch.setattr(shared, "named_loss", counted)
    shared.shared_step.cache_clear()
    model = create_classifier("resnet50", 3)
    variables = jax.eval_shape(lambda: init_variables(model, jax.random.key(0), image_size=32))
    steps = set()
    for count, lr, schedule, seed in ((4, 1.0, schedules.exponential(20, initial=1e-6), 0), (9, 0.1, None, 3)):
        train = Loader(coloured(count), batch_size=2, image_size=32, train=True, presized=False)
        phase = Phase("all", lrs=(lr, lr, lr), augment="none", num_cycles=count)
        program = make_program(model, phase, train, Settings(seed=seed), schedule=schedule)
        state = jax.eval_shape(program.init, variables)
        jax.eval_shape(program.shared_step, state, next(iter(train.epoch(0))), program.key, program.hyperparameters(0))
        steps.add(program.shared_step)
    assert len(steps) == len(traces) == 1
    shared.shared_step.cache_clear()


@pytest.mark.parametrize("name", ["plain", "one_cycle", "adamw", "no momentum"])
def test_a_shared_step_is_the_step_of_an_optimizer_with_these_rates(tiny, name):
    """Over a whole phase: parameters, statistics, loss, the rates told, and class weights."""
    settings = dataclasses.replace(FIRST, ema_decay=None, momentum=0.0 if name == "no momentum" else 0.9)
    settings = dataclasses.replace(settings, optimizer="adamw" if name == "adamw" else "sgd")
    schedule = "one_cycle" if name == "one_cycle" else "sgdr"
    phase = dataclasses.replace(FROZEN, frozen=MODULES[:4], lrs=(0.0, 0.01, 0.1), schedule=schedule)
    train = train_loader(35)
    program = make_program(tiny[0], phase, train, settings)
    plain = make_transformation(
        program.schedule,
        phase.lrs,
        optimizer=settings.optimizer,
        momentum=program.momentum,
        weight_decay=1e-4,
        clip_norm=1.0,
    )
    weights = balanced_class_weights(train.dataset.labels, 3)
    step = make_train_step(
        tiny[0],
        plain,
        preprocess=train.preprocess,
        schedule=program.schedule,
        lrs=phase.lrs,
        frozen=phase.frozen,
        loss=make_loss(class_weights=weights),
    )
    ours = program.init(tiny[1])
    theirs = create_train_state(tiny[1], plain, frozen=phase.frozen)
    if name != "one_cycle":  # whose momentum optax keeps in the state
        assert jax.tree.structure(ours.opt_state) == jax.tree.structure(theirs.opt_state), "old checkpoints fit"
    for batch in train.epoch(0):
        ours, found = program.train_step(ours, batch, program.key)
        theirs, expected = step(theirs, batch, program.key)
        for figure in ("loss", "correct", "weight", "lrs"):
            np.testing.assert_allclose(found[figure], expected[figure], rtol=1e-5)
    for tree in ("params", "batch_stats"):
        pairs = zip(leaf_paths(getattr(ours, tree)), leaf_paths(getattr(theirs, tree)), strict=True)
        for (path, a), (_, b) in pairs:
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6, err_msg=path)


def test_what_shapes_a_step_is_in_its_kind_and_nothing_else(tiny):
    """Every setting once; a new one is in the kind unless somebody says that no step knows it."""
    train = train_loader(24)
    kind = shared.step_kind(tiny[0], FROZEN, train, Settings(), momentum=True)
    changes = {
        "loss": "focal", "optimizer": "adamw", "clip_norm": 1.0, "ema_decay": 0.9, "class_weights": "balanced",
        "arch": "resnet18", "weights": "none", "head": "concat", "precision": "float32", "sampling": "balanced",
        "lr_rule": "steep", "resize": "pad", "on_bad_image": "skip", "on_bad_valid_image": "skip", "cache": "none",
        "batch_size": 16, "bn_frozen": True,
    }  # fmt: skip
    for field in dataclasses.fields(Settings):
        value = getattr(Settings(), field.name)
        default = not value if isinstance(value, bool) else value + 1 if isinstance(value, int) else 0.25
        changed = dataclasses.replace(Settings(), **{field.name: changes.get(field.name, default)})
        other = shared.step_kind(tiny[0], FROZEN, train, changed, momentum=True)
        assert (other == kind) == (field.name in (*shared.OUTSIDE, "momentum")), field.name
    own = optax.identity()
    for change in ({"momentum": False}, {"momentum": True, "gradients": own}):
        assert shared.step_kind(tiny[0], FROZEN, train, Settings(), **change) != kind
    twice = [shared.step_kind(tiny[0], FROZEN, train, Settings(), momentum=True, gradients=own) for _ in range(2)]
    assert shared.shared_step(twice[0]) is shared.shared_step(twice[1])


def test_a_step_s_views_show_as_much_as_evaluation():
    pictures, key = next(iter(train_loader(8).epoch(0))).inputs, jax.random.key(2)
    few, all_of_it = (Preprocess(24, crop_fraction=share) for share in (0.7, 1.0))
    views = [np.asarray(shared._augment("side_on", preprocess)(key, pictures)) for preprocess in (few, all_of_it)]
    np.testing.assert_array_equal(views[0], make_augment("side_on", 24, shown=0.7)(key, pictures))
    assert (views[0] != views[1]).any()


def test_the_rates_are_the_schedule_s(tiny):
    program = make_program(tiny[0], dataclasses.replace(FROZEN, num_cycles=2), train_loader(24))
    several = program.hyperparameters(np.arange(6))
    np.testing.assert_allclose(
        several.lrs, np.asarray(program.schedule(jnp.arange(6)))[:, None] * np.float32(FROZEN.lrs), rtol=1e-6
    )
    np.testing.assert_array_equal(program.hyperparameters(3).lrs, several.lrs[3])
    assert several.momentum.tolist() == [np.float32(0.9)] * 6 and several.class_weights is None
