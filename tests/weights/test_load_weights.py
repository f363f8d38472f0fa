"""`load_weights`: which source is meant, strict and float32 variables, and what travels with them."""

import dataclasses
import hashlib
import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any

import jax
import ml_dtypes
import numpy as np
import pytest
from conftest import REPOSITORY, SHARED
from safetensors.numpy import save_file

import jaxclf.weights.catalogue
import jaxclf.weights.load
from jaxclf.config import Preprocess, PretrainedConfig, to_json
from jaxclf.models import list_archs
from jaxclf.weights.catalogue import best_weights, bundled_config, bundled_names, bundled_path, known_weights
from jaxclf.weights.files import read_state_dict
from jaxclf.weights.hub import HubFiles, is_hub_id
from jaxclf.weights.load import load_weights
from jaxclf.weights.state_dict import to_state_dict

SHARED_WEIGHTS = SHARED / "weights" / "resnet10t-tiny-imagenet.safetensors"
ARCH = "resnet10t"


@pytest.fixture(scope="module")
def state_dict() -> dict[str, np.ndarray]:
    """A complete float32 state dict of resnet10t with three classes."""
    arrays = {
        name: np.array(array, np.float32) for name, array in read_state_dict(bundled_path("tiny-imagenet")).items()
    }
    return {**arrays, "fc.weight": arrays["fc.weight"][:3], "fc.bias": arrays["fc.bias"][:3]}


def assert_trees_equal(tree: Any, expected: Any) -> None:
    assert jax.tree.structure(tree) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, tree, expected)


# Bundled weights.


def test_the_bundled_weights_load_as_float32():
    variables, config = load_weights("tiny-imagenet", ARCH)
    packed = read_state_dict(bundled_path("tiny-imagenet"))
    back = to_state_dict(variables, ARCH)
    assert {name for name in back if not name.endswith("num_batches_tracked")} == set(packed)
    for name, array in packed.items():
        assert back[name].dtype == np.float32
        np.testing.assert_array_equal(back[name], array.astype(np.float32))
    assert config == bundled_config("tiny-imagenet")


def test_kernels_are_packed_in_half_precision_and_the_rest_is_not():
    for name, array in read_state_dict(bundled_path("tiny-imagenet")).items():
        assert array.dtype == (np.float16 if array.ndim > 1 else np.float32), name
    assert 9e6 < bundled_path("tiny-imagenet").stat().st_size < 11e6


def test_what_is_said_about_the_bundled_weights():
    config = bundled_config("tiny-imagenet")
    assert config.preprocess == Preprocess(96, crop_fraction=1.0)
    assert (config.arch, len(config.classes), config.classes[0]) == (ARCH, 200, "n01443537")
    assert config.sha256 == hashlib.sha256(bundled_path("tiny-imagenet").read_bytes()).hexdigest()
    assert "Tiny ImageNet" in config.origin
    assert "non-commercial research" in config.licence
    assert "non-commercial research" in (bundled_path("tiny-imagenet").parent / "NOTICE.md").read_text(encoding="utf-8")


def test_the_bundled_weights_are_the_shared_ones():
    if not SHARED_WEIGHTS.is_file():
        pytest.skip("needs ../shared/weights, which a plain clone does not have")
    ours, theirs = load_weights("tiny-imagenet", ARCH), load_weights(SHARED_WEIGHTS, ARCH)
    assert ours.config.classes == theirs.config.classes
    assert ours.config.preprocess == theirs.config.preprocess
    assert theirs.config.sha256 == hashlib.sha256(SHARED_WEIGHTS.read_bytes()).hexdigest()
    for half, full in zip(jax.tree.leaves(ours.variables), jax.tree.leaves(theirs.variables), strict=True):
        np.testing.assert_allclose(
            half, full, rtol=2**-11, atol=2**-25
        )  # half's rounding; its smallest steps near zero


