"""The data's own test part: looked at before training, judged after it, and never in the way of the run."""

import csv
import io
import json

import numpy as np
import pytest
from conftest import count_decoded, write_class_folders
from notes import Notes

from jaxclf.config import Phase, Recipe, Settings
from jaxclf.data.sources import ArrayDataset
from jaxclf.metrics import Predictions
from jaxclf.run import run as run_module
from jaxclf.run import summary as summary_module
from jaxclf.run.folder import SUBMISSION, SUMMARY
from jaxclf.run.recipes import BODY
from jaxclf.run.run import run_recipe

pytestmark = pytest.mark.usefixtures("small10t")
SETTINGS = {"arch": "small10t", "weights": "none", "image_size": 32, "batch_size": 8, "tta_views": 0}


def recipe(**settings):
    return Recipe(Settings(**(SETTINGS | settings)), (Phase("head", lrs=(0.02,), frozen=BODY, augment="none"),))


def write_data(root):
    """DATA with ten pictures to train on, four to validate with and six to test with."""
    write_class_folders(root / "train", {"red": 5, "green": 5})
    write_class_folders(root / "valid", {"red": 2, "green": 2}, seed=1)
    write_class_folders(root / "test", {"red": 3, "green": 3}, seed=2)
    return root


@pytest.fixture
def data(tmp_path):
    return write_data(tmp_path / "photos")


@pytest.fixture(scope="module")
def whole(small10t, tmp_path_factory):
    """The summary of a run on undamaged data, its pictures, and those that were decoded."""
    folder = tmp_path_factory.mktemp("whole")
    root = write_data(folder / "photos")
    with pytest.MonkeyPatch.context() as patch:
        calls = count_decoded(patch)
        summary = run_recipe(root, folder / "run", recipe())
    return summary, sorted(root.rglob("*.png")), sorted(calls)


def test_a_damaged_test_picture_is_met_before_training(data, tmp_path):
    (data / "test" / "red" / "001.png").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"test.red.001\.png.*a test picture.*--on-bad-image skip"):
        run_recipe(data, tmp_path / "run", recipe())
    assert not (tmp_path / "run").exists()


def test_every_picture_is_decoded_once(whole):
    summary, pictures, decoded = whole
    assert decoded == pictures and len(pictures) == 20 and summary["test"]["num_examples"] == 6


def test_skipping_leaves_it_out_of_the_test_and_lists_it(whole, data, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (data / "test" / "red" / "001.png").write_bytes(b"nothing")
    summary = run_recipe(data, tmp_path / "run", recipe(on_bad_image="skip", cache="disk"))
    assert [picture["name"] for picture in summary["skipped_images"]["test"]] == ["red/001.png"]
    assert summary["test"]["num_examples"] == 5 and summary["num_train"] == 10
    assert summary["loss"] == whole[0]["loss"]


def test_a_skipped_picture_without_a_label_has_an_empty_line(data, tmp_path):
    for number, path in enumerate(sorted((data / "test").rglob("*.png"))):
        path.rename(data / "test" / f"{number}.png")
    for name in ("red", "green"):
        (data / "test" / name).rmdir()
    (data / "test" / "2.png").write_bytes(b"nothing")
    summary = run_recipe(data, tmp_path / "run", recipe(on_bad_image="skip"))
    assert summary["test"] is None and "test_error" not in summary
    assert [picture["name"] for picture in summary["skipped_images"]["test"]] == ["2.png"]
    rows = list(csv.reader(io.StringIO((tmp_path / "run" / SUBMISSION).read_text())))
    assert [row[0] for row in rows] == ["file", *(f"{number}.png" for number in range(6))]
    assert [number for number, row in enumerate(rows) if "" in row] == [3] and rows[3][1:] == ["", "", ""]


def test_the_lines_of_a_submission_are_the_sources_pictures():
    source = ArrayDataset(np.zeros((3, 4, 4, 3), np.uint8), [0, 0, 0], classes=("a", "b"))
    predictions = Predictions(np.array([[9.0, 0.0], [0.0, 9.0]]), np.array([-1, -1]), np.array([0, 2]))
    lines = summary_module._submission(predictions, source).splitlines()
    assert lines == ["file,label,a,b", "0,a,0.999877,0.000123", "1,,,", "2,b,0.000123,0.999877"]


def test_a_change_of_the_test_part_alone_does_not_refuse_a_resume(data, tmp_path, monkeypatch):
    """One picture removed, one mended, when all phases had ended; one of training then is refused as ever."""
    out, red = tmp_path / "run", data / "test" / "red"
    with monkeypatch.context() as patch:
        patch.setattr(run_module, "finish", lambda *_: (_ for _ in ()).throw(OSError("the disk is gone")))
        with pytest.raises(ValueError, match="the disk is gone"):
            run_recipe(data, out, recipe())
    (red / "000.png").unlink()
    (red / "001.png").write_bytes((red / "002.png").read_bytes())
    picture = data / "train" / "red" / "000.png"
    before = picture.read_bytes()
    picture.write_bytes((red / "002.png").read_bytes())
    with pytest.raises(ValueError, match=r"contents: train/red/000\.png") as error:
        run_recipe(data, out, recipe(), resume=True)
    assert "test/" not in str(error.value)
    picture.write_bytes(before)
    observer = Notes()
    summary = run_recipe(data, out, recipe(), resume=True, observer=observer)
    assert summary["test"]["num_examples"] == 5
    (said,) = [note for note in observer.notes if "the test part has changed" in note]
    assert "1 pictures are gone: test/red/000.png" in said and "other contents: test/red/001.png" in said


def test_what_fails_in_judging_the_test_part_does_not_cost_the_run(data, tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise RuntimeError("out of paper")

    monkeypatch.setattr(summary_module, "predict", fail)
    observer = Notes()
    summary = run_recipe(data, tmp_path / "run", recipe(), observer=observer)
    assert summary == json.loads((tmp_path / "run" / SUMMARY).read_text())
    assert summary["test"] is None and summary["test_error"] == "RuntimeError: out of paper"
    assert any("out of paper" in note and "jaxclf evaluate" in note for note in observer.notes)
