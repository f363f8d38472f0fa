"""`jaxclf weights`: what it lists, what it reads, and a classifier's way back to PyTorch."""

import json

import jax
import numpy as np
import pytest
from commands import fails, run

from jaxclf.config import Settings
from jaxclf.models import create_classifier, init_variables, list_archs
from jaxclf.models.trees import leaf_paths
from jaxclf.run.load import load_run
from jaxclf.run.recipes import two_phase
from jaxclf.run.run import run_recipe
from jaxclf.weights import load_weights, to_state_dict
from jaxclf.weights.files import read_state_dict
from jaxclf.weights.state_dict import adapt_input_channels


@pytest.fixture(scope="module")
def finished(photos, tmp_path_factory):
    out = tmp_path_factory.mktemp("weights") / "run"
    settings = Settings(arch="resnet10t", weights="tiny-imagenet", image_size=32, batch_size=8)
    run_recipe(photos, out, two_phase(settings, epochs=1))
    return out


def test_list_names_every_architecture_and_the_bundled_weights(capsys, monkeypatch):
    assert run("weights", "list") == 0
    printed = capsys.readouterr().out
    assert "tiny-imagenet" in printed
    assert all(f"\n{arch} " in printed for arch in list_archs())
    assert run("weights", "list", "--arch", "resnet50") == 0
    assert "resnet101" not in capsys.readouterr().out
    fails(capsys, "weights", "list", "--arch", "resnet51", mentions=["resnet51", "resnet50"])


def test_show_an_architecture_a_name_and_a_file(capsys, tmp_path, finished):
    assert run("weights", "show", "resnet50") == 0
    assert "25,557,032" in capsys.readouterr().out, "torchvision's own count"
    assert run("weights", "show", "tiny-imagenet") == 0
    printed = capsys.readouterr().out
    assert "non-commercial" in printed and "classes     200" in printed
    (tmp_path / "bad.pth").write_bytes(b"PK\x03\x04 nothing")
    fails(capsys, "weights", "show", tmp_path / "bad.pth", mentions=["bad.pth"])
    fails(capsys, "weights", "show", "resnet5", mentions=["resnet5"])


def test_export_goes_back_bit_for_bit(finished, tmp_path, capsys):
    file = tmp_path / "photos.safetensors"
    assert run("weights", "export", finished, file) == 0
    trained = load_run(finished)
    state_dict = read_state_dict(file)
    assert state_dict["head.fc_pools.weight"].shape == (2, 1024)
    counters = [array for name, array in state_dict.items() if name.endswith("num_batches_tracked")]
    assert counters and all(array.shape == () and array.dtype == np.int64 and array == 0 for array in counters)
    again = load_weights(file, "resnet10t")
    assert again.config.classes == ("green", "red") and again.config.preprocess == trained.spec.preprocess
    pairs = zip(leaf_paths(jax.device_get(trained.variables)), leaf_paths(again.variables), strict=True)
    for (path, a), (other, b) in pairs:
        assert path == other
        np.testing.assert_array_equal(a, b, err_msg=path)
    capsys.readouterr()
    assert run("weights", "show", file) == 0
    assert "fits     resnet10t" in capsys.readouterr().out
    before = file.read_bytes()
    fails(capsys, "weights", "export", finished, file, mentions=[file, "--overwrite"])
    assert file.read_bytes() == before
    assert run("weights", "export", finished, file, "--overwrite") == 0
    fails(capsys, "weights", "export", finished, tmp_path / "a.pth", mentions=[".safetensors"])
    fails(capsys, "weights", "export", finished, tmp_path / "no" / "a.safetensors", mentions=["no does not exist"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["photos.json", "photos.safetensors"]


def test_convert_checks_the_architecture(tmp_path, capsys):
    file = tmp_path / "copy.safetensors"
    assert run("weights", "convert", "tiny-imagenet", file, "--arch", "resnet10t") == 0
    about = json.loads((tmp_path / "copy.json").read_text())
    assert about["arch"] == "resnet10t" and len(about["classes"]) == 200
    first, second = load_weights("tiny-imagenet", "resnet10t"), load_weights(file, "resnet10t")
    for (path, a), (_, b) in zip(leaf_paths(first.variables), leaf_paths(second.variables), strict=True):
        np.testing.assert_array_equal(a, b, err_msg=path)
    other = tmp_path / "other.safetensors"
    fails(capsys, "weights", "convert", "tiny-imagenet", other, "--arch", "resnet18", mentions=["resnet10t"])
    fails(capsys, "weights", "convert", "tiny-imagenet", other, "--arch", "resnet1", mentions=["resnet1"], code=2)
    assert not other.exists()


@pytest.mark.parametrize("arguments", [["weights"], ["weights", "burn"], ["weights", "export", "run"]], ids=" ".join)
def test_wrong_usage(arguments, capsys):
    assert run(*arguments) == 2


def test_other_numbers_of_channels():
    variables = jax.device_get(init_variables(create_classifier("resnet10t", 2), jax.random.key(0), image_size=32))
    picture = np.random.default_rng(0).normal(size=(1, 32, 32, 1)).astype(np.float32)
    grey = np.repeat(picture, 3, -1)

    def logits(in_channels, x):
        model = create_classifier("resnet10t", 2, in_channels=in_channels)
        return model.apply(adapt_input_channels(variables, in_channels), x)

    expected = logits(3, grey)
    np.testing.assert_allclose(logits(1, picture), expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(logits(6, np.repeat(picture, 6, -1)), expected, rtol=1e-4, atol=1e-5)
    assert adapt_input_channels(variables, 3) is variables
    kernel = adapt_input_channels(variables, 5)["params"]["body"]["stem"]["conv1"]["kernel"]
    ours = variables["params"]["body"]["stem"]["conv1"]["kernel"]
    np.testing.assert_allclose(kernel, ours[:, :, [0, 1, 2, 0, 1]] * 0.6, rtol=1e-6)
    with pytest.raises(ValueError, match="in_channels=0"):
        adapt_input_channels(variables, 0)
    assert to_state_dict(variables, "resnet10t")["fc.weight"].shape == (2, 512)