def test_changed_bundled_weights_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    shutil.copytree(bundled_path("tiny-imagenet").parent, tmp_path / "bundled")
    monkeypatch.setattr(jaxclf.weights.catalogue, "files", lambda package: tmp_path)
    assert load_weights("tiny-imagenet", ARCH).config.arch == ARCH
    path = bundled_path("tiny-imagenet")
    assert path.is_relative_to(tmp_path)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match="changed after packaging"):
        load_weights("tiny-imagenet", ARCH)
    path.unlink()
    with pytest.raises(ValueError, match="not installed at"):
        load_weights("tiny-imagenet", ARCH)


def test_bundled_weights_for_another_architecture_list_both_sides():
    with pytest.raises(ValueError, match=r"weights tiny-imagenet.*resnet18.*conv1\.weight.*conv1\.1\."):
        load_weights("tiny-imagenet", "resnet18")
    with pytest.raises(ValueError, match="unknown architecture 'resnet9'"):
        load_weights("tiny-imagenet", "resnet9")
    with pytest.raises(ValueError, match="there is tiny-imagenet"):
        bundled_path("imagenet")


def test_packing(tmp_path: Path):
    specification = importlib.util.spec_from_file_location("pack_weights", REPOSITORY / "scripts" / "pack_weights.py")
    assert specification is not None
    assert specification.loader is not None
    script = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(script)
    tensors = {"w": np.float32([[1 / 3, 2]]), "b": np.float32([1 / 3]), "n.num_batches_tracked": np.zeros((), np.int64)}
    save_file(tensors, tmp_path / "in.safetensors")
    described = {"arch": ARCH, "classes": ["a", "b"], "image_size": 64, "mean": [0.1, 0.2, 0.3], "std": [1, 1, 1]}
    described |= {"interpolation": "bicubic", "crop_fraction": 0.5}
    (tmp_path / "in.json").write_text(json.dumps(described))
    config = script.pack(tmp_path / "in.safetensors", tmp_path / "out.safetensors", "somewhere", "some terms")
    packed = read_state_dict(tmp_path / "out.safetensors")
    assert {name: array.dtype.name for name, array in packed.items()} == {"w": "float16", "b": "float32"}
    np.testing.assert_array_equal(packed["w"], np.float16([[1 / 3, 2]]))
    assert config.sha256 == hashlib.sha256((tmp_path / "out.safetensors").read_bytes()).hexdigest()
    assert (tmp_path / "out.json").read_text() == to_json(config)
    assert config.preprocess == Preprocess(64, (0.1, 0.2, 0.3), (1.0, 1.0, 1.0), "bicubic", 0.5)
    assert (tmp_path / "out.safetensors").stat().st_mode & 0o777 == 0o644


# Local files.


def test_a_file_without_description(tmp_path: Path, state_dict: dict[str, np.ndarray]):
    path = tmp_path / "w.safetensors"
    save_file(state_dict, path)
    variables, config = load_weights(path, ARCH)
    assert (config.arch, config.preprocess, config.classes) == (ARCH, Preprocess(), ())
    assert "w.safetensors" in config.origin
    assert "assumed" in config.origin
    assert config.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert_trees_equal(load_weights(str(path), ARCH).variables, variables)
    back = to_state_dict(variables, ARCH)
    for name, array in state_dict.items():
        np.testing.assert_array_equal(back[name], array)


OURS = PretrainedConfig(ARCH, Preprocess(64, interpolation="bicubic"), ("a", "b", "c"), "CC0", "my own photos")
TIMM = {
    "architecture": ARCH,
    "num_classes": 3,
    "pretrained_cfg": {"input_size": [3, 64, 64], "interpolation": "bicubic", "crop_pct": 0.875, "license": "CC0"},
    "label_names": ["a", "b", "c"],
}
FLAT = {
    "arch": ARCH,
    "classes": ["a", "b", "c"],
    "image_size": 64,
    "mean": [0.485, 0.456, 0.406],
    "std": [0.229, 0.224, 0.225],
    "interpolation": "bicubic",
    "licence": "CC0",
}


