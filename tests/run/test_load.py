"""The main job: `run_recipe`, the RUN folder, and predicting from it."""

import collections
import dataclasses
import json
import logging
import re
import shutil

import jax
import numpy as np
import pytest
from PIL import Image

import jaxclf
from jaxclf.config import MODULES, Recipe, Settings, from_json
from jaxclf.data.splits import open_data
from jaxclf.inference import predict as inference
from jaxclf.metrics import Predictions, summarize
from jaxclf.models.trees import leaf_paths
from jaxclf.run.checkpoint_file import load_variables, read_metadata
from jaxclf.run.evaluate import evaluate_run
from jaxclf.run.load import load_run
from jaxclf.run.observer import Observer
from jaxclf.run.prepare import resolve_precision
from jaxclf.run.recipes import head_only, two_phase
from jaxclf.run.run import run_recipe

pytestmark = pytest.mark.usefixtures("small10t")
SETTINGS = Settings(arch="small10t", weights="none", image_size=32, batch_size=8, tta_views=0)


@pytest.fixture(scope="module")
def scratch_run(photos, tmp_path_factory):
    """A run from scratch, and what was compiled on the way."""
    out = tmp_path_factory.mktemp("runs") / "deep" / "scratch"
    summary = run_recipe(photos, out, two_phase(SETTINGS, epochs=3, lr=0.02))
    return out, summary


def test_the_run_folder_is_complete(scratch_run, photos):
    out, summary = scratch_run
    assert sorted(path.name for path in out.iterdir()) == [
        "checkpoints", "metrics.jsonl", "predictions.npz", "recipe.json", "records.npz", "request.json", "summary.json",
    ]  # fmt: skip
    assert json.loads((out / "summary.json").read_text()) == summary
    assert summary["classes"] == ["green", "red"] and summary["num_classes"] == 2
    assert (summary["num_train"], summary["num_valid"]) == (26, 11)
    assert [set(step) for step in summary["steps"]] == [
        {"name", "seconds", "loss", "accuracy", "kept", "on_the_way", "held"}
    ]
    assert summary["best"] == "from scratch"
    assert summary["final"] == {"name": "from scratch", "loss": summary["loss"], "accuracy": summary["accuracy"]}
    assert 0 < summary["steps"][0]["seconds"] <= summary["seconds"]
    assert summary["seconds_to_first_step"] > 0
    assert summary["accuracy"] >= 0.9, "red and green are easy"
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    kinds = ["step", "epoch"] * 3  # four steps an epoch; logged are the tenth and the last of each
    assert [row["kind"] for row in rows] == [*kinds[:4], "step", *kinds[4:]]
    assert all(len(row["lrs"]) == 3 for row in rows if row["kind"] == "step")
    assert rows[-1]["valid_loss"] == summary["loss"] and rows[-1]["valid_accuracy"] == summary["accuracy"]
    decided = dataclasses.replace(SETTINGS, bn_frozen=False)  # no pretrained statistics to keep
    assert from_json(Recipe, (out / "recipe.json").read_text()) == two_phase(decided, epochs=3, lr=0.02)
    with np.load(out / "predictions.npz", allow_pickle=False) as saved:
        predictions = Predictions(saved["logits"], saved["labels"], saved["index"])
        assert saved["files"][0] == "green/000.png" and saved["classes"].tolist() == ["green", "red"]
    assert summarize(predictions)["loss"] == summary["loss"]


def test_the_checkpoint_holds_what_a_resume_needs(scratch_run):
    out, summary = scratch_run
    metadata = read_metadata(out / summary["checkpoint"])
    assert metadata["classifier"]["classes"] == ["green", "red"]
    assert metadata["classifier"]["preprocess"]["image_size"] == 32
    assert metadata["progress"] == {
        "phase_number": 0, "phase": "from scratch", "phase_epoch": 3, "epoch": 3, "step": 12, "seed": 0,
    }  # fmt: skip
    record = json.loads((out / summary["checkpoint"] / "_CHECKPOINT_METADATA").read_text())["custom_metadata"]
    parts = record["manifest"]
    assert {path.split("/")[0] for path in parts["variables"]} == {"params", "batch_stats"}
    assert {path.split("/")[0] for path in parts["training"]} == {"step", "opt_state", "failed_at"}
    assert sum("trace" in path for path in parts["training"]) == sum("params" in path for path in parts["variables"])


