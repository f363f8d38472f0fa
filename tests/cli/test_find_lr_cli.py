"""`jaxclf find-lr`: what it prints and writes, and how it fails."""

import json
import shutil

import jax
import numpy as np
import pytest
from commands import FAST, fails, run, snapshot
from PIL import Image

from jaxclf.config import MODULES
from jaxclf.run.load import load_run
from jaxclf.training import lr_finder
from jaxclf.training.lr_curve import RULES, LRCurve, growing_lrs, suggestions

pytestmark = pytest.mark.usefixtures("small10t")
NET = FAST[:-2]  # without the epochs
SHORT = ["--steps", "20", "--high", "0.1", "--frozen", "stage4"]  # a frozen body compiles in no time


@pytest.fixture(scope="module")
def found(photos, tmp_path_factory):
    out = tmp_path_factory.mktemp("find") / "new" / "folder"
    before = snapshot(photos)
    assert run("find-lr", photos, "--out", out, *NET, *SHORT) == 0
    assert snapshot(photos) == before
    return out


def read(out) -> dict:
    return json.loads((out / "lr_curve.json").read_text())


def test_it_writes_the_curve_and_a_picture_of_it(found, photos):
    assert sorted(path.name for path in found.iterdir()) == ["lr_curve.json", "lr_curve.png"]
    data = read(found)
    np.testing.assert_allclose(data["lrs"], growing_lrs(1e-6, 0.1, 20))
    np.testing.assert_allclose(data["group_lrs"], np.transpose([data["lrs"]] * 3))  # from scratch: all at one rate
    assert data["reason"] == "completed" and data["num_steps"] == 20 and data["frozen"] == "stage4"
    assert data["settings"]["arch"] == "small10t" and data["data"] == str(photos) and data["run"] is None
    arrays = (np.array(data[name]) for name in ("lrs", "losses", "smoothed"))
    again = suggestions(LRCurve(*arrays, data["reason"], None, data["num_steps"]))
    assert data["suggestions"] == {rule: {"lr": s.lr, "reason": s.reason} for rule, s in again.items()}
    with Image.open(found / "lr_curve.png") as picture:
        assert min(picture.size) > 300 and len(set(picture.convert("L").tobytes())) > 10


def test_it_prints_every_rule_and_repeats_itself_to_the_bit(found, photos, tmp_path, capsys):
    assert run("find-lr", photos, "--out", tmp_path, *NET, *SHORT, "--rule", "minimum") == 0
    printed = capsys.readouterr().out
    assert "20 of 20 steps: completed" in printed
    for rule, suggestion in read(found)["suggestions"].items():
        row = next(line for line in printed.splitlines() if line.startswith(f"│ {rule} "))
        assert ("-" if suggestion["lr"] is None else f"{suggestion['lr']:.2g}") in row
    assert "rule minimum suggests" in printed
    assert f"wrote {tmp_path / 'lr_curve.json'}" in printed and f"wrote {tmp_path / 'lr_curve.png'}" in printed
    assert {**read(tmp_path), "rule": "valley"} == read(found)


def test_from_a_run_with_a_frozen_body(photos, tmp_path, capsys, monkeypatch):
    """The run's network and settings, into the run's folder; the run itself stays as it was."""
    calls, original = [], lr_finder.find_lr
    monkeypatch.setattr(
        lr_finder, "find_lr", lambda *args, **kwargs: (calls.append((args, kwargs)), original(*args, **kwargs))[1]
    )
    out = tmp_path / "run"
    assert run("fit", photos, "--out", out, *FAST) == 0
    before = snapshot(out)
    capsys.readouterr()
    assert run("find-lr", photos, "--run", out, *SHORT) == 0
    printed = capsys.readouterr().out
    assert f"small10t as trained in {out}, on 26 training pictures" in printed
    after = snapshot(out)
    written = {out / "lr_curve.json", out / "lr_curve.png"}
    assert set(after) - set(before) == written
    assert {path: content for path, content in after.items() if path not in written} == before
    data = read(out)
    assert data["frozen"] == "stage4" and data["run"] == str(out) and data["settings"]["image_size"] == 32
    (_, variables, loader), options = calls[0]
    trained = load_run(out)
    for ours, theirs in zip(jax.tree.leaves(variables), jax.tree.leaves(trained.variables), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert (
        loader.batch_size == 8 and options["settings"] == trained.recipe.settings and options["frozen"] == MODULES[:5]
    )
    fails(capsys, "find-lr", photos, "--run", out, "--seed", "1", mentions=["brings its own settings"], code=2)


def test_settings_of_the_data_reach_the_loader(photos, tmp_path, capsys, monkeypatch):
    """--cache, --sampling and --on-bad-image, from flags and from a run alike."""
    seen = []

    def find_lr(model, variables, loader, **options):
        seen.append(loader)
        raise ValueError("enough seen")

    monkeypatch.setattr(lr_finder, "find_lr", find_lr)
    shutil.copytree(photos, tmp_path / "photos")
    bad = sorted((tmp_path / "photos" / "train" / "red").iterdir())[3]
    bad.write_bytes(b"nothing")
    flags = ["--cache", "none", "--sampling", "balanced"]
    command = ["find-lr", tmp_path / "photos", "--out", tmp_path / "out", *NET, *flags]
    fails(capsys, *command, mentions=[bad.name])
    assert seen == []
    assert run(*command, "--on-bad-image", "skip") == 1
    captured = capsys.readouterr()
    assert "skipped: " in captured.out and bad.name in captured.out and "enough seen" in captured.err
    (loader,) = seen
    assert loader.cache == "none" and loader.sampling == "balanced" and len(loader.kept) == 25
    assert loader.train and loader.presized and loader.seed == 0 and loader.batch_size == 8


@pytest.mark.parametrize(
    ("arguments", "mentions"),
    [
        (["--steps", "19"], ["--steps 19", "at least 20"]),
        (["--low", "1", "--high", "0.1"], ["low=1.0 and high=0.1"]),
        (["--arch", "resnet19"], ["resnet19"]),
    ],
)
def test_values_that_make_no_sense_are_wrong_usage(photos, tmp_path, capsys, arguments, mentions):
    fails(capsys, "find-lr", photos, "--out", tmp_path / "new", *NET, *arguments, mentions=mentions, code=2)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("arguments", [[], ["photos", "--frozen", "head"], ["photos", "--rule", "best"]], ids=" ".join)
def test_wrong_usage_is_exit_code_two(arguments, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run("find-lr", *arguments) == 2
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_work_is_exit_code_one(photos, tmp_path, capsys):
    missing = tmp_path / "missing"
    fails(capsys, "find-lr", missing, "--out", tmp_path / "new", *NET, mentions=["missing does not exist"])
    fails(capsys, "find-lr", photos, "--run", missing, mentions=["missing does not exist"])
    fails(capsys, "find-lr", photos, "--out", photos / "new", *NET, mentions=["inside the data"])
    (tmp_path / "file").write_text("mine")
    fails(capsys, "find-lr", photos, "--out", tmp_path / "file", *NET, mentions=["is a file"])
    assert [path.name for path in tmp_path.iterdir()] == ["file"] and not (photos / "new").exists()


def test_help_explains_itself(capsys):
    assert run("find-lr", "--help") == 0
    printed = capsys.readouterr().out
    assert "Example: jaxclf find-lr" in printed and "default" in printed
    assert all(rule in printed for rule in RULES)
