"""Everything that runs on an accelerator, lowered for cuda and tpu without one: traced abstractly, nothing compiled."""

import functools
import itertools
import re
from collections import Counter

import jax
import jax.numpy as jnp
import pytest
from jax import ShapeDtypeStruct, export

from jaxclf import schedules
from jaxclf.augment import make_augment
from jaxclf.config import MODULES, Preprocess, Settings
from jaxclf.data.batches import Batch
from jaxclf.data.decode import presize
from jaxclf.inference.predict import make_predict_step
from jaxclf.models import ResNetConfig, create_classifier, init_variables
from jaxclf.models.heads import HEADS
from jaxclf.training.optimizer import make_optimizer
from jaxclf.training.scan import Plan, Resident, make_scanned_steps
from jaxclf.training.state import create_train_state
from jaxclf.training.step import make_train_step

PLATFORMS = ("cuda", "tpu")
DTYPES = ("float32", "bfloat16")
FREEZINGS = tuple(MODULES[:number] for number in range(6))
#: Between them every part that networks are made of. At 32 pixels some convolutions are products over patches.
NETWORKS = {
    "basic": ResNetConfig("basic", "basic", (1, 1, 1, 1), stem_width=8, stage_widths=(8, 8, 16, 16)),
    "bottleneck": ResNetConfig(
        "bottleneck",
        "bottleneck",
        (1, 1, 1, 1),
        stem="deep",
        stem_width=8,
        stage_widths=(8, 8, 16, 16),
        groups=2,
        downsample="avg",
        squeeze_excitation=True,
    ),
}
#: Convolutions (as such or as products) of each module of the body: shortcuts and the gates' pairs are in it.
CONVOLUTIONS = {"basic": (1, 2, 3, 3, 3), "bottleneck": (3, 6, 6, 6, 6)}
SIZE, BATCH = 32, 8
PREPROCESS = Preprocess(image_size=SIZE)
KEY = jax.eval_shape(lambda: jax.random.key(0))
#: Six of the 48 combinations of train steps with freezings 0 .. 5: every two choices meet.
COVERING = (
    ("cuda", "float32", "linear", "basic"),
    ("tpu", "bfloat16", "concat", "basic"),
    ("cuda", "bfloat16", "linear", "bottleneck"),
    ("tpu", "float32", "concat", "bottleneck"),
    ("tpu", "float32", "linear", "basic"),
    ("cuda", "bfloat16", "concat", "bottleneck"),
)
ALL = tuple(itertools.product(PLATFORMS, DTYPES, HEADS, NETWORKS))


@functools.cache
def network(dtype, head, block):
    model = create_classifier(NETWORKS[block], 3, head=head, dtype=jnp.dtype(dtype))
    return model, jax.eval_shape(lambda: init_variables(model, jax.random.key(0), image_size=SIZE))


def abstract_batch(shape, dtype):
    rows = functools.partial(ShapeDtypeStruct, (BATCH,))
    return Batch(ShapeDtypeStruct((BATCH, *shape), dtype), rows(jnp.int32), rows(jnp.float32), rows(jnp.int32))


def train_step(dtype, head, block, frozen, start=None):
    """The whole step of a phase, augmentation and clipping included, and its abstract state."""
    model, variables = network(dtype, head, block)
    schedule, lrs = schedules.sgdr(10, 2), (1e-4, 1e-3, 1e-2)
    optimizer = make_optimizer(variables["params"], schedule, lrs, frozen=frozen, weight_decay=1e-4, clip_norm=1.0)
    augment = make_augment("side_on", SIZE) if start is None else None
    options = {
        "schedule": schedule,
        "lrs": lrs,
        "frozen": frozen,
        "augment": augment,
        "settings": Settings(ema_decay=0.99),
    }
    step = make_train_step(model, optimizer, preprocess=PREPROCESS, start=start, **options)
    return step, jax.eval_shape(lambda v: create_train_state(v, optimizer, frozen=frozen, ema=True), variables)


def layer_products(text):
    """The type of every convolution, and of every product over patches of a map, in a module's text.

    Products of less than four axes are the head's, which is float32 on purpose, and the augmentation's.
    """
    lines = re.findall(r"stablehlo\.(convolution|dot_general)\b.*?: \((tensor<\S+>), (tensor<\S+>)\) -> ", text)
    sides = [re.findall(r"tensor<([0-9x]+)x(\w+)>", left + right) for _, left, right in lines]
    assert all(len(pair) == 2 for pair in sides)
    return Counter(kind for (_, kind), *_ in (s for s in sides if max(shape.count("x") for shape, _ in s) == 3))