def test_evaluate_gives_the_same_figures(scratch_run, photos):
    out, summary = scratch_run
    result = evaluate_run(load_run(out), photos)
    assert result["loss"] == pytest.approx(summary["loss"], abs=1e-6)
    assert result["accuracy"] == summary["accuracy"] and result["num_examples"] == 11
    assert "11 validation pictures" in result["examples"]
    train = evaluate_run(load_run(out), photos, "train")
    assert train["num_examples"] == 26 and train["loss"] != result["loss"]


def test_predicting_a_path_an_image_and_an_array(scratch_run, photos):
    out, _ = scratch_run
    run = load_run(out)
    path = photos / "valid" / "red" / "000.png"
    with np.load(out / "predictions.npz") as saved:
        row = saved["files"].tolist().index("red/000.png")
        expected = np.exp(saved["logits"][row]) / np.exp(saved["logits"][row]).sum()
    image = Image.open(path)
    for picture in (path, str(path), image, np.asarray(image)):
        prediction = run.predict(picture)
        np.testing.assert_allclose(prediction.probabilities, expected, atol=1e-5)
        assert prediction.label == "red" and prediction.probability == prediction.probabilities.max()


def test_streams_of_any_length_agree_with_single_pictures(scratch_run, photos):
    run = load_run(scratch_run[0])
    paths = sorted((photos / "valid").rglob("*.png"))
    single = [run.predict(path).probability for path in paths]
    for batch_size in (4, 11, 32):
        stream = run.predict_pixels((run.pixels(path) for path in paths), batch_size=batch_size)
        np.testing.assert_allclose([p.probability for p in stream], single, atol=1e-5)
    assert list(run.predict_pixels([])) == []


def test_same_seed_same_run_to_the_bit(scratch_run, photos, tmp_path):
    out, summary = scratch_run
    again = run_recipe(photos, tmp_path / "again", two_phase(SETTINGS, epochs=3, lr=0.02))
    assert (tmp_path / "again" / "metrics.jsonl").read_text() == (out / "metrics.jsonl").read_text()
    assert (again["loss"], again["accuracy"]) == (summary["loss"], summary["accuracy"])
    pairs = zip(
        leaf_paths(load_variables(out / summary["checkpoint"])),
        leaf_paths(load_variables(tmp_path / "again" / again["checkpoint"])),
        strict=True,
    )
    for (path, a), (_, b) in pairs:
        np.testing.assert_array_equal(a, b, err_msg=path)
    other = run_recipe(photos, tmp_path / "other", two_phase(Settings(**{**SETTINGS.__dict__, "seed": 1}), epochs=3))
    assert other["loss"] != summary["loss"]


def test_two_phases_with_pretrained_weights(photos, weights_file, tmp_path, caplog):
    """The head first, on a body that stays the file's to the bit, then everything; one compile a step and phase."""
    settings = Settings(**{**SETTINGS.__dict__, "weights": str(weights_file), "bn_frozen": False, "head": "linear"})
    recipe = two_phase(settings, epochs=1)
    notes = []

    class Notes(Observer):
        def note(self, text):
            notes.append(text)

    inference._predict_step.cache_clear()  # an earlier test may have compiled it
    with jax.log_compiles(), caplog.at_level(logging.WARNING):
        summary = run_recipe(photos, tmp_path / "run", recipe, observer=Notes())
    compiled = collections.Counter(re.findall(r"Compiling jit\((\w+)\)", caplog.text))
    # Predicted from pictures, and from activations while the body is frozen.
    assert (compiled["train_step"], compiled["predict_step"]) == (2, 2), compiled
    assert [step["name"] for step in summary["steps"]] == ["head", "all layers"]
    assert any("pretrained" in note and "seven.safetensors" in note for note in notes)

    pretrained = jaxclf.load_weights(str(weights_file), "small10t").variables
    after_head = load_variables(tmp_path / "run" / "checkpoints" / "phase1")
    after_all = load_variables(tmp_path / "run" / "checkpoints" / "phase2")
    for tree in ("params", "batch_stats"):
        body = dict(leaf_paths(pretrained[tree]["body"]))
        for path, leaf in leaf_paths(after_head[tree]["body"]):
            np.testing.assert_array_equal(leaf, body[path], err_msg=path)
        assert all((leaf != body[path]).any() for path, leaf in leaf_paths(after_all[tree]["body"]))
    assert after_head["params"]["head"]["fc"]["kernel"].shape == (32, 2)


def test_from_scratch_says_so_and_freezes_nothing(scratch_run, photos, tmp_path):
    recipe = two_phase(SETTINGS)
    assert [phase.frozen for phase in recipe.phases] == [()]
    assert len(set(recipe.phases[0].lrs)) == 1
    with pytest.raises(ValueError, match="head-only"):
        head_only(SETTINGS)


