"""`jaxclf sweep` and its picture: what they print, write and draw, and how they fail."""

import dataclasses
import json
import shlex
import shutil

import numpy as np
import pytest
from commands import FAST, fails, run, snapshot
from PIL import Image

from jaxclf.cli import commands, sweep, usage
from jaxclf.cli.sweep import pooled_features
from jaxclf.config import MODULES, Settings
from jaxclf.data.loader import Loader
from jaxclf.data.sources import ImageFolder
from jaxclf.plots import plot_sweep
from jaxclf.run.recipes import RECIPES
from jaxclf.schedules import cosine
from jaxclf.training.logistic import SolvedHead
from jaxclf.training.program import phase_schedule
from jaxclf.training.sweep import Sweep, SweepRow
from jaxclf.training.sweep.solved import SolvedRow

pytestmark = pytest.mark.usefixtures("small10t")
NET = FAST[:-2]  # without the epochs
SMALL = ["--lrs", "0.003", "0.1", "--weight-decays", "0", "0.001", "--seeds", "2", "--folds", "2", "--epochs", "3"]


def pretrained(weights_file):
    return [weights_file if word == "none" else word for word in NET]


@pytest.fixture(scope="module")
def swept(photos, weights_file, tmp_path_factory):
    out = tmp_path_factory.mktemp("sweep") / "new" / "folder"
    before = snapshot(photos)
    assert run("sweep", photos, "--out", out, *pretrained(weights_file), *SMALL) == 0
    assert snapshot(photos) == before
    return out


def test_it_writes_the_table_and_a_picture_of_it(swept, photos):
    assert sorted(path.name for path in swept.iterdir()) == ["ridge.png", "sweep.json", "sweep.png"]
    data = json.loads((swept / "sweep.json").read_text())
    assert [(row["lr"], row["weight_decay"]) for row in data["rows"]] == [
        (lr, decay) for lr in (0.003, 0.1) for decay in (0.0, 0.001)
    ]
    losses = np.array(data["losses"])
    assert losses.shape == (4, 2, 2) and data["seeds"] == [0, 1] and data["num_folds"] == 2 and data["epochs"] == 3
    np.testing.assert_allclose([row["loss"] for row in data["rows"]], losses.mean((1, 2)))
    assert data["best"] == int(losses.mean((1, 2)).argmin()) == data["close"][0]
    assert data["settings"]["arch"] == "small10t" and data["data"] == str(photos)
    (solved,) = data["solved"]
    assert solved["head"] == Settings().head and solved["ridge"] in solved["ridges"] and solved["num_folds"] == 5
    assert len(solved["losses"]) == len(solved["ridges"]) and solved["loss"] > 0 and 0 <= solved["accuracy"] <= 1
    for name in ("sweep.png", "ridge.png"):
        with Image.open(swept / name) as picture:
            assert min(picture.size) > 300 and len(set(picture.convert("L").tobytes())) > 10


def test_it_prints_the_best_few_and_how_to_go_on(swept, photos, weights_file, tmp_path, capsys):
    assert run("sweep", photos, "--out", tmp_path, *pretrained(weights_file), *SMALL) == 0
    printed = capsys.readouterr().out
    data = json.loads((tmp_path / "sweep.json").read_text())
    assert data == json.loads((swept / "sweep.json").read_text()), "the same flags, the same figures"
    best, (solved,) = data["rows"][data["best"]], data["solved"]
    assert f"{best['loss']:.4f}" in printed
    assert f"{solved['loss']:.4f} ± {solved['loss_error']:.4f}" in printed and f"ridge {solved['ridge']:.3g}" in printed
    recipe, out = followed(printed)
    (phase,) = recipe.phases
    assert out == str(tmp_path / "run") and recipe.settings.weights == str(weights_file)
    assert phase.solve == (solved["loss"] <= best["loss"])
    if not phase.solve:
        assert (phase.lrs[-1], recipe.settings.weight_decay) == (best["lr"], best["weight_decay"])
    assert "figures of the settings" in printed and f"wrote {tmp_path / 'sweep.json'}" in printed


def followed(printed):
    """The recipe and RUN of the command that a sweep ends with."""
    (line,) = (line for line in printed.splitlines() if line.startswith("  jaxclf fit "))
    fit = usage.parse(commands.COMMANDS, "jaxclf", "", shlex.split(line)[1:])
    return fit._recipe(), fit.out


