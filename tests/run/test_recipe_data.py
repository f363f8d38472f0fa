"""Runs on every kind of data: CSV and zip, several labels, unreadable pictures, divergence."""

import csv
import io
import json
import zipfile

import numpy as np
import pytest
from conftest import count_decoded, write_class_folders
from PIL import Image

from jaxclf.cli import main
from jaxclf.config import Phase, Recipe, Settings
from jaxclf.run.evaluate import evaluate_run
from jaxclf.run.folder import CHECKPOINTS
from jaxclf.run.load import load_run
from jaxclf.run.run import run_recipe

pytestmark = pytest.mark.usefixtures("small10t")
SETTINGS = {"arch": "small10t", "weights": "none", "image_size": 32, "batch_size": 8, "tta_views": 0}


def recipe(*, phases=None, **settings):
    phases = phases or (Phase("all", lrs=(0.02,), augment="none"),)
    return Recipe(Settings(**(SETTINGS | settings)), phases)


COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (30, 40, 220)}


def write_table(root, count=36):
    """Pictures with a left and a right colour; their labels are both colours."""
    generator = np.random.default_rng(0)
    names = list(COLOURS)
    root.mkdir()
    with open(root / "data.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "label", "split"])
        for number in range(count):
            left, right = generator.choice(3, 2)
            picture = generator.integers(-20, 20, (36, 36, 3)) + np.array(COLOURS[names[left]])
            picture[:, 18:] += np.array(COLOURS[names[right]]) - np.array(COLOURS[names[left]])
            Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8)).save(root / f"{number}.png")
            labels = "|".join(sorted({names[left], names[right]}))
            writer.writerow([f"{number}.png", labels, "valid" if number % 4 == 0 else "train"])
    return root / "data.csv"


@pytest.fixture(scope="module")
def several(tmp_path_factory):
    """A run on a table of pictures with several labels."""
    root = tmp_path_factory.mktemp("several")
    table = write_table(root / "data")
    phases = (Phase("all", lrs=(0.05,), augment="none", cycle_epochs=12),)
    summary = run_recipe(table, root / "run", recipe(loss="sigmoid", phases=phases))
    return table, root / "run", summary


def test_several_labels_are_learned_evaluated_and_predicted(several, capsys):
    table, out, summary = several
    assert summary["num_train"] == 27 and summary["num_valid"] == 9
    assert summary["loss"] < 0.6 and summary["accuracy"] > 0.7  # ln 2 and about 0.6 without learning
    assert summary["best_threshold"]["f_beta"] >= summary["f_beta"] > 0
    result = evaluate_run(load_run(out), table)
    for name in ("loss", "accuracy", "f_beta"):
        assert result[name] == pytest.approx(summary[name], abs=1e-6)
    run = load_run(out)
    prediction = run.predict(table.parent / "1.png")
    assert prediction.labels == tuple(np.array(run.classes)[prediction.probabilities >= 0.5])
    assert prediction.label == "|".join(prediction.labels)
    assert abs(prediction.probabilities.sum() - 1) > 1e-3  # each label by itself
    for form in ("json", "csv", "table"):
        with pytest.raises(SystemExit) as end:
            main(["predict", str(out), str(table.parent / "1.png"), "--format", form, "--top", "3"])
        assert end.value.code == 0
        printed = capsys.readouterr().out
        assert all(name in printed for name in run.classes)
        if form == "json":
            (row,) = json.loads(printed)
            assert row["label"] == prediction.label and len(row["top"]) == 3


def test_a_loss_that_does_not_fit_the_labels_names_the_one_that_does(several, photos, tmp_path):
    table, _, _ = several
    with pytest.raises(ValueError, match="--loss sigmoid"):
        run_recipe(table, tmp_path / "run", recipe())
    with pytest.raises(ValueError, match="--loss softmax"):
        run_recipe(photos, tmp_path / "run", recipe(loss="sigmoid"))
    assert not (tmp_path / "run").exists()


@pytest.fixture
def damaged(tmp_path):
    """Two training pictures cannot be read."""
    root = tmp_path / "photos"
    write_class_folders(root / "train", {"red": 9, "green": 9})
    write_class_folders(root / "valid", {"red": 3, "green": 3}, seed=1)
    (root / "train" / "red" / "003.png").write_bytes(b"")
    (root / "train" / "green" / "001.png").write_bytes(b"nothing")
    return root


