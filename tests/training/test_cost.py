"""What a step costs, told from shapes: against published figures, XLA's own counts and what the compiler takes."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import ShapeDtypeStruct

from jaxclf import schedules
from jaxclf.config import MODULES, Preprocess
from jaxclf.data.batches import Batch
from jaxclf.models import ResNetConfig, create_classifier
from jaxclf.training import cost
from jaxclf.training.flops import count_flops
from jaxclf.training.optimizer import make_optimizer
from jaxclf.training.state import create_train_state
from jaxclf.training.step import make_train_step

SIZE, BATCH = 64, 8
KEY = jax.eval_shape(lambda: jax.random.key(0))
CONFIG = ResNetConfig("tiny", "basic", (1, 1, 1, 1), stem_width=8, stage_widths=(8, 8, 16, 16))
MODEL = create_classifier(CONFIG, 3)


@functools.cache
def costs():
    return cost.freezing_costs(MODEL, image_size=SIZE, batch_size=BATCH)


def trace_train_step(frozen, start=None, image_size=SIZE):
    """The real step, traced from shapes."""
    variables = cost.abstract_variables(MODEL)
    optimizer = make_optimizer(variables["params"], schedules.constant(), (0.1,), frozen=frozen)
    preprocess = Preprocess(image_size=image_size)
    step = make_train_step(MODEL, optimizer, preprocess=preprocess, frozen=frozen, start=start)
    state = jax.eval_shape(lambda v: create_train_state(v, optimizer, frozen=frozen), variables)
    inputs = ShapeDtypeStruct((BATCH, image_size, image_size, 3), jnp.uint8)
    if start is not None:
        pictures = ShapeDtypeStruct(inputs.shape, jnp.float32)
        inputs = jax.eval_shape(lambda v, x: MODEL.apply(v, x, stop=start), variables, pictures)
    rows = [ShapeDtypeStruct((BATCH,), dtype) for dtype in (jnp.int32, jnp.float32, jnp.int32)]
    traced = step.trace(state, Batch(inputs, *rows), KEY)
    return traced


@pytest.mark.parametrize(("arch", "gmacs", "millions"), [("resnet18", 1.82, 11.69), ("resnet50", 4.09, 25.56)])
def test_published_figures(arch, gmacs, millions):
    """Multiply-adds of a prediction at 224 pixels, and parameters, with ImageNet's thousand classes."""
    model = create_classifier(arch, 1000)
    assert cost.forward_flops(model, image_size=224) == pytest.approx(2e9 * gmacs, rel=0.01)
    parameters = jax.tree.leaves(cost.abstract_variables(model)["params"])
    assert sum(leaf.size for leaf in parameters) == pytest.approx(1e6 * millions, rel=1e-3)


@pytest.mark.parametrize(("number", "start"), [(0, None), (3, "stage2"), (5, None), (5, "pooled")])
def test_flops_are_the_real_steps_and_near_what_xla_counts(number, start):
    """XLA leaves out what meets padding and adds what is elementwise, which is much in so narrow a network."""
    frozen = MODULES[:number]
    traced = trace_train_step(frozen, start)
    flops = cost.step_flops(MODEL, image_size=SIZE, batch_size=BATCH, frozen=frozen, start=start)
    assert flops == count_flops(traced.jaxpr)
    if start is None:  # near the end there is much elementwise work
        assert flops == pytest.approx(traced.lower().cost_analysis()["flops"], rel=0.1)


def test_freezing_saves_what_it_is_known_to_save():
    """Of a resnet18's full step .96, .79, .64, .48, .34; three of them here."""
    model = create_classifier("resnet18", 2)
    flops = [cost.step_flops(model, image_size=224, batch_size=2, frozen=MODULES[:number]) for number in (0, 3, 5)]
    np.testing.assert_allclose(np.array(flops[1:]) / flops[0], [0.638, 0.341], atol=2e-3)