#: What is typed beside the rates, and which setting of fit it must become.
CHOICES = [
    ([], {}),
    (["--seed", "3", "--optimizer", "adamw", "--momentum", "0.8", "--batch-size", "16"], {}),
    (["--loss", "focal", "--focal-gamma", "1.5", "--class-weights", "balanced", "--label-smoothing", "0.1"], {}),
    (["--head", "concat", "--precision", "bfloat16", "--resize", "squish"], {}),
    (["--dropout", "0.25", "--valid-fraction", "0.3", "--deterministic", "--cache", "none"], {}),
    (["--heads", "linear", "concat", "--dropout", "0.25"], {"head": "concat", "dropout": 0.0}),
]


@pytest.mark.parametrize(("typed", "winners"), CHOICES, ids=lambda value: " ".join(value))
def test_the_command_has_the_settings_of_the_winner(typed, winners):
    """Digit by digit, for the head alone, along one cosine."""
    words = ["sweep", "my photos", "--weights", "w.pth", "--out", "a sweep", "--image-size", "64", *typed]
    given = usage.parse(commands.COMMANDS, "jaxclf", "", words)
    head = winners.get("head", given.settings.head)
    best = SweepRow(head, 0.0012345678, 1e-7 / 3, 0.5, 0.1, 0.9, 0.1, 20.0)
    said = given._advice(table(np.ones((1, 1)))._replace(rows=(best,), best=0, best_epochs=20))
    recipe, out = followed("\n".join(said))
    assert recipe.settings == dataclasses.replace(given._settings, weight_decay=best.weight_decay, **winners)
    assert recipe.settings.batch(26) == given._parts()[1].batch_size, "trained in the batches it was found with"
    (phase,) = recipe.phases
    assert phase.frozen == MODULES[:-1] and phase.cut == "pooled" and out == "a sweep/run"
    assert (phase.lrs[-1], phase.num_cycles, phase.cycle_epochs) == (best.lr, 1, 20)
    schedule, num_steps = phase_schedule(phase, 3)
    expected = cosine(num_steps)
    np.testing.assert_allclose([schedule(step) for step in range(60)], [expected(step) for step in range(60)])
    assert "none for all layers" in said[0] and "as long as" not in said[0]


def solved_row(head: str, loss: float) -> SolvedRow:
    curve = (np.array([9.0, 2.0]), np.array([0.8, loss]), np.array([0.1, 0.1]))
    return SolvedRow(head, loss, 0.01, 0.9, 0.01, SolvedHead({}, 2.0, *curve, 5, 26, 1e-6, 80))


def test_the_better_of_the_two_commands_is_advised():
    """The solved one brings neither rate nor epochs, nor the batch size of heads that are trained."""
    given = usage.parse(commands.COMMANDS, "jaxclf", "", ["sweep", "photos", "--weights", "w.pth", "--seed", "4"])
    grid = table(np.array([[0.5]]))
    said = given._advice(grid, (solved_row("pools", 0.45), solved_row("linear", 0.4)))
    assert said[0].startswith("best: linear head, solved, ridge 2;") and "--lr" not in said[1]
    recipe, out = followed("\n".join(said))
    assert recipe.phases == RECIPES["head-only"](recipe.settings).phases and recipe.phases[0].solve
    assert recipe.settings == dataclasses.replace(given.settings, head="linear") and out == "sweep/run"
    said = given._advice(grid, (solved_row("pools", 0.51),))
    assert "rate 0.1" in said[0] and not followed("\n".join(said))[0].phases[0].solve
    scratch = dataclasses.replace(given, settings=dataclasses.replace(given.settings, weights="none"))
    assert scratch._advice(grid, (solved_row("pools", 0.4),))[1].startswith("no recipe of fit")


def test_patience_and_random_bodies_have_their_own_sentence():
    words = ["sweep", "photos", "--weights", "w.pth", "--patience", "2"]
    result = table(np.ones((1, 1)))._replace(best=0, best_epochs=7)
    said = usage.parse(commands.COMMANDS, "jaxclf", "", words)._advice(result)
    assert "cosine is as long as the best heads took" in said[0] and "--epochs 7" in said[1]
    words[3] = "none"
    said = usage.parse(commands.COMMANDS, "jaxclf", "", words)._advice(result)
    assert said[1] == "no recipe of fit trains the head alone on a body from scratch; give --weights"


@pytest.mark.parametrize("name", sweep.UNUSED)
def test_what_would_change_nothing_is_no_flag(name, photos, tmp_path, capsys):
    flag = f"--{name.replace('_', '-')}"
    fails(capsys, "sweep", photos, "--out", tmp_path, flag, "0.4", mentions=[f"{flag} is not a flag"], code=2)


