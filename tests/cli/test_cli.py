"""The command line as a user meets it: exit codes, one message, nothing overwritten, nothing half-written."""

import csv
import io
import json
import subprocess
import sys

import flax
import jax
import jaxlib
import numpy as np
import pytest
from commands import FAST, fails, run, snapshot
from conftest import write_class_folders

import jaxclf

pytestmark = pytest.mark.usefixtures("small10t")


@pytest.fixture(scope="module")
def trained(photos, tmp_path_factory):
    out = tmp_path_factory.mktemp("cli") / "run"
    assert run("fit", photos, "--out", out, *FAST) == 0
    return out


def test_fit_prints_what_it_did(photos, tmp_path, capsys):
    assert run("fit", photos, "--out", tmp_path / "run", *FAST) == 0
    printed = capsys.readouterr().out
    assert "training on 26 pictures (green 12, red 14); 11 for validation, of its own" in printed
    assert "from scratch" in printed and "nothing is frozen" in printed
    assert "epoch  1  train loss" in printed
    assert "standard error" in printed
    for name in ("recipe.json", "metrics.jsonl", "checkpoints", "predictions.npz", "summary.json"):
        assert f"wrote {tmp_path / 'run' / name}" in printed
    assert "\x1b[" not in printed, "no terminal, no escape codes"


def test_evaluate_agrees_with_the_summary(trained, photos, capsys):
    assert run("evaluate", trained, photos, "--format", "json") == 0
    result = json.loads(capsys.readouterr().out)
    summary = json.loads((trained / "summary.json").read_text())
    assert result["loss"] == pytest.approx(summary["loss"], abs=1e-6)
    assert result["accuracy"] == summary["accuracy"]
    assert run("evaluate", trained, photos) == 0
    assert f"accuracy {summary['accuracy']:.4f}" in capsys.readouterr().out


def test_predict_in_three_formats(trained, photos, capsys):
    files = sorted((photos / "valid" / "green").iterdir())
    assert run("predict", trained, *files, "--top", "2", "--format", "json") == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["file"] for row in rows] == [str(file) for file in files]
    for row in rows:
        assert row["label"] == row["top"][0]["label"] and row["probability"] >= 0.5
        assert sum(entry["probability"] for entry in row["top"]) == pytest.approx(1.0, abs=1e-6)
    assert run("predict", trained, photos / "valid" / "green", "--format", "csv") == 0
    table = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [(row["file"], row["label"]) for row in table] == [(row["file"], row["label"]) for row in rows]
    np.testing.assert_allclose([float(r["probability"]) for r in table], [r["probability"] for r in rows], atol=1e-6)
    assert run("predict", trained, files[0]) == 0
    assert capsys.readouterr().out.split()[:2] == [str(files[0]), rows[0]["label"]]


def test_predict_skips_bad_files_says_so_and_fails_at_the_end(trained, photos, tmp_path, capsys):
    (tmp_path / "bad.png").write_bytes(b"nothing")
    good = sorted((photos / "valid" / "red").iterdir())[:2]
    assert run("predict", trained, good[0], tmp_path / "bad.png", good[1], "--format", "csv") == 1
    captured = capsys.readouterr()
    assert [row["file"] for row in csv.DictReader(io.StringIO(captured.out))] == [str(file) for file in good]
    assert "bad.png" in captured.err and "1 of 3 files could not be read" in captured.err
    assert run("predict", trained, tmp_path / "bad.png", "--format", "json") == 1
    assert json.loads(capsys.readouterr().out) == []


@pytest.fixture
def damaged(tmp_path):
    """DATA variants that cannot be trained on, by name."""
    good = {"red": 6, "green": 6}
    (tmp_path / "empty").mkdir()
    write_class_folders(tmp_path / "one_class", {"red": 5})
    write_class_folders(tmp_path / "hollow", {**good, "blue": 0})
    write_class_folders(tmp_path / "cut", good)
    picture = tmp_path / "cut" / "red" / "003.png"
    picture.write_bytes(picture.read_bytes()[:200])
    write_class_folders(tmp_path / "cut_valid" / "train", good)
    write_class_folders(tmp_path / "cut_valid" / "valid", good)
    (tmp_path / "cut_valid" / "valid" / "green" / "005.png").write_bytes(b"")
    write_class_folders(tmp_path / "stranger" / "train", good)
    write_class_folders(tmp_path / "stranger" / "valid", {"red": 2, "blue": 2})
    return tmp_path


