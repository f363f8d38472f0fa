"""A run whose head is solved, from the command line to the exported file: there is no step to be read of anywhere."""

import json

import numpy as np
import pytest
from commands import run

import jaxclf
from jaxclf import plots
from jaxclf.run.load import load_run

pytestmark = pytest.mark.usefixtures("small10t")


@pytest.fixture(scope="module")
def flags(weights_file):
    return ["--arch", "small10t", "--weights", str(weights_file), "--image-size", "32", "--recipe", "head-only"]


@pytest.fixture(scope="module")
def solved(photos, flags, tmp_path_factory):
    out = tmp_path_factory.mktemp("solved") / "run"
    assert run("fit", photos, "--out", out, "--tta-views", "1", *flags) == 0
    return out


def test_its_folder_has_a_solution_and_no_steps(solved):
    assert [row["kind"] for row in plots.read_rows(solved)] == ["solve"]
    summary = json.loads((solved / "summary.json").read_text())
    assert [step["name"] for step in summary["steps"]] == ["head, precomputed", "test-time augmentation"]
    assert summary["rates"] == [] and summary["accuracy"] == 1.0
    settings = json.loads((solved / "recipe.json").read_text())["settings"]
    assert (settings["head"], settings["batch_size"], settings["bn_frozen"]) == ("pools", 16, True)


def test_its_curves_say_that_there_are_none(solved):
    rows = plots.read_rows(solved)
    for plot in (plots.plot_rates, plots.plot_losses, plots.plot_epochs):
        with pytest.raises(ValueError, match="there are no rows of kind '(step|epoch)' to plot"):
            plot(rows)


def test_every_command_takes_it(solved, photos, flags, tmp_path, capsys):
    page = (solved / "report.html").read_text()
    assert "head, precomputed" in page and "epochs-loss" not in page and "step-rates" not in page
    assert run("evaluate", solved, photos) == 0 and "accuracy 1.0000" in capsys.readouterr().out
    assert run("predict", solved, photos / "valid" / "red") == 0
    assert capsys.readouterr().out.count(" red ") == 5
    assert run("fit", photos, "--out", tmp_path / "plan", *flags, "--plan") == 0
    assert "solved" in capsys.readouterr().out and not (tmp_path / "plan").exists()
    assert run("fit", photos, "--out", solved, "--tta-views", "1", *flags, "--resume") == 0
    assert "nothing to resume" in capsys.readouterr().out
    assert run("weights", "export", solved, tmp_path / "out.safetensors") == 0
    assert run("fit", photos, "--out", tmp_path / "again", "--recipe", solved / "recipe.json") == 0
    assert (tmp_path / "again" / "metrics.jsonl").read_text() == (solved / "metrics.jsonl").read_text()


def test_an_exported_run_gives_the_run_s_probabilities(solved, photos, tmp_path):
    assert run("export", solved, tmp_path / "run.jaxclf") == 0
    exported, trained = jaxclf.load_exported(tmp_path / "run.jaxclf"), load_run(solved)
    pictures = sorted((photos / "valid").rglob("*.png"))
    images = np.stack([trained.pixels(path) for path in pictures])
    expected = [trained.predict(path).probabilities for path in pictures]
    np.testing.assert_allclose(exported.probabilities(images), expected, atol=1e-5)
