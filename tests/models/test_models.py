"""The classifier on tiny networks: its tree, cuts, freezing, dtypes, masks and errors. Parity is in test_parity."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import BASIC, RICH

from jaxclf.config import CUTS, MODULES
from jaxclf.models import (
    Classifier,
    ConcatHead,
    LinearHead,
    ResNetConfig,
    Variables,
    create_classifier,
    get_config,
    init_variables,
    list_archs,
)
from jaxclf.models.pool import average_pool_2x2

CONFIGS = {"basic": BASIC, "rich": RICH}
IMAGES = np.random.default_rng(0).standard_normal((3, 36, 44, 3)).astype(np.float32)  # odd sizes from stage2 on


def make_model(config: str = "basic", head: Any = "linear", **options: Any) -> tuple[Classifier, Variables]:
    """A model and variables in which every BatchNorm differs from its initial, neutral state."""
    model = create_classifier(CONFIGS[config], 5, head=head, **options)
    variables = init_variables(model, jax.random.key(0), image_size=32)
    rng = np.random.default_rng(1)

    def disturb(path: Any, leaf: jax.Array) -> jax.Array:
        name = path[-1].key
        if name == "kernel":
            return leaf
        noise = rng.uniform(0.5, 1.5, leaf.shape) if name in ("scale", "var") else 0.2 * rng.normal(size=leaf.shape)
        return jnp.asarray(noise.astype(np.float32))

    return model, jax.tree.map_with_path(disturb, variables)


def flatten(tree: Any) -> dict[str, np.ndarray]:
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in jax.tree.leaves_with_path(tree)}


def train(model: Classifier, variables: Variables, x: Any, **options: Any) -> tuple[np.ndarray, Any]:
    rngs = {"dropout": jax.random.key(7)}
    logits, updates = model.apply(variables, x, train=True, mutable=["batch_stats"], rngs=rngs, **options)
    return np.asarray(logits), updates["batch_stats"]


# Registry and tree


def test_all_architectures_are_listed_once() -> None:
    torchvision = ["resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "resnext50_32x4d"]
    torchvision += ["resnext101_32x8d", "resnext101_64x4d", "wide_resnet50_2", "wide_resnet101_2"]
    timm = ["resnet10t", "resnet14t", "resnet18d", "resnet26d", "resnet26t", "resnet34d", "resnet50d", "resnet101d"]
    assert list_archs() == (*torchvision, *timm, "seresnet50")
    assert all(get_config(arch).arch == arch for arch in list_archs())
    assert get_config(BASIC) is BASIC


def test_an_unknown_architecture_lists_near_and_all_names() -> None:
    with pytest.raises(ValueError, match=r"'resnext50'.*Did you mean .*resnext50_32x4d.*Known: resnet18, .*seresnet50"):
        create_classifier("resnext50", 2)
    with pytest.raises(ValueError, match=r"'vgg16'\. Known: "):
        get_config("vgg16")


@pytest.mark.parametrize("head", ["linear", "pools", "concat", None])
def test_the_tree_is_body_and_head_by_module(head: Any) -> None:
    model = create_classifier(RICH, 5, head=head) if head else create_classifier(RICH, 0)
    variables = init_variables(model, jax.random.key(0), image_size=32)
    params, stats = variables["params"], variables["batch_stats"]
    assert set(variables) == {"params", "batch_stats"}
    assert list(params) == (["body", "head"] if head else ["body"])
    assert list(stats) == (["body", "head"] if head == "concat" else ["body"])
    assert set(params["body"]) == set(stats["body"]) == set(MODULES[:-1])
    assert set(params["body"]["stem"]) == {"conv1", "bn1", "conv2", "bn2", "conv3", "bn3"}
    assert set(params["body"]["stage2"]) == {"block0"}
    layers = {"conv1", "bn1", "conv2", "bn2", "conv3", "bn3", "se", "shortcut"}
    assert set(params["body"]["stage2"]["block0"]) == layers
    assert set(stats["body"]["stage2"]["block0"]) == {"bn1", "bn2", "bn3", "shortcut"}
    assert set(params["body"]["stage2"]["block0"]["shortcut"]) == {"conv", "bn"}
    if head:
        layers = {"linear": {"fc"}, "pools": {"fc_pools"}, "concat": {"bn1", "fc1", "bn2", "fc2"}}
        assert set(params["head"]) == layers[head]
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype(jnp.float32)}

    def is_plain(node: Any) -> bool:
        return type(node) is dict and all(is_plain(child) for child in node.values() if not hasattr(child, "shape"))

    assert is_plain(variables)


def test_initial_values_have_the_stated_distributions() -> None:
    config = ResNetConfig("wide", "bottleneck", (1, 1, 1, 1), groups=2, squeeze_excitation=True)
    variables = init_variables(create_classifier(config, 1000), jax.random.key(0))
    first = [
        leaf.flat[0] / leaf.std() for name, leaf in flatten(variables["params"]["body"]).items() if "kernel" in name
    ]
    assert len(np.unique(np.round(first, 4))) == len(first)  # every kernel has numbers of its own
    for name, leaf in flatten(variables).items():
        if "kernel" not in name:
            np.testing.assert_array_equal(leaf, 1.0 if "scale" in name or "var" in name else 0.0, err_msg=name)
            continue
        fan_out = np.prod(leaf.shape[:-2]) * leaf.shape[-1]
        expected = np.sqrt(2 / fan_out) if leaf.ndim == 4 else np.sqrt(1 / leaf.shape[0])
        np.testing.assert_allclose(leaf.std() / expected, 1.0, atol=4 / np.sqrt(2 * leaf.size), err_msg=name)
        np.testing.assert_allclose(leaf.mean() / expected, 0.0, atol=4 / np.sqrt(leaf.size), err_msg=name)


def test_initial_values_depend_on_the_key_and_the_body_not_on_the_head() -> None:
    one = init_variables(create_classifier(BASIC, 5), jax.random.key(0), image_size=32)
    again = init_variables(create_classifier(BASIC, 5), jax.random.key(0), image_size=64)
    other_head = init_variables(create_classifier(BASIC, 7, head="concat"), jax.random.key(0))
    other_key = init_variables(create_classifier(BASIC, 5), jax.random.key(1))
    jax.tree.map(np.testing.assert_array_equal, one, again)
    jax.tree.map(np.testing.assert_array_equal, one["params"]["body"], other_head["params"]["body"])
    for module in MODULES[:-1]:
        kernels = [flatten(v["params"]["body"][module]) for v in (one, other_key)]
        assert all((kernels[0][name] != kernels[1][name]).mean() > 0.9 for name in kernels[0] if "kernel" in name)
    traced = jax.jit(lambda key: init_variables(create_classifier(BASIC, 5), key))(jax.random.key(0))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), one, traced)


# Cuts


@pytest.mark.parametrize(("config", "head"), [("basic", "linear"), ("basic", "pools"), ("rich", "concat")])
def test_every_cut_continues_to_the_same_logits(config: str, head: str) -> None:
    model, variables = make_model(config, head)
    logits: Any = model.apply(variables, IMAGES)
    assert logits.shape == (3, 5)
    x: Any = jnp.asarray(IMAGES)
    start = None
    height, width = 9, 11
    for cut in CUTS:
        whole = model.apply(variables, IMAGES, stop=cut)
        x = model.apply(variables, x, start=start, stop=cut)
        np.testing.assert_array_equal(x, whole, err_msg=cut)
        np.testing.assert_array_equal(model.apply(variables, x, start=cut), logits, err_msg=cut)
        np.testing.assert_array_equal(model.apply(variables, x, start=cut, stop=cut), x)
        if cut == "pooled":
            last = np.asarray(model.apply(variables, IMAGES, stop="stage4"))
            np.testing.assert_allclose(x, np.concatenate([last.max((1, 2)), last.mean((1, 2))], 1), rtol=1e-5)
        else:
            if cut not in ("stem", "stage1"):
                height, width = -(-height // 2), -(-width // 2)
            assert x.shape == (3, height, width, CONFIGS[config].cut_width(cut))
        start = cut


@pytest.mark.parametrize("num_frozen", range(1, len(MODULES)))
def test_training_from_a_frozen_cut_is_training_the_whole(num_frozen: int) -> None:
    model, variables = make_model("rich", "concat")
    frozen = MODULES[:num_frozen]
    for cut in (frozen[-1], "pooled")[: 1 + (num_frozen == 5)]:
        cached = model.apply(variables, IMAGES, stop=cut)
        whole, whole_stats = train(model, variables, IMAGES, frozen=frozen)
        part, part_stats = train(model, variables, cached, frozen=frozen, start=cut)
        np.testing.assert_array_equal(part, whole)
        jax.tree.map(np.testing.assert_array_equal, part_stats, whole_stats)


def test_the_order_of_height_width_and_channels_matters() -> None:
    model, variables = make_model()
    apply = jax.jit(model.apply)
    logits = np.asarray(apply(variables, IMAGES))
    for changed in (IMAGES[..., ::-1], IMAGES.transpose(0, 2, 1, 3), IMAGES[:, ::-1], IMAGES[:, :, ::-1]):
        assert np.abs(np.asarray(apply(variables, changed)) - logits).max() > 0.01 * np.abs(logits).max()
    np.testing.assert_allclose(apply(variables, IMAGES[::-1]), logits[::-1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("size", [(4, 6), (5, 7), (1, 2)])
def test_average_pool_divides_by_the_pixels_there_are(size: tuple[int, int]) -> None:
    height, width = size
    x = np.random.default_rng(0).normal(size=(2, height, width, 3)).astype(np.float32)
    expected = np.stack(
        [
            np.stack([x[:, i : i + 2, j : j + 2].mean((1, 2)) for j in range(0, width, 2)], 1)
            for i in range(0, height, 2)
        ],
        1,
    )
    np.testing.assert_allclose(average_pool_2x2(jnp.asarray(x)), expected, rtol=1e-5, atol=1e-6)


def test_a_headless_network_returns_the_average_pool() -> None:
    model, variables = make_model()
    body = {name: {"body": tree["body"]} for name, tree in variables.items()}
    pooled: Any = model.apply(variables, IMAGES, stop="pooled")
    for none in (0, None):
        headless = create_classifier(BASIC, none)
        np.testing.assert_array_equal(headless.apply(body, IMAGES), pooled[:, pooled.shape[1] // 2 :])
        np.testing.assert_array_equal(headless.apply(body, IMAGES, stop="pooled"), pooled)


# Training: freezing, dropout, masks


@pytest.mark.parametrize("bn_frozen", [False, True])
@pytest.mark.parametrize("num_frozen", range(len(MODULES) + 1))
def test_frozen_batch_norm_is_untouched_and_every_other_moves(num_frozen: int, bn_frozen: bool) -> None:
    model, variables = make_model("basic", "concat")
    frozen = MODULES[:num_frozen]
    _, stats = train(model, variables, IMAGES, frozen=frozen, bn_frozen=bn_frozen)
    before, after = flatten(variables["batch_stats"]), flatten(stats)
    assert set(before) == set(after)
    for name in before:
        module = next(module for module in MODULES if f"'{module}'" in name)
        if module in frozen or (bn_frozen and module != "head"):
            np.testing.assert_array_equal(after[name], before[name], err_msg=name)
        else:
            assert (after[name] != before[name]).all(), name


def test_all_frozen_computes_as_in_evaluation_and_needs_no_dropout_key() -> None:
    for head in ("linear", "pools", "concat"):
        model, variables = make_model("basic", head, dropout=0.0 if head == "concat" else 0.5)
        logits = model.apply(variables, IMAGES, train=True, frozen=MODULES)
        np.testing.assert_array_equal(logits, model.apply(variables, IMAGES))


POOLED = np.random.default_rng(2).normal(size=(3, 32)).astype(np.float32)


@pytest.mark.parametrize(
    ("kind", "head"),
    [
        ("linear", LinearHead(5, 0.5)),
        ("pools", LinearHead(5, 0.5, pools=True)),
        ("concat", ConcatHead(5)),
        ("concat", ConcatHead(5, dropouts=(0.5, 0.0))),
        ("concat", ConcatHead(5, dropouts=(0.0, 0.5))),
    ],
)
def test_dropout_draws_by_key_in_training_only(kind: str, head: LinearHead | ConcatHead) -> None:
    _, variables = make_model("basic", kind)
    own = {name: tree["head"] for name, tree in variables.items() if "head" in tree}

    def run(seed: int) -> np.ndarray:
        options: Any = {"rngs": {"dropout": jax.random.key(seed)}, "mutable": ["batch_stats"]}
        return np.asarray(head.apply(own, POOLED, train=True, **options)[0])

    np.testing.assert_array_equal(run(0), run(0))
    assert (run(0) != run(1)).any()
    np.testing.assert_array_equal(head.apply(own, POOLED, train=False), head.apply(own, POOLED, train=False))


def test_without_dropout_no_key_is_needed() -> None:
    model, variables = make_model()
    model.apply(variables, POOLED, start="pooled", train=True, mutable=["batch_stats"])


def test_the_linear_heads_read_one_pool_or_both() -> None:
    """The maximum comes first, then the average, as in what is cached at "pooled"."""
    for head, layer, seen in (("linear", "fc", POOLED[:, 16:]), ("pools", "fc_pools", POOLED)):
        model, variables = make_model("basic", head)
        dense = variables["params"]["head"][layer]
        logits: Any = model.apply(variables, POOLED, start="pooled")
        np.testing.assert_allclose(logits, seen @ dense["kernel"] + dense["bias"], rtol=1e-5, atol=1e-5)
    last: Any = model.apply(variables, IMAGES, stop="stage4")
    pools = np.concatenate([last.max((1, 2)), last.mean((1, 2))], 1)
    expected = pools @ dense["kernel"] + dense["bias"]
    np.testing.assert_allclose(model.apply(variables, IMAGES), expected, rtol=1e-4, atol=1e-5)


def test_the_concat_head_follows_its_formula() -> None:
    model, variables = make_model("basic", "concat")
    params, stats = variables["params"]["head"], variables["batch_stats"]["head"]

    def normalise(x: np.ndarray, name: str) -> np.ndarray:
        mean, var = stats[name]["mean"], stats[name]["var"]
        return np.asarray((x - mean) / np.sqrt(var + 1e-5) * params[name]["scale"] + params[name]["bias"])

    x = normalise(POOLED, "bn1") @ params["fc1"]["kernel"] + params["fc1"]["bias"]
    expected = normalise(np.maximum(x, 0), "bn2") @ params["fc2"]["kernel"] + params["fc2"]["bias"]
    logits: Any = model.apply(variables, POOLED, start="pooled")
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("config", ["basic", "rich"])
def test_what_stands_in_padding_changes_nothing(config: str) -> None:
    model, variables = make_model(config)  # every BatchNorm must get the mask, those of shortcuts too
    other = np.concatenate([IMAGES[:2], np.full_like(IMAGES[2:], 9.0)])
    mask = jnp.array([1, 1, 0])
    logits, stats = train(model, variables, IMAGES, mask=mask)
    other_logits, other_stats = train(model, variables, other, mask=mask)
    np.testing.assert_array_equal(other_logits[:2], logits[:2])
    jax.tree.map(np.testing.assert_array_equal, other_stats, stats)
    assert (train(model, variables, other)[0][:2] != logits[:2]).all()


def test_a_batch_of_padding_alone_changes_nothing_and_is_finite() -> None:
    model, variables = make_model("rich", "concat")
    logits, stats = train(model, variables, IMAGES, mask=jnp.zeros(3))
    assert np.isfinite(logits).all()
    jax.tree.map(np.testing.assert_array_equal, stats, variables["batch_stats"])


# Precision and compilation


def test_bfloat16_is_the_body_s_arithmetic_only() -> None:
    reference, variables = make_model("rich", "concat")
    model = create_classifier(RICH, 5, head="concat", dtype=jnp.bfloat16)
    initial = init_variables(model, jax.random.key(0), image_size=32)
    assert {leaf.dtype for leaf in jax.tree.leaves(initial)} == {jnp.dtype(jnp.float32)}

    @partial(jax.jit, static_argnums=0)
    def cuts_and_logits(model: Classifier, variables: Variables) -> Any:
        return [model.apply(variables, IMAGES, stop=cut) for cut in (*CUTS, None)]

    for cut, x, exact in zip(
        (*CUTS, None), cuts_and_logits(model, variables), cuts_and_logits(reference, variables), strict=True
    ):
        assert x.dtype == (jnp.float32 if cut in ("pooled", None) else jnp.bfloat16), cut
        difference = np.abs(np.asarray(x, np.float32) - np.asarray(exact)).max() / np.abs(exact).max()
        assert 1e-4 < difference < 0.03, cut


def test_jit_equals_eager() -> None:
    model, variables = make_model("rich")
    mask = jnp.array([1, 1, 0])
    eager = flatten(train(model, variables, IMAGES, mask=mask))
    jitted = flatten(jax.jit(lambda v, x, m: train_traced(model, v, x, m))(variables, IMAGES, mask))
    for name, leaf in eager.items():
        np.testing.assert_allclose(jitted[name], leaf, rtol=0, atol=1e-4 * np.abs(leaf).max(), err_msg=name)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("config", ["basic", "rich"])
def test_nothing_relies_on_implicit_promotion(config: str, dtype: Any) -> None:
    model = create_classifier(CONFIGS[config], 5, head="concat", dtype=dtype)
    variables = jax.eval_shape(lambda: init_variables(model, jax.random.key(0), image_size=32))
    with jax.numpy_dtype_promotion("strict"):
        for mask_dtype in (jnp.bool_, jnp.int32, jnp.float32):
            mask = jax.ShapeDtypeStruct((3,), mask_dtype)
            logits, stats = jax.eval_shape(lambda v, m: train_traced(model, v, IMAGES, m), variables, mask)
            assert logits.dtype == jnp.float32
            assert stats == variables["batch_stats"]


def train_traced(model: Classifier, variables: Variables, x: Any, mask: Any) -> Any:
    options: Any = {"train": True, "mutable": ["batch_stats"], "rngs": {"dropout": jax.random.key(7)}}
    logits, updates = model.apply(variables, x, mask=mask, **options)
    return logits, updates["batch_stats"]


# Errors


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"start": "stage5"}, r"start: .*'stem', .*'pooled'.*got 'stage5'"),
        ({"stop": "head"}, r"stop: .*'stem', .*'pooled'.*got 'head'"),
        ({"start": "stage3", "stop": "stage1"}, r"start, stop: 'stage3' comes after 'stage1'"),
        ({"frozen": ("stage1",)}, r"frozen=\('stage1',\) is not a prefix of \('stem', 'stage1'"),
        ({"frozen": ("stem", "stage2")}, r"frozen=\('stem', 'stage2'\) is not"),
        ({"frozen": ("stem", "stem")}, r"frozen=\('stem', 'stem'\) is not"),
        ({"frozen": (*MODULES, "head")}, r"frozen=.* is not"),
        (
            {"start": "stage4"},
            r"x: expected activations of start='stage4' of shape \[b, h, w, 16\], got \(3, 36, 44, 3\)",
        ),
        ({"start": "pooled"}, r"x: .*\[b, 32\], got"),
        ({"mask": np.ones(2)}, r"mask: expected shape \(3,\)"),
    ],
)
def test_wrong_arguments_are_named(options: dict[str, Any], message: str) -> None:
    model, variables = make_model()
    with pytest.raises(ValueError, match=message):
        model.apply(variables, IMAGES, **options)


def test_wrong_images_are_named() -> None:
    model, variables = make_model()
    with pytest.raises(ValueError, match=r"x: expected images as normalised floating point, got uint8"):
        model.apply(variables, IMAGES.astype(np.uint8))
    with pytest.raises(ValueError, match=r"x: expected images of shape \[b, h, w, 3\], got \(3, 3, 36, 44\)"):
        model.apply(variables, IMAGES.transpose(0, 3, 1, 2))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"head": "mlp"}, r"head: expected one of \('linear', 'pools', 'concat'\), got 'mlp'"),
        ({"dropout": 1.0}, r"dropout: .*\[0, 1\), got 1.0"),
        ({"head": "concat", "dropout": 0.1}, r"dropout: the concat head has its own"),
        ({"num_classes": -1}, r"num_classes: .*got -1"),
        ({"in_channels": 0}, r"in_channels: .*got 0"),
    ],
)
def test_impossible_classifiers_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        create_classifier(BASIC, **{"num_classes": 2, **options})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"block": "basis"}, r"block: .*'bottleneck'.*got 'basis'"),
        ({"stem": "wide"}, r"stem: "),
        ({"downsample": "max"}, r"downsample: "),
        ({"stage_sizes": (1, 1, 1)}, r"stage_sizes: expected four positive"),
        ({"stage_widths": (1, 1, 1, 0)}, r"stage_widths: "),
        ({"groups": 2}, r"groups, base_width: "),
        ({"block": "bottleneck", "base_width": 0}, r"no channels"),
        ({"stem": "tiered", "stem_width": 4}, r"no channels"),
    ],
)
def test_impossible_configs_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ResNetConfig(**{"arch": "x", "block": "basic", "stage_sizes": (1, 1, 1, 1), **options})


def test_other_image_channels_and_bad_image_size() -> None:
    model = create_classifier(BASIC, 2, in_channels=4)
    variables = init_variables(model, jax.random.key(0), image_size=32)
    assert variables["params"]["body"]["stem"]["conv1"]["kernel"].shape == (7, 7, 4, 8)
    assert jax.eval_shape(model.apply, variables, jnp.ones((1, 32, 32, 4))).shape == (1, 2)
    with pytest.raises(ValueError, match="image_size: .*got 0"):
        init_variables(model, jax.random.key(0), image_size=0)