@pytest.mark.parametrize(
    ("data", "mentions"),
    [
        ("missing", ["missing does not exist"]),
        ("empty", ["empty holds no class folders"]),
        ("one_class", ["one_class holds one class only"]),
        ("hollow", ["hollow/blue holds no pictures"]),
        ("cut", ["cut/red/003.png", "restore or remove it"]),
        ("cut_valid", ["cut_valid/valid/green/005.png is empty"]),
        ("stranger", ["stranger/valid/blue is a class that training does not have"]),
    ],
)
def test_bad_data_ends_in_one_message_and_writes_nothing(damaged, capsys, data, mentions):
    before = snapshot(damaged)
    fails(capsys, "fit", damaged / data, "--out", damaged / "run", *FAST, mentions=mentions)
    assert snapshot(damaged) == before, "no RUN folder, no data touched"


def test_a_run_is_never_overwritten_unasked(trained, photos, tmp_path, capsys):
    before = snapshot(trained)
    fails(capsys, "fit", photos, "--out", trained, *FAST, mentions=[trained, "finished run", "--overwrite"])
    assert snapshot(trained) == before


def test_overwrite_replaces_a_run_but_only_once_the_new_one_can_start(photos, damaged, capsys):
    out = damaged / "again"
    assert run("fit", photos, "--out", out, *FAST) == 0
    (out / "notes.txt").write_text("mine")
    before = snapshot(out)
    fails(capsys, "fit", damaged / "cut", "--out", out, "--overwrite", *FAST, mentions=["003.png"])
    fails(
        capsys, "fit", photos, "--out", out, "--overwrite", *FAST, "--weights", "no.safetensors", mentions=["no.safe"]
    )
    assert snapshot(out) == before
    assert run("fit", photos, "--out", out, "--overwrite", *FAST, "--seed", "3") == 0
    assert json.loads((out / "recipe.json").read_text())["settings"]["seed"] == 3
    assert (out / "notes.txt").read_text() == "mine"


def test_out_must_be_free(photos, tmp_path, capsys):
    (tmp_path / "file").write_text("precious")
    fails(capsys, "fit", photos, "--out", tmp_path / "file", *FAST, mentions=["file is a file"])
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("precious")
    for flags in ([], ["--overwrite"]):
        fails(capsys, "fit", photos, "--out", tmp_path / "full", *FAST, *flags, mentions=["full", "thesis.tex"])
    fails(capsys, "fit", photos, "--out", photos / "run", *FAST, mentions=["inside the data"])
    assert not (photos / "run").exists()