def check_program(exported, platform):
    """Made for this platform, with nothing in it that only a CPU, or only this process, could run."""
    text = exported.mlir_module()
    assert exported.platforms == (platform,)
    called = set(re.findall(r"custom_call @(\w+)", text))
    assert not {name for name in called if re.search("cpu|callback|lapack|eigen|onednn", name, re.IGNORECASE)}
    return text


def check_train_step(platform, dtype, head, block, frozen):
    step, state = train_step(dtype, head, block, frozen)
    batch = abstract_batch((presize(SIZE), presize(SIZE), 3), jnp.uint8)
    exported = export.export(step, platforms=(platform,))(state, batch, KEY)
    text = check_program(exported, platform)
    # XLA has no GPU kernel for the first that sums in a fixed order, and a scatter's order is fixed by sorting only.
    assert "select_and_scatter" not in text and "stablehlo.scatter" not in text, "--deterministic"
    products = layer_products(text)
    assert set(products) == {"f32" if dtype == "float32" else "bf16"}
    # What leaves the step is what entered it: it can be donated and fed back.
    new_state, metrics = jax.tree.unflatten(exported.out_tree, exported.out_avals)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), new_state) == jax.tree.map(lambda x: (x.shape, x.dtype), state)
    assert metrics["loss"].shape == () and metrics["loss"].dtype == jnp.float32
    assert len(re.findall(r"tf\.aliasing_output|jax\.buffer_donor", text)) >= len(jax.tree.leaves(state)), "donated"
    # A forward pass and two gradients of what is trained; but none for the input of what is trained.
    counts = CONVOLUTIONS[block]
    first = 0 if len(frozen) == 5 else 1 if not frozen or (block == "basic" and len(frozen) == 1) else 2
    assert products.total() == sum(counts) + 2 * sum(counts[len(frozen) :]) - first


@pytest.mark.parametrize("number", range(6))
def test_train_steps_lower(number):
    check_train_step(*COVERING[number], FREEZINGS[number])


@pytest.mark.slow
@pytest.mark.parametrize("number", range(6))
@pytest.mark.parametrize(("platform", "dtype", "head", "block"), ALL)
def test_every_train_step_lowers(platform, dtype, head, block, number):
    check_train_step(platform, dtype, head, block, FREEZINGS[number])


@pytest.mark.parametrize(("platform", "dtype", "head", "block"), [COVERING[number] for number in (0, 1, 2, 3)])
def test_predict_steps_lower(platform, dtype, head, block):
    model, variables = network(dtype, head, block)
    images = ShapeDtypeStruct((BATCH, SIZE, SIZE, 3), jnp.uint8)
    exported = export.export(make_predict_step(model, preprocess=PREPROCESS), platforms=(platform,))(variables, images)
    products = layer_products(check_program(exported, platform))
    assert set(products) == {"f32" if dtype == "float32" else "bf16"}
    (logits,) = exported.out_avals
    assert logits.shape == (BATCH, 3) and logits.dtype == jnp.float32


@pytest.mark.parametrize(
    ("platform", "head", "dtype"),
    [
        ("cuda", "linear", "float32"),
        ("tpu", "concat", "float32"),
        ("cuda", "concat", "bfloat16"),
        ("tpu", "linear", "bfloat16"),
    ],
)
def test_the_epoch_of_a_head_on_activations_lowers(platform, head, dtype):
    """One dispatch: a loop in the program, no convolution in it, and the body only handed through."""
    frozen, steps, examples = FREEZINGS[5], 4, 30
    step, state = train_step(dtype, head, "basic", frozen, start="pooled")
    rows = functools.partial(ShapeDtypeStruct, (examples,), jnp.int32)
    width = NETWORKS["basic"].cut_width("pooled")
    data = Resident(ShapeDtypeStruct((examples, width), jnp.float32), rows(), rows())
    numbers = ShapeDtypeStruct((steps, BATCH), jnp.int32)
    epoch = make_scanned_steps(step, frozen)
    exported = export.export(epoch, platforms=(platform,))(state, data, Plan(numbers, numbers), KEY)
    text = check_program(exported, platform)
    assert text.count("stablehlo.while") >= 1 and layer_products(text).total() == 0
    new_state, metrics = jax.tree.unflatten(exported.out_tree, exported.out_avals)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), new_state) == jax.tree.map(lambda x: (x.shape, x.dtype), state)
    assert metrics["loss"].shape == (steps,) and metrics["lrs"].shape == (steps, 3)
