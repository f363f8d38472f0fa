"""State dicts: bit-exact both ways, strict about every entry, merging. Real names and their order: test_parity."""

from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from networks import BASIC, RICH

from jaxclf.models import ResNetConfig, Variables, create_classifier, get_config, init_variables, list_archs
from jaxclf.weights import convert_state_dict, merge_variables, to_state_dict
from jaxclf.weights.state_dict import _entries

COUNTER = "num_batches_tracked"


def make_variables(config: ResNetConfig, num_classes: int = 5, head: Any = "linear", seed: int = 0) -> Variables:
    model = create_classifier(config, num_classes, head=head)
    return init_variables(model, jax.random.key(seed), image_size=32)


def make_state_dict(config: ResNetConfig, dtype: Any = np.float32, head: Any = "linear") -> dict[str, np.ndarray]:
    """Random bits in every entry but the counters: all of them, infinities, negative zeros and NaNs too."""
    rng = np.random.default_rng(0)
    state_dict = to_state_dict(make_variables(config, head=head), config)
    for name, array in state_dict.items():
        if not name.endswith(COUNTER):
            size = array.size * np.dtype(dtype).itemsize
            state_dict[name] = np.frombuffer(rng.bytes(size), dtype).reshape(array.shape)
    return state_dict


def assert_same_bits(actual: np.ndarray, expected: np.ndarray) -> None:
    assert (actual.dtype, actual.shape) == (expected.dtype, expected.shape)
    assert actual.tobytes() == expected.tobytes()


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize(("config", "head"), [(BASIC, "linear"), (BASIC, "pools"), (RICH, "concat")])
def test_the_round_trip_is_exact_to_the_bit(config: ResNetConfig, head: str, dtype: Any) -> None:
    state_dict = make_state_dict(config, dtype, head)
    variables = convert_state_dict(state_dict, config)
    written = to_state_dict(variables, config)
    assert list(written) == list(state_dict)
    for name, array in written.items():
        assert_same_bits(array, np.zeros((), np.int64) if name.endswith(COUNTER) else state_dict[name])
    assert_tree_like(variables, make_variables(config, head=head))
    back = convert_state_dict(written, config)
    jax.tree.map(assert_same_bits, back, variables)


def assert_tree_like(actual: Variables, expected: Variables) -> None:
    assert jax.tree.map(np.shape, actual) == jax.tree.map(np.shape, expected)


def test_names_and_layouts_are_torch_s() -> None:
    state_dict = make_state_dict(RICH)
    variables = convert_state_dict(state_dict, RICH)
    body, stats = variables["params"]["body"], variables["batch_stats"]["body"]
    pairs = {
        "conv1.3.weight": (body["stem"]["conv2"]["kernel"], (2, 3, 1, 0)),
        "bn1.running_var": (stats["stem"]["bn3"]["var"], (0,)),
        "layer1.0.conv2.weight": (body["stage1"]["block0"]["conv2"]["kernel"], (2, 3, 1, 0)),
        "layer2.0.downsample.1.weight": (body["stage2"]["block0"]["shortcut"]["conv"]["kernel"], (2, 3, 1, 0)),
        "layer2.0.downsample.2.running_mean": (stats["stage2"]["block0"]["shortcut"]["bn"]["mean"], (0,)),
        "layer3.0.se.fc1.weight": (body["stage3"]["block0"]["se"]["fc1"]["kernel"], (2, 3, 1, 0)),
        "layer3.0.se.fc2.bias": (body["stage3"]["block0"]["se"]["fc2"]["bias"], (0,)),
        "layer4.0.bn3.weight": (body["stage4"]["block0"]["bn3"]["scale"], (0,)),
        "fc.weight": (variables["params"]["head"]["fc"]["kernel"], (1, 0)),
    }
    for name, (ours, axes) in pairs.items():
        assert_same_bits(ours, np.ascontiguousarray(state_dict[name].transpose(axes)))
    plain = to_state_dict(make_variables(BASIC), BASIC)
    assert {"conv1.weight", "bn1.weight", "layer2.0.downsample.0.weight", "layer1.1.conv2.weight"} <= set(plain)


def test_the_head_on_both_pools_has_stable_names() -> None:
    variables = make_variables(BASIC, head="pools")
    state_dict = to_state_dict(variables, BASIC)
    own = {name: array for name, array in state_dict.items() if name.startswith(("head", "fc"))}
    assert list(own) == ["head.fc_pools.weight", "head.fc_pools.bias"]
    np.testing.assert_array_equal(own["head.fc_pools.weight"].T, variables["params"]["head"]["fc_pools"]["kernel"])
    del state_dict["head.fc_pools.bias"]
    with pytest.raises(ValueError, match=r"1 missing \(head.fc_pools.bias\)"):
        convert_state_dict(state_dict, BASIC)
    with pytest.raises(ValueError, match="head.fc_pools.weight"):
        convert_state_dict({**state_dict, "head.fc_pools.bias": np.zeros(5), "fc.bias": np.zeros(5)}, BASIC)