def test_every_freezing_costs_less_than_the_one_before():
    rows = costs()
    assert [row.frozen for row in rows] == [*cost.FREEZINGS, cost.FREEZINGS[-1]]
    assert [row.start for row in rows] == [None] * 6 + ["pooled"]
    for before, after in itertools.pairwise(rows[:6]):
        for name in ("num_trainable", "optimizer_bytes", "gradient_bytes", "activation_bound", "flops"):
            assert getattr(after, name) < getattr(before, name), name
        assert after.activation_bytes <= before.activation_bytes
    assert all(row.activation_bytes <= row.activation_bound for row in rows)
    assert rows[-1].flops < rows[-2].flops / 100 and rows[-1].activation_bytes < rows[-2].activation_bytes / 100


def test_parameters_optimizer_and_gradient_by_hand():
    row = costs()[0]
    variables = cost.abstract_variables(MODEL)
    count = {name: sum(leaf.size for leaf in jax.tree.leaves(variables[name])) for name in variables}
    assert row.num_parameters == row.num_trainable == count["params"]
    assert row.parameter_bytes == 4 * (count["params"] + count["batch_stats"])
    assert row.gradient_bytes == 4 * count["params"] and row.fixed_bytes == pytest.approx(12 * count["params"], rel=0.1)
    assert row.optimizer_bytes == pytest.approx(4 * count["params"], abs=100)  # one momentum, and counters
    adam = cost.step_cost(MODEL, image_size=SIZE, batch_size=BATCH, frozen=MODULES[:5], optimizer="adamw")
    head = 16 * 3 + 3
    assert adam.num_trainable == head and adam.optimizer_bytes == pytest.approx(2 * 4 * head, abs=100)


def test_activations_by_hand():
    """Of the head on cached activations: what the dense layer reads and gives, kept and at work."""
    row = costs()[-1]
    assert row.activation_bytes == 2 * 4 * BATCH * (16 + 3)
    full = costs()[0]
    stem = 4 * BATCH * (64**2 * 3 + 32**2 * 8)  # the largest convolution; the next two modules read and give 6 maps
    assert 2 * stem + 4 * BATCH * 6 * 8**2 * 8 < full.activation_bytes < 3 * stem
    # Half the bytes in half the precision, but for the head.
    half = cost.step_cost(create_classifier(CONFIG, 3, dtype=jnp.bfloat16), image_size=SIZE, batch_size=BATCH)
    assert half.activation_bytes == pytest.approx(full.activation_bytes / 2, rel=0.01)
    twice = cost.step_cost(MODEL, image_size=SIZE, batch_size=2 * BATCH)
    assert twice.activation_bytes == 2 * full.activation_bytes and twice.fixed_bytes == full.fixed_bytes


def test_parameters_are_no_activations():
    """The concat head has a large kernel, which its backward pass reads; one example has few activations."""
    model = create_classifier("resnet10t", 3, head="concat")
    row = cost.step_cost(model, image_size=32, batch_size=1, frozen=MODULES[:5], start="pooled")
    assert row.activation_bytes <= row.activation_bound < row.gradient_bytes / 10


@pytest.mark.parametrize(
    ("number", "start", "image_size"),
    [(4, "stage3", 256), pytest.param(0, None, SIZE, marks=pytest.mark.slow)],
)
def test_the_compiler_takes_about_as_much_memory(number, start, image_size):
    """On a CPU: between the two figures, or a little above or below. Only one stage by default: compiling is slow."""
    frozen = MODULES[:number]
    measured = trace_train_step(frozen, start, image_size).lower().compile().memory_analysis().temp_size_in_bytes
    row = cost.step_cost(MODEL, image_size=image_size, batch_size=BATCH, frozen=frozen, start=start)
    assert 0.6 * row.activation_bytes < measured - row.gradient_bytes < 1.2 * row.activation_bound


def test_wrong_arguments_are_named():
    for options, named in (
        ({"batch_size": 0}, "batch_size=0"),
        ({"image_size": 4}, "image_size=4"),
        ({"frozen": MODULES}, "nothing is left to train"),
        ({"frozen": ("head",)}, "nothing is left to train"),
        ({"frozen": ("stage1",)}, "not a prefix"),
        ({"start": "pooled", "frozen": MODULES[:4]}, "start='pooled'"),
        ({"optimizer": "adam"}, "optimizer='adam'"),
    ):
        with pytest.raises(ValueError, match=named):
            cost.step_cost(MODEL, **({"image_size": SIZE, "batch_size": BATCH} | options))