@pytest.mark.parametrize(
    "description", [to_json(OURS), json.dumps(TIMM), json.dumps(FLAT)], ids=["ours", "timm", "flat"]
)
@pytest.mark.parametrize("beside", ["w.json", "config.json"])
def test_the_description_beside_a_file(
    tmp_path: Path, state_dict: dict[str, np.ndarray], description: str, beside: str
):
    save_file(state_dict, tmp_path / "w.safetensors")
    (tmp_path / beside).write_text(description)
    config = load_weights(tmp_path / "w.safetensors", ARCH).config
    assert config.preprocess == OURS.preprocess
    assert (config.arch, config.classes, config.licence) == (ARCH, ("a", "b", "c"), "CC0")
    assert config.origin == (OURS.origin if "my own photos" in description else f"w.safetensors, described by {beside}")
    assert config.sha256 == hashlib.sha256((tmp_path / "w.safetensors").read_bytes()).hexdigest()


def test_the_description_of_the_same_name_comes_first(tmp_path: Path, state_dict: dict[str, np.ndarray]):
    save_file(state_dict, tmp_path / "w.safetensors")
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "w.json").write_text(to_json(OURS))
    assert load_weights(tmp_path / "w.safetensors", ARCH).config.origin == "my own photos"
    (tmp_path / "w.json").unlink()
    with pytest.raises(ValueError, match=r"config\.json .*neither jaxclf's nor timm's"):
        load_weights(tmp_path / "w.safetensors", ARCH)


def test_a_description_that_does_not_fit(tmp_path: Path, state_dict: dict[str, np.ndarray]):
    save_file(state_dict, tmp_path / "w.safetensors")
    (tmp_path / "w.json").write_text(to_json(PretrainedConfig(ARCH, classes=("a", "b"))))
    with pytest.raises(ValueError, match=r"w\.safetensors.*3 outputs.*2 classes"):
        load_weights(tmp_path / "w.safetensors", ARCH)
    (tmp_path / "w.json").write_text(to_json(PretrainedConfig("resnet14t")))
    with pytest.raises(ValueError, match="description says arch='resnet14t', not 'resnet10t'"):
        load_weights(tmp_path / "w.safetensors", ARCH)


@pytest.mark.parametrize("dtype", [np.float16, np.float64, ml_dtypes.bfloat16])
def test_other_floating_types_become_float32(tmp_path: Path, state_dict: dict[str, np.ndarray], dtype: Any):
    stored = {name: array.astype(dtype) for name, array in state_dict.items()}
    save_file(stored, tmp_path / "w.safetensors")
    back = to_state_dict(load_weights(tmp_path / "w.safetensors", ARCH).variables, ARCH)
    for name, array in stored.items():
        assert back[name].dtype == np.float32
        np.testing.assert_array_equal(back[name], array.astype(np.float32))


def test_whole_numbers_are_no_weights(tmp_path: Path, state_dict: dict[str, np.ndarray]):
    save_file({**state_dict, "fc.bias": np.arange(3)}, tmp_path / "w.safetensors")
    with pytest.raises(ValueError, match=r"w\.safetensors.*int64"):
        load_weights(tmp_path / "w.safetensors", ARCH)


def test_a_body_alone_and_an_incomplete_body(tmp_path: Path, state_dict: dict[str, np.ndarray]):
    body = {name: array for name, array in state_dict.items() if not name.startswith("fc.")}
    save_file(body, tmp_path / "w.safetensors")
    assert "head" not in load_weights(tmp_path / "w.safetensors", ARCH).variables["params"]
    del body["bn1.running_var"]
    save_file(body, tmp_path / "w.safetensors")
    with pytest.raises(ValueError, match=r"w\.safetensors.*missing.*bn1\.running_var"):
        load_weights(tmp_path / "w.safetensors", ARCH)


# Which source is meant.


@pytest.mark.parametrize(
    "source", ["w.pth", "./w", "../w", "a/b.safetensors", "~/nowhere-at-all", "/nowhere/w", "w.PT"]
)
def test_what_looks_like_a_file_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="weights file .* does not exist"):
        load_weights(source, ARCH)


