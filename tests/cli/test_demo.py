"""`jaxclf demo`: a small one always, the real one among the slow tests."""

import dataclasses
import json

import pytest
from commands import run

from jaxclf.cli import demo
from jaxclf.run import rates
from jaxclf.training.lr_finder import RateRange


@pytest.fixture
def small(monkeypatch, small10t, weights_file):
    """A demo of forty drawings, one epoch a phase, and a thin network."""
    recipe = demo.demo_recipe

    def short(seed):
        full = recipe(seed)
        phases = tuple(dataclasses.replace(each, num_cycles=1, cycle_epochs=1) for each in full.phases)
        settings = dataclasses.replace(
            full.settings, arch=small10t, weights=str(weights_file), image_size=32, batch_size=8
        )
        return dataclasses.replace(full, settings=settings, phases=phases)

    monkeypatch.setattr(demo, "demo_recipe", short)
    monkeypatch.setattr(rates, "finder_range", lambda *args, **options: RateRange(1e-5, 10.0, 20))
    monkeypatch.setattr(rates, "worth_a_test", lambda *args: True)
    monkeypatch.setattr(demo, "NUM_TRAIN", 40)
    monkeypatch.setattr(demo, "NUM_VALID", 20)


def test_it_draws_trains_and_shows(small, tmp_path, capsys):
    out = tmp_path / "demo"
    assert run("demo", "--out", out) == 0
    printed = capsys.readouterr().out
    assert "training on 40 pictures (cat 20, dog 20); 20 for validation" in printed
    assert "confusion matrix" in printed and "accuracy" in printed
    for name in ("recipe.json", "predictions.npz", "lr_curves.json", "report.html", "summary.json"):
        assert f"wrote {out / 'run' / name}" in printed
    hint = next(line for line in printed.splitlines() if line.startswith("try it: jaxclf predict "))
    assert run(*hint.removeprefix("try it: jaxclf ").split()) == 0
    assert len(capsys.readouterr().out.splitlines()) == 10  # the cats held back

    drawing = next((out / "drawings-0" / "train" / "cat").iterdir())
    before = drawing.stat().st_mtime_ns
    assert run("demo", "--out", out) == 0, "a second demo replaces the first"
    assert drawing.stat().st_mtime_ns == before, "and reuses its drawings"


def test_it_does_not_touch_what_is_not_its_own(small, tmp_path, capsys):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.tex").write_text("precious")
    assert run("demo", "--out", tmp_path) == 1
    assert "thesis.tex" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


@pytest.mark.slow
def test_the_real_demo_reaches_its_accuracy(tmp_path):
    assert run("demo", "--out", tmp_path / "demo") == 0
    summary = json.loads((tmp_path / "demo" / "run" / "summary.json").read_text())
    assert summary["num_valid"] == 200 and summary["accuracy"] >= 0.97