def test_unreadable_pictures_are_skipped_and_listed(damaged, tmp_path, capsys):
    with pytest.raises(ValueError, match=r"001\.png"):
        run_recipe(damaged, tmp_path / "run", recipe())
    assert not (tmp_path / "run").exists()
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in SETTINGS.items()]
    with pytest.raises(SystemExit) as end:
        main(["fit", str(damaged), "--out", str(tmp_path / "run"), *flags, "--epochs", "1", "--on-bad-image", "skip"])
    assert end.value.code == 0
    printed = capsys.readouterr().out
    assert printed.count("skipped in train") == 2
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["num_train"] == 16 and summary["num_valid"] == 6
    names = [picture["name"] for picture in summary["skipped_images"]["train"]]
    assert names == ["green/001.png", "red/003.png"] and summary["skipped_images"]["valid"] == []


def test_skipping_is_refused_for_validation_unless_asked(damaged, tmp_path, capsys):
    (damaged / "valid" / "red" / "001.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"valid.red.001\.png.*--on-bad-valid-image skip"):
        run_recipe(damaged, tmp_path / "run", recipe(on_bad_image="skip"))
    both = recipe(on_bad_image="skip", on_bad_valid_image="skip")
    summary = run_recipe(damaged, tmp_path / "run", both)
    assert summary["num_valid"] == 5 and summary["skipped_images"]["valid"][0]["name"] == "red/001.png"
    with pytest.raises(ValueError, match=r"001\.png"):
        evaluate_run(load_run(tmp_path / "run"), damaged)
    with pytest.raises(SystemExit) as end:
        main(["evaluate", str(tmp_path / "run"), str(damaged), "--on-bad-image", "skip", "--format", "json"])
    captured = capsys.readouterr()
    assert end.value.code == 0 and "001.png" in captured.err
    result = json.loads(captured.out)
    assert result["loss"] == pytest.approx(summary["loss"], abs=1e-6) and len(result["skipped"]) == 1


def test_a_class_without_a_readable_picture_is_named(tmp_path):
    root = write_class_folders(tmp_path / "photos", {"red": 6, "green": 6, "blue": 6})
    for path in (root / "blue").iterdir():
        path.write_bytes(b"")
    settings = recipe(on_bad_image="skip", on_bad_valid_image="skip")
    with pytest.raises(ValueError, match="'blue'"):
        run_recipe(root, tmp_path / "run", settings)


def test_a_zip_trains_as_its_folder_does(photos, tmp_path):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for path in sorted(photos.rglob("*.png")):
            archive.write(path, path.relative_to(photos).as_posix())
    (tmp_path / "photos.zip").write_bytes(buffer.getvalue())
    runs = [
        run_recipe(data, tmp_path / name, recipe()) for data, name in ((photos, "a"), (tmp_path / "photos.zip", "b"))
    ]
    assert runs[0]["loss"] == runs[1]["loss"]


def test_the_disk_cache_changes_nothing_and_is_found_again(photos, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    memory = run_recipe(photos, tmp_path / "memory", recipe(cache="memory"))
    disk = run_recipe(photos, tmp_path / "disk", recipe(cache="disk"))
    assert memory["loss"] == disk["loss"]
    assert len(list((tmp_path / "cache" / "jaxclf" / "pictures").iterdir())) == 2

    calls = count_decoded(monkeypatch)
    assert run_recipe(photos, tmp_path / "again", recipe(cache="disk"))["loss"] == memory["loss"]
    assert calls == []


def test_divergence_names_step_rates_and_the_last_good_checkpoint(photos, tmp_path):
    fine, wild = (Phase(name, lrs=(lr,), augment="none") for name, lr in (("fine", 0.01), ("wild", 1e15)))
    with pytest.raises(ValueError, match=r"step \d+ of phase 'wild'.*e\+14.*phase1"):
        run_recipe(photos, tmp_path / "run", recipe(phases=(fine, wild)))
    with pytest.raises(ValueError, match="No checkpoint was written yet"):
        run_recipe(photos, tmp_path / "other", recipe(phases=(wild,)))


def test_the_best_epoch_is_kept_and_the_last_snapshots_of_cycle_ends(tmp_path):
    """What is red in training is called green in validation, so learning more makes it worse."""
    photos = write_class_folders(tmp_path / "photos" / "train", {"red": 14, "green": 12}).parent
    write_class_folders(photos / "valid", {"green": 5, "red": 6}, seed=1)
    phases = (Phase("all", lrs=(0.02,), augment="none", num_cycles=6, keep_best=True),)
    summary = run_recipe(photos, tmp_path / "run", recipe(phases=phases))
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    losses = [row["valid_loss"] for row in rows if row["kind"] == "epoch"]
    assert summary["loss"] == min(losses) < losses[-1]
    assert evaluate_run(load_run(tmp_path / "run"), photos)["loss"] == pytest.approx(min(losses), abs=1e-6)
    names = sorted(path.name for path in (tmp_path / "run" / CHECKPOINTS).iterdir())
    assert names == ["phase1", "phase1-epoch1", "phase1-epoch3", "phase1-epoch4", "phase1-epoch5"]