def test_a_run_that_did_not_finish_is_not_trusted(photos, trained, tmp_path, capsys):
    """Killed in its first epoch: what is there is said to be unfinished, by fit and by predict."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "recipe.json").write_text((trained / "recipe.json").read_text())
    (tmp_path / "run" / "metrics.jsonl").write_text("")
    picture = next((photos / "valid" / "red").iterdir())
    fails(capsys, "predict", tmp_path / "run", picture, mentions=["did not finish"])
    fails(capsys, "fit", photos, "--out", tmp_path / "run", *FAST, mentions=["did not finish", "--overwrite"])


@pytest.mark.parametrize(
    ("arguments", "mentions"),
    [
        (["--arch", "resnet19"], ["resnet19", "resnet18"]),
        (["--lr", "0"], ["--lr 0: must be positive"]),
        (["--epochs", "0"], ["--epochs 0: must be"]),
        (["--recipe", "nonsense"], ["nonsense", "two-phase"]),
        (["--recipe", "head-only"], ["head-only", "--weights"]),
    ],
)
def test_values_that_make_no_sense_are_wrong_usage(photos, tmp_path, capsys, arguments, mentions):
    fails(capsys, "fit", photos, "--out", tmp_path / "run", *FAST, *arguments, mentions=mentions, code=2)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["nonsense"],
        ["fit"],
        ["fit", "data"],
        ["fit", "data", "--out", "run", "--nonsense", "1"],
        ["fit", "data", "--out", "run", "--image-size", "big"],
        ["fit", "data", "--out", "run", "--head", "conv"],
        ["fit", "data", "--out", "run", "--batch-size", "0"],
        ["predict", "run"],
        ["predict", "run", "a.jpg", "--top", "0"],
        ["evaluate", "run"],
        ["predict", "run", "a.jpg", "--format", "xml"],
    ],
    ids=" ".join,
)
def test_wrong_usage_is_exit_code_two(arguments, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run(*arguments) == 2
    assert "Traceback" not in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_debug_shows_the_traceback(tmp_path, capsys):
    assert run("fit", tmp_path / "missing", "--out", tmp_path / "run", "--debug") == 1
    error = capsys.readouterr().err
    assert "Traceback" in error and error.strip().splitlines()[-1].startswith("jaxclf: error: ")


@pytest.mark.parametrize(
    ("head", "heads"),
    [("pools", ["none: solved"] * 2), ("concat", ["from find_lr x 0.01, 0.1, 1", "as before x 0.01"])],
)
def test_plan_prints_the_phases_and_writes_nothing(photos, tmp_path, capsys, head, heads):
    options = ["--arch", "resnet18", "--weights", "x.pth", "--head", head]
    assert run("fit", photos, "--out", tmp_path / "run", *options, "--plan") == 0
    printed = capsys.readouterr().out
    assert "the whole body" in printed and "1 + 2 + 4 = 7" in printed and "activations at pooled" in printed
    rates = [line.split(maxsplit=1)[1] for line in printed.splitlines() if line.strip().startswith("rates")]
    whole = "from find_lr x 0.1, 1, 1" if head == "pools" else "from find_lr x 0.01, 0.1, 1"
    assert [rate.startswith(said) for rate, said in zip(rates, [*heads, whole], strict=True)] == [True] * 3
    assert not (tmp_path / "run").exists()


def test_recipe_from_a_file(trained, photos, tmp_path, capsys):
    recipe = trained / "recipe.json"
    assert run("fit", photos, "--out", tmp_path / "run", "--recipe", recipe) == 0
    assert (tmp_path / "run" / "metrics.jsonl").read_text() == (trained / "metrics.jsonl").read_text()
    fails(
        capsys,
        "fit",
        photos,
        "--out",
        tmp_path / "b",
        "--recipe",
        recipe,
        "--seed",
        "2",
        mentions=["own settings"],
        code=2,
    )
    (tmp_path / "bad.json").write_text('{"arch": 1}')
    fails(
        capsys,
        "fit",
        photos,
        "--out",
        tmp_path / "b",
        "--recipe",
        tmp_path / "bad.json",
        mentions=["bad.json", "unknown field arch"],
    )


@pytest.mark.parametrize("command", ["fit", "evaluate", "predict", "export", "demo"])
def test_help_explains_itself(command, capsys):
    assert run(command, "--help") == 0
    printed = capsys.readouterr().out
    assert f"Example: jaxclf {command}" in printed and "default" in printed


def test_python_dash_m(tmp_path):
    done = subprocess.run([sys.executable, "-m", "jaxclf", "--help"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and "demo" in done.stdout


def test_version_names_what_computes_and_imports_none_of_it(capsys):
    code = (
        "import sys; from jaxclf.cli import main\n"
        "try: main(['--version'])\n"
        "except SystemExit as end: print(end.code, [name for name in ('jax', 'flax', 'tyro') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    first, second = done.stdout.splitlines()
    python = ".".join(map(str, sys.version_info[:3]))
    assert first == (
        f"jaxclf {jaxclf.__version__} (jax {jax.__version__}, jaxlib {jaxlib.__version__}, flax {flax.__version__}, "
        f"python {python})"
    )
    assert second == "0 []" and done.stderr == ""
    assert run("--version") == 0 and capsys.readouterr().out == first + "\n"


@pytest.mark.slow
def test_real_photos(shared_dogscats, tmp_path):
    """From scratch on 500 photos: the loss falls well below ln 2, validation is better than chance."""
    flags = ["--arch", "resnet18", "--weights", "none", "--image-size", "96"]
    assert run("fit", shared_dogscats, "--out", tmp_path / "run", *flags) == 0
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [row for row in rows if row["kind"] == "epoch"][-1]["train_loss"] < 0.6
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["accuracy"] > 0.55


def test_speed_is_measured_between_finished_steps(monkeypatch):
    """Not over steps that are only dispatched, nor over the compile or a validation."""
    from jaxclf.cli import terminal

    clock = iter([10.0, 12.0, 16.0, 30.0, 31.0])
    monkeypatch.setattr(terminal.time, "perf_counter", lambda: next(clock))
    speed = terminal._Speed()

    def seen(epoch, step):
        return speed.update({"epoch": epoch, "step": step}, 8)

    assert seen(0, 9) == ""  # after the compile
    assert seen(0, 19) == "  40 images/s"  # 10 steps of 8 in 2 s
    assert seen(0, 29) == "  20 images/s"
    assert seen(1, 39) == "  20 images/s"  # a validation lies between
    assert seen(1, 49) == "  80 images/s"