def test_pretrained_recipes_have_the_stated_phases():
    recipe = two_phase(Settings(), lr=0.5)
    assert [phase.frozen for phase in recipe.phases] == [MODULES[:5], ()]
    assert all(phase.lrs == (0.005, 0.05, 0.5) for phase in recipe.phases)
    assert [phase.num_epochs for phase in recipe.phases] == [2, 7]
    assert [phase.num_epochs for phase in two_phase(Settings(), epochs=5).phases] == [2, 5]
    assert [phase.frozen for phase in head_only(Settings(), epochs=4).phases] == [MODULES[:5]]


def test_a_recipe_file_repeats_a_run(scratch_run, photos, tmp_path):
    out, summary = scratch_run
    recipe = from_json(Recipe, (out / "recipe.json").read_text())
    assert run_recipe(photos, tmp_path / "again", recipe)["loss"] == summary["loss"]


@pytest.fixture(scope="module")
def flat_run(tmp_path_factory):
    from conftest import write_class_folders

    root = tmp_path_factory.mktemp("flat")
    data = write_class_folders(root / "data", {"red": 12, "green": 12})
    return data, root / "run", run_recipe(data, root / "run", two_phase(SETTINGS, epochs=1))


def test_a_drawn_split_is_found_again_and_new_data_is_taken_whole(flat_run, tmp_path):
    from conftest import write_class_folders

    data, out, summary = flat_run
    run = load_run(out)
    assert summary["data"]["layout"] == "drawn" and summary["num_valid"] == 4
    again = evaluate_run(run, data)
    assert again["loss"] == pytest.approx(summary["loss"], abs=1e-6) and again["num_examples"] == 4
    shutil.copytree(data, tmp_path / "copy")
    assert evaluate_run(run, tmp_path / "copy")["num_examples"] == 4
    assert evaluate_run(run, data, "all")["num_examples"] == 24
    new = write_class_folders(tmp_path / "new", {"red": 1, "green": 2})
    result = evaluate_run(run, new)
    assert result["num_examples"] == 3 and result["examples"] == "all 3 pictures"
    only_red = write_class_folders(tmp_path / "only", {"red": 3})
    assert evaluate_run(run, only_red)["num_examples"] == 3
    strange = write_class_folders(tmp_path / "strange", {"red": 1, "blue": 2})
    with pytest.raises(ValueError, match=r"strange/blue is a class that training does not have"):
        evaluate_run(run, strange)


def test_evaluation_maps_classes_by_name_not_by_position(scratch_run, photos, tmp_path):
    """A folder that lacks the first class: its only class is number 0 there, number 1 in the run."""
    shutil.copytree(photos / "valid" / "red", tmp_path / "data" / "red")
    result = evaluate_run(load_run(scratch_run[0]), tmp_path / "data")
    splits = open_data(photos)
    assert splits.valid.classes == ("green", "red")
    assert result["accuracy"] >= 0.8


def test_runs_that_cannot_be_used_are_named(scratch_run, tmp_path):
    out, summary = scratch_run

    def refused(folder, match):
        with pytest.raises(ValueError, match=match) as error:
            load_run(folder)
        assert str(folder) in str(error.value)

    refused(tmp_path / "nowhere", "does not exist")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "is not a run")
    copy = shutil.copytree(out, tmp_path / "copy")
    (copy / "summary.json").write_text("{")
    refused(copy, "damaged")
    (copy / "summary.json").write_text("{}")
    refused(copy, "damaged")
    (copy / "summary.json").unlink()
    refused(copy, "did not finish")
    shutil.copy(out / "summary.json", copy)
    (copy / "recipe.json").write_text('{"arch": 3}')
    refused(copy, "damaged")
    shutil.copy(out / "recipe.json", copy)
    shutil.rmtree(copy / summary["checkpoint"])
    refused(copy, "checkpoint")


def test_precision_is_resolved_by_the_device():
    assert resolve_precision("auto") == ("float32" if jax.default_backend() == "cpu" else "bfloat16")
    assert resolve_precision("bfloat16") == "bfloat16"


def test_bfloat16_and_concat_head_run_too(photos, tmp_path):
    settings = Settings(**{**SETTINGS.__dict__, "precision": "bfloat16", "head": "concat", "optimizer": "adamw"})
    summary = run_recipe(photos, tmp_path / "run", two_phase(settings, epochs=1, lr=0.001))
    run = load_run(tmp_path / "run")
    assert summary["precision"] == "bfloat16"
    assert all(leaf.dtype == np.float32 for _, leaf in leaf_paths(run.variables))
    assert evaluate_run(run, photos)["loss"] == pytest.approx(summary["loss"], abs=1e-6)