@pytest.mark.parametrize(
    ("source", "hint"),
    [
        ("tiny-imagnet", "Did you mean tiny-imagenet?"),
        ("Tiny-ImageNet", "Did you mean tiny-imagenet?"),
        ("resnet34.a1_in1k", "Did you mean timm/resnet34.a1_in1k"),
        ("imagenet", "Did you mean tiny-imagenet?"),
        ("", "bundled weights (tiny-imagenet)"),
        ("xyzzy", "a hub id (owner/name"),
        ("a/b/c", "a file (.safetensors, .pth"),
    ],
)
def test_unknown_sources_name_what_there_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, hint: str):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="is nothing that is known") as caught:
        load_weights(source, ARCH)
    assert hint in str(caught.value)
    assert repr(source) in str(caught.value)


@pytest.mark.parametrize("source", ["tiny-imagenet", "auto", "some/model"])
def test_a_file_of_the_same_name_is_ambiguous(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str):
    monkeypatch.chdir(tmp_path)
    (tmp_path / source).parent.mkdir(exist_ok=True)
    (tmp_path / source).write_bytes(b"x")
    with pytest.raises(ValueError, match=f"write ./{source} for the file"):
        load_weights(source, ARCH)
    with pytest.raises(ValueError, match="cut short"):
        load_weights(f"./{source}", ARCH)


def test_a_folder_of_the_same_name_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny-imagenet").mkdir()
    assert load_weights("tiny-imagenet", ARCH).config.arch == ARCH


def test_a_file_in_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state_dict: dict[str, np.ndarray]):
    monkeypatch.setenv("HOME", str(tmp_path))
    save_file(state_dict, tmp_path / "w.safetensors")
    assert load_weights("~/w.safetensors", ARCH).config.origin.startswith("w.safetensors;")
    assert load_weights(Path("~/w.safetensors"), ARCH).config.origin.startswith("w.safetensors;")


def test_a_file_without_suffix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state_dict: dict[str, np.ndarray]):
    monkeypatch.chdir(tmp_path)
    save_file(state_dict, "mine")
    assert load_weights("mine", ARCH).config.origin.startswith("mine;")


@pytest.mark.parametrize("arch", list_archs())
def test_auto_takes_the_best_of_the_table(monkeypatch: pytest.MonkeyPatch, arch: str):
    asked = []

    def fetch(hub_id: str) -> HubFiles:
        asked.append(hub_id)
        raise ValueError("enough")

    monkeypatch.setattr(jaxclf.weights.load, "fetch_weights", fetch)
    with pytest.raises(ValueError, match="enough"):
        load_weights("auto", arch)
    assert asked == [best_weights(arch).hub_id]


# The table.


def test_every_architecture_has_known_weights():
    for arch in list_archs():
        rows = known_weights(arch)
        assert best_weights(arch).top1 == max(row.top1 for row in rows)
        assert all(row.arch == arch for row in rows)
    rows = known_weights()
    assert len({row.hub_id for row in rows}) == len(rows)
    for row in rows:
        assert is_hub_id(row.hub_id)
        assert row.hub_id.startswith(f"timm/{row.arch}.")
        assert 65 < row.top1 < 85
        assert row.test_size in (224, 288, 320)
        assert row.licence in ("Apache-2.0", "BSD-3-Clause")
        assert row.origin


def test_unknown_rows_of_the_table(monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(ValueError, match="unknown architecture 'resnet9'"):
        best_weights("resnet9")
    monkeypatch.setattr("jaxclf.weights.catalogue._ROWS", known_weights("resnet34"))
    with pytest.raises(ValueError, match=r"arch='resnet18'.*--weights none.*resnet34"):
        best_weights("resnet18")


def test_the_best_weights_are_not_just_the_last(monkeypatch: pytest.MonkeyPatch):
    best, *_ = known_weights("resnet34")
    others = tuple(dataclasses.replace(best, hub_id=f"some/{top1}", top1=top1) for top1 in (70.0, 75.0))
    monkeypatch.setattr("jaxclf.weights.catalogue._ROWS", (others[0], best, others[1]))
    assert best_weights("resnet34") == best


def test_bundled_names():
    assert bundled_names() == ("tiny-imagenet",)