def test_the_concat_head_has_stable_names() -> None:
    state_dict = to_state_dict(make_variables(BASIC, head="concat"), BASIC)
    shapes = {name: array.shape for name, array in state_dict.items() if name.startswith(("head", "fc"))}
    norms = {
        f"head.bn{i}.{name}": (width,)
        for i, width in ((1, 32), (2, 512))
        for name in ("weight", "bias", "running_mean", "running_var")
    }
    counters = {f"head.bn{i}.{COUNTER}": () for i in (1, 2)}
    dense = {"head.fc1.weight": (512, 32), "head.fc1.bias": (512,), "head.fc2.weight": (5, 512), "head.fc2.bias": (5,)}
    assert shapes == norms | counters | dense


def test_the_result_shares_no_memory_with_the_source() -> None:
    state_dict = {name: np.array(array) for name, array in make_state_dict(BASIC).items()}
    variables = convert_state_dict(state_dict, BASIC)
    written = to_state_dict(variables, BASIC)
    for name, array in state_dict.items():
        assert not any(np.shares_memory(array, leaf) for leaf in jax.tree.leaves(variables)), name
    for name, array in written.items():
        assert array.flags.c_contiguous, name
        assert array.flags.writeable, name
        assert not any(np.shares_memory(array, leaf) for leaf in jax.tree.leaves(variables)), name


def test_counters_may_be_absent() -> None:
    state_dict = make_state_dict(BASIC)
    without = {name: array for name, array in state_dict.items() if not name.endswith(COUNTER)}
    assert len(without) < len(state_dict)
    jax.tree.map(assert_same_bits, convert_state_dict(without, BASIC), convert_state_dict(state_dict, BASIC))
    with pytest.raises(ValueError, match=rf"1 unexpected \(layer9\.{COUNTER}\)"):
        convert_state_dict({**state_dict, f"layer9.{COUNTER}": np.zeros((), np.int64)}, BASIC)


def test_a_body_without_head_must_be_asked_for() -> None:
    state_dict = make_state_dict(BASIC)
    body = {name: array for name, array in state_dict.items() if not name.startswith("fc.")}
    with pytest.raises(ValueError, match=r"2 missing \(fc.weight, fc.bias\)\. Only the head .*allow_headless=True"):
        convert_state_dict(body, BASIC)
    variables = convert_state_dict(body, BASIC, allow_headless=True)
    assert set(variables["params"]) == {"body"}
    assert list(to_state_dict(variables, BASIC)) == list(body)
    full = convert_state_dict(state_dict, BASIC, allow_headless=True)
    assert_same_bits(full["params"]["head"]["fc"]["bias"], state_dict["fc.bias"])


def test_missing_unexpected_and_misshapen_entries_are_all_reported() -> None:
    state_dict = make_state_dict(BASIC)
    del state_dict["layer1.0.conv1.weight"], state_dict["layer4.0.bn2.running_var"]
    state_dict["layer1.0.conv9.weight"] = np.zeros(3)
    state_dict["bn1.bias"] = np.zeros(9)
    with pytest.raises(ValueError, match="state_dict does not fit arch='tiny-basic'") as error:
        convert_state_dict(state_dict, BASIC)
    message = str(error.value)
    assert "2 missing (layer1.0.conv1.weight, layer4.0.bn2.running_var)" in message
    assert "1 unexpected (layer1.0.conv9.weight)" in message
    assert "1 of another shape (bn1.bias: (9,) instead of (8,))" in message
    assert "fits no architecture" in message


@pytest.mark.parametrize(("name", "shape"), [("fc.weight", (5, 17)), ("fc.bias", (6,)), ("fc.weight", (5,))])
def test_only_the_number_of_classes_of_the_head_is_free(name: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="1 of another shape"):
        convert_state_dict({**make_state_dict(BASIC), name: np.zeros(shape)}, BASIC)


@pytest.mark.parametrize("head", [True, False])
def test_weights_of_another_architecture_are_recognised(head: bool) -> None:
    entries = _entries(get_config("resnet34"), "linear" if head else None, 7)
    state_dict = {entry.name: np.broadcast_to(np.float32(0), entry.shape) for entry in entries}
    with pytest.raises(ValueError, match=r"arch='resnet50': .*missing.*of another shape.*It would fit resnet34\."):
        convert_state_dict(state_dict, "resnet50")
    with pytest.raises(ValueError, match=r"unknown architecture 'resnet3'"):
        convert_state_dict(state_dict, "resnet3")


def test_a_list_of_differences_is_cut_and_counted() -> None:
    with pytest.raises(
        ValueError, match=r"\d\d missing \(conv1.weight, bn1.weight, bn1.bias, .*, \.\.\).*1 unexpected"
    ):
        convert_state_dict({"state_dict": np.zeros(3)}, BASIC)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v["params"]["body"]["stem"]["conv1"].pop("kernel"), r"1 missing \(params/body/stem/conv1/kernel\)"),
        (lambda v: v["params"]["head"].update(extra=np.zeros(1)), r"1 unexpected \(params/head/extra\)"),
        (
            lambda v: v["batch_stats"]["body"]["stem"]["bn1"].update(mean=np.zeros(3)),
            r"batch_stats/body/stem/bn1/mean: \(3,\) instead of \(8,\)",
        ),
    ],
)
def test_variables_of_another_network_are_not_written(change: Any, message: str) -> None:
    variables = convert_state_dict(make_state_dict(BASIC), BASIC)
    change(variables)
    with pytest.raises(ValueError, match=message):
        to_state_dict(variables, BASIC)