def test_features_are_those_of_the_whole_network(photos, tiny):
    """Head on them = the network on the pictures; padding of the last batch is not among them."""
    from jaxclf.inference.predict import predict

    model, variables = tiny
    loader = Loader(ImageFolder(photos / "train"), batch_size=8, image_size=32, train=False)
    calls = []
    features, labels = pooled_features(model, variables, loader, lambda done, total: calls.append((done, total)))
    predictions = predict(model, variables, loader)
    assert features.shape == (26, 32) and calls[-1] == (26, 26)
    np.testing.assert_array_equal(labels, predictions.labels)
    head = variables["params"]["head"]["fc"]
    np.testing.assert_allclose(
        features[:, 16:] @ head["kernel"] + head["bias"], predictions.logits, rtol=1e-3, atol=1e-4
    )


@pytest.mark.parametrize(
    ("arguments", "mentions"),
    [
        (["--lrs", "-1"], ["--lrs -1: must be finite and positive"]),
        (["--folds", "1"], ["--folds 1: must be at least 2"]),
        (["--seeds", "0"], ["--seeds 0: must hold at least one"]),
        (["--weight-decay", "0.1"], ["--weight-decays"]),
        (["--arch", "resnet19"], ["resnet19"]),
    ],
)
def test_values_that_make_no_sense_are_wrong_usage(photos, tmp_path, capsys, arguments, mentions):
    fails(capsys, "sweep", photos, "--out", tmp_path / "new", *NET, *arguments, mentions=mentions, code=2)
    assert not (tmp_path / "new").exists()


def test_what_cannot_work_is_exit_code_one(photos, tmp_path, capsys):
    fails(capsys, "sweep", tmp_path / "missing", "--out", tmp_path / "new", *NET, mentions=["missing does not exist"])
    fails(capsys, "sweep", photos, "--out", photos / "new", *NET, mentions=["inside the data"])
    fails(capsys, "sweep", photos, "--out", tmp_path, *NET, "--folds", "27", mentions=["num_folds=27"])


def test_settings_of_the_data_reach_the_loader(photos, tmp_path, capsys, monkeypatch):
    seen = []

    def pooled(model, variables, loader, on_progress):
        seen.append(loader)
        raise ValueError("enough seen")

    monkeypatch.setattr(sweep, "pooled_features", pooled)
    shutil.copytree(photos, tmp_path / "photos")
    bad = sorted((tmp_path / "photos" / "train" / "red").iterdir())[3]
    bad.write_bytes(b"nothing")
    command = ["sweep", tmp_path / "photos", "--out", tmp_path / "out", *NET, "--cache", "none"]
    fails(capsys, *command, mentions=[bad.name])
    assert seen == []
    assert run(*command, "--on-bad-image", "skip") == 1
    printed = capsys.readouterr().out
    assert "skipped: " in printed and bad.name in printed
    (loader,) = seen
    assert loader.cache == "none" and len(loader.kept) == 25 and not loader.train and not loader.presized


def table(losses: np.ndarray) -> Sweep:
    """A sweep of rates .1, .2, .. and weight decays 0, 1, ..: losses [lrs, decays]."""
    rows = tuple(
        SweepRow("linear", (i + 1) / 10, float(j), loss, 0.01, 0.5, 0.01, 1.0)
        for (i, j), loss in np.ndenumerate(losses)
    )
    best = int(np.argmin(losses))
    return Sweep(rows, losses, losses, losses, (0,), best, (best, best - 1), 1, {})


def test_the_heat_map_shows_every_loss_and_marks_the_best():
    losses = np.array([[0.9, 0.8], [0.7, np.inf], [0.31, 0.3]])
    ax = plot_sweep(table(losses))
    drawn = np.asarray(ax.images[0].get_array(), np.float64)
    np.testing.assert_allclose(np.where(np.isfinite(losses), losses, np.nan).T, drawn)
    assert [label.get_text() for label in ax.get_xticklabels()] == ["0.1", "0.2", "0.3"]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["0", "1"]
    texts = {text.get_position(): text.get_text().split("\n")[0] for text in ax.texts}
    assert texts[0, 0] == "0.9" and texts[2, 1] == "0.3" and texts[1, 1] == "diverged" and len(texts) == 6
    frames = {patch.get_linewidth(): (patch.get_x() + 0.46, patch.get_y() + 0.46) for patch in ax.patches}
    np.testing.assert_allclose(frames[3.0], (2, 1))
    np.testing.assert_allclose(frames[1.5], (2, 0))
    assert plot_sweep(table(losses), ax=ax) is ax
    with pytest.raises(ValueError, match="head='concat' is not in this sweep, which tried linear"):
        plot_sweep(table(losses), head="concat")


def test_equal_losses_and_a_single_setting_can_be_drawn():
    for losses in (np.full((2, 2), 0.5), np.array([[0.2]]), np.zeros((1, 2))):
        plot_sweep(table(losses)).get_figure().draw_without_rendering()
