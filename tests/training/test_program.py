"""From a phase and settings to schedule, momentum, loss and mixing: nothing here is compiled for a network."""

import types

import jax
import numpy as np
import pytest
from networks import BASIC

from jaxclf.augment import cutmix, mixup
from jaxclf.config import Phase, Settings
from jaxclf.data.loader import Loader
from jaxclf.data.sources import ArrayDataset
from jaxclf.models import create_classifier, init_variables
from jaxclf.training import program as phases
from jaxclf.training.losses import focal_loss, make_loss
from jaxclf.training.shared import make_mix

STEPS = np.arange(40)


def data(labels):
    """What stands for a loader: a data source and its classes."""
    labels = np.asarray(labels)
    source = ArrayDataset(np.zeros((len(labels), 8, 8, 3), np.uint8), labels)
    return types.SimpleNamespace(dataset=source, classes=source.classes)


ONE, SEVERAL = data([0, 0, 0, 0, 0, 1, 1, 2]), data([[1, 1, 0], [0, 0, 0], [0, 1, 1]])


def test_epochs_become_steps():
    """Five steps an epoch: cycles of 10 and 20 steps."""
    phase = Phase("a", lrs=(1.0,), num_cycles=2, cycle_epochs=2, cycle_mult=2)
    schedule, num_steps = phases.phase_schedule(phase, 5)
    values = np.asarray(schedule(STEPS))
    assert num_steps == 30
    np.testing.assert_array_equal(np.flatnonzero(values == 1.0), [0, 10])
    assert (values[30:] == 0.0).all() and (values[:30] > 0.0).all()


@pytest.mark.parametrize(("warmup", "low"), [(3, 3), (99, 9)])
def test_warmup_is_cut_to_the_first_cycle(warmup, low):
    schedule, _ = phases.phase_schedule(Phase("a", lrs=(1.0,), num_cycles=2, warmup_steps=warmup), 10)
    values = np.asarray(schedule(STEPS))
    np.testing.assert_array_equal(values[:low], np.float32(0.01))
    assert values[low] > 0.01 and values[10] == 1.0


def test_one_cycle_moves_momentum_against_the_rate():
    phase = Phase("a", lrs=(1.0,), cycle_epochs=4, schedule="one_cycle", pct_start=0.3, div=5.0)
    schedule, num_steps = phases.phase_schedule(phase, 10)
    momentum = phases.phase_momentum(phase, num_steps, 0.5)
    rates, values = np.asarray(schedule(STEPS)), np.asarray(momentum(STEPS))
    assert num_steps == 40 and rates.argmax() == values.argmin() == 12
    assert rates[0] == np.float32(0.2) and values[0] == np.float32(0.95) and values[12] == np.float32(0.85)
    assert (np.diff(rates[:13]) > 0).all() and (np.diff(values[:13]) < 0).all()
    assert (np.diff(rates[12:]) < 0).all() and (np.diff(values[12:]) > 0).all()
    assert phases.phase_momentum(Phase("a", lrs=(1.0,)), 40, 0.5) == 0.5


def test_one_cycle_of_a_single_step_is_a_plain_step():
    phase = Phase("a", lrs=(1.0,), schedule="one_cycle")
    schedule, num_steps = phases.phase_schedule(phase, 1)
    assert num_steps == 1 and schedule(0) == 1.0 and phases.phase_momentum(phase, 1, 0.9) == 0.9


def test_keys_differ_by_seed_and_by_phase():
    keys = {tuple(jax.random.key_data(phases.phase_key(*pair)).tolist()) for pair in ((0, 0), (0, 1), (1, 0), (1, 1))}
    assert len(keys) == 4


def test_a_loss_that_does_not_fit_the_labels_names_the_flag():
    for settings, loader in ((Settings(), ONE), (Settings(loss="focal"), ONE), (Settings(loss="sigmoid"), SEVERAL)):
        settings.check_labels(loader.dataset.multi_label)
    for loss in ("softmax", "focal"):
        with pytest.raises(ValueError, match=f"several labels, which loss='{loss}' cannot use; set --loss sigmoid"):
            phases.make_settings_loss(Settings(loss=loss), SEVERAL)
    for loss in ("sigmoid", "sigmoid_focal"):
        with pytest.raises(ValueError, match=f"loss='{loss}' is for several labels .* set --loss softmax"):
            phases.make_settings_loss(Settings(loss=loss), ONE)
    with pytest.raises(ValueError, match="class_weights='balanced' needs one label"):
        phases.make_settings_loss(Settings(loss="sigmoid", class_weights="balanced"), SEVERAL)


LOGITS = np.random.default_rng(0).normal(0, 2, (3, 3)).astype(np.float32)
TARGETS = np.eye(3, dtype=np.float32)


@pytest.mark.parametrize(
    ("settings", "plain"),
    [
        (Settings(), make_loss("softmax")),
        (Settings(label_smoothing=0.2), make_loss("softmax", label_smoothing=0.2)),
        (Settings(loss="focal", focal_gamma=3.0), lambda z, t: (focal_loss(z, t, gamma=3.0), np.ones(3))),
        (
            Settings(class_weights="balanced"),  # eight examples, 5, 2 and 1 of the three classes
            make_loss("softmax", class_weights=8 / (3 * np.array([5, 2, 1]))),
        ),
    ],
    ids=["softmax", "smoothed", "focal", "balanced"],
)
def test_the_loss_is_what_the_settings_say(settings, plain):
    found, expected = phases.make_settings_loss(settings, ONE)(LOGITS, TARGETS), plain(LOGITS, TARGETS)
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-6)
    np.testing.assert_allclose(found[1], expected[1], rtol=1e-6)


def test_mixing_is_what_the_settings_say():
    assert make_mix(Settings()) is None
    for settings, function, alpha in ((Settings(mixup=0.4), mixup, 0.4), (Settings(cutmix=1.0), cutmix, 1.0)):
        mix = make_mix(settings)
        assert mix.func is function and mix.keywords == {"alpha": alpha}


@pytest.mark.parametrize(
    ("settings", "still"),
    [(None, False), (Settings(), False), (Settings(bn_frozen=True), True), (Settings().for_photos(500), True)],
    ids=["none", "open", "said", "few photos"],
)
def test_batch_norm_keeps_still_where_the_settings_say_so(settings, still):
    """Nobody knows here whether the body is pretrained, so a choice left open is none."""
    model, train = create_classifier(BASIC, 3), Loader(ONE.dataset, batch_size=4, image_size=8, train=True)
    variables = init_variables(model, jax.random.key(0), image_size=8)
    made = phases.make_program(model, Phase("a", lrs=(0.0,)), train, settings)
    *_, (state, _) = made.epoch(made.init(variables), train, 0)  # the last: those before it are donated
    same = jax.tree.map(np.array_equal, state.batch_stats, variables["batch_stats"])
    assert all(jax.tree.leaves(same)) is still