def test_the_table_has_the_published_number_of_parameters() -> None:
    # Public figures of torchvision and timm, in millions; a wrong width, depth or group count would change them.
    published = {
        "resnet18": 11.69,
        "resnet34": 21.80,
        "resnet50": 25.56,
        "resnet101": 44.55,
        "resnet152": 60.19,
        "resnext50_32x4d": 25.03,
        "resnext101_32x8d": 88.79,
        "resnext101_64x4d": 83.46,
        "wide_resnet50_2": 68.88,
        "wide_resnet101_2": 126.89,
        "resnet10t": 5.44,
        "resnet14t": 10.08,
        "resnet18d": 11.71,
        "resnet26d": 16.01,
        "resnet26t": 16.01,
        "resnet34d": 21.82,
        "resnet50d": 25.58,
        "resnet101d": 44.57,
        "seresnet50": 28.09,
    }
    for arch in list_archs():
        parameters = [e for e in _entries(get_config(arch), "linear", 1000) if e.path.startswith("params/")]
        millions = sum(np.prod(entry.shape) for entry in parameters) / 1e6
        np.testing.assert_allclose(millions, published[arch], atol=0.0051, err_msg=arch)


# Merging


def test_merging_takes_the_body_and_keeps_the_head() -> None:
    initial, other = make_variables(BASIC, num_classes=3), make_variables(BASIC, seed=1)
    pretrained = convert_state_dict(to_state_dict(other, BASIC), BASIC)
    pretrained["batch_stats"]["body"]["stem"]["bn1"]["mean"] += 7.0
    merged = merge_variables(initial, pretrained)
    jax.tree.map(np.testing.assert_array_equal, merged["params"]["body"], pretrained["params"]["body"])
    jax.tree.map(np.testing.assert_array_equal, merged["batch_stats"], pretrained["batch_stats"])
    jax.tree.map(np.testing.assert_array_equal, merged["params"]["head"], initial["params"]["head"])
    assert_tree_like(merged, initial)
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(merged))
    pretrained["params"]["body"]["stem"]["conv1"]["kernel"][:] = 0.0  # the merged variables are their own
    assert np.asarray(merged["params"]["body"]["stem"]["conv1"]["kernel"]).any()


def test_merging_ignores_what_is_kept() -> None:
    initial = make_variables(BASIC, head="concat")
    linear = make_variables(BASIC, seed=1)
    merged = merge_variables(initial, linear)
    jax.tree.map(np.testing.assert_array_equal, merged["batch_stats"]["head"], initial["batch_stats"]["head"])
    headless = {name: {"body": tree["body"]} for name, tree in linear.items()}
    jax.tree.map(np.testing.assert_array_equal, merge_variables(initial, headless), merged)
    other_stem = init_variables(create_classifier(BASIC, 5, in_channels=1), jax.random.key(2), image_size=32)
    grey = merge_variables(other_stem, linear, keep=("stem", "head"))
    jax.tree.map(np.testing.assert_array_equal, grey["params"]["body"]["stem"], other_stem["params"]["body"]["stem"])
    np.testing.assert_array_equal(
        grey["params"]["body"]["stage1"]["block0"]["conv1"]["kernel"],
        linear["params"]["body"]["stage1"]["block0"]["conv1"]["kernel"],
    )
    everything = merge_variables(make_variables(BASIC), linear, keep=())
    jax.tree.map(np.testing.assert_array_equal, everything, linear)


def test_merging_casts_between_floating_types_only() -> None:
    initial, pretrained = make_variables(BASIC), make_variables(BASIC, seed=1)
    half = jax.tree.map(lambda leaf: np.asarray(leaf, np.float16), pretrained)
    merged = merge_variables(initial, half, keep=())
    assert {leaf.dtype for leaf in jax.tree.leaves(merged)} == {jnp.dtype(jnp.float32)}
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b.astype(np.float32)), merged, half)
    half["params"]["body"]["stem"]["bn1"]["scale"] = np.ones(8, np.int32)
    with pytest.raises(ValueError, match=r"stem/bn1/scale: int\[8\] instead of float\[8\]"):
        merge_variables(initial, half)


def test_merging_lists_what_does_not_fit() -> None:
    initial = make_variables(BASIC, num_classes=3)
    with pytest.raises(ValueError, match=r"params/head/fc/kernel: float\[16, 5\] instead of float\[16, 3\]"):
        merge_variables(initial, make_variables(BASIC), keep=())
    with pytest.raises(ValueError, match=r"\d+ missing \(params/body/.*\d+ unexpected \(params/body/.*another shape"):
        merge_variables(initial, make_variables(RICH))
    with pytest.raises(ValueError, match=r"keep: unknown module 'body'; expected names out of \('stem'"):
        merge_variables(initial, initial, keep=("body",))
