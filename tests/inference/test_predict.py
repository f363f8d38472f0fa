"""`jaxclf predict` and `jaxclf export`: what may be named, views, calibration, streaming, and the exported file."""

import csv
import gc
import io
import json
import shutil
import sys
import weakref

import jax
import numpy as np
import optax
import pytest
from commands import fails, run

from jaxclf.cli import predict as command
from jaxclf.cli.predict import BATCH_SIZE, Judge, Predict, find_pictures, judge_pictures, open_judge
from jaxclf.config import Phase, Preprocess, Recipe, Settings
from jaxclf.data.loader import Loader
from jaxclf.data.sources import ImageFiles
from jaxclf.inference.decision import decide
from jaxclf.inference.export import load_exported
from jaxclf.inference.tta import predict_views
from jaxclf.metrics import probabilities
from jaxclf.models import registry
from jaxclf.run.checkpoint_file import save_checkpoint
from jaxclf.run.folder import create_run, write_summary
from jaxclf.run.load import ClassifierSpec, load_run
from jaxclf.training.state import create_train_state

CLASSES = ("blue", "green", "red")


def write_run(folder, tiny, **summary):
    """A RUN folder of the tiny network as it was initialized: what `fit` writes, without a fit."""
    spec = ClassifierSpec("tiny", CLASSES, "linear", 0.0, "float32", Preprocess(image_size=32))
    recipe = Recipe(Settings(arch="tiny", image_size=32), (Phase("all", lrs=(0.1,)),))
    create_run(folder, recipe)
    checkpoint = "checkpoints/last"
    state = create_train_state(tiny[1], optax.sgd(0.1))
    save_checkpoint(folder / checkpoint, state, {"classifier": spec.to_metadata()})
    write_summary(folder, {"checkpoint": checkpoint, **summary})
    return folder


@pytest.fixture(scope="module")
def trained(tiny, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(registry._CONFIGS, "tiny", tiny[0].config)  # known by name, as a run needs it
        yield write_run(tmp_path_factory.mktemp("plain") / "run", tiny)


@pytest.fixture(scope="module")
def calibrated(tiny, trained, tmp_path_factory):
    """The same run, as one that fit a temperature."""
    return write_run(tmp_path_factory.mktemp("calibrated") / "run", tiny, calibration={"temperature": 2.5})


@pytest.fixture(scope="module")
def exported(calibrated):
    path = calibrated.parent / "run.jaxclf"
    assert run("export", calibrated, path) == 0
    return path


def rows_of(capsys, *arguments) -> list[dict]:
    assert run("predict", *arguments, "--format", "csv", "--top", "2") == 0
    return list(csv.DictReader(io.StringIO(capsys.readouterr().out)))


def names(*images) -> list[str]:
    return [str(picture) for picture in find_pictures([str(image) for image in images])]


def test_patterns_folders_and_zips_find_the_same_pictures(photos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(photos / "valid", "photos")
    (tmp_path / "photos" / "red" / "notes.txt").write_text("no picture")
    (tmp_path / "photos" / "folder.png").mkdir()
    found = names("photos")
    assert len(found) == 11 and found == sorted(found)
    assert names("photos/**/*.png") == names("photos/**") == names("photos/*/*") == found
    assert names("photos/red/00[13].png") == ["photos/red/001.png", "photos/red/003.png"]
    assert names("photos/red/00?.png", "photos/green") == names("photos/red", "photos/green")
    archive = shutil.make_archive("photos", "zip", tmp_path, "photos")
    assert [name.removeprefix(f"{archive}/") for name in names(archive)] == found
    # A name that exists is no pattern; a file that is named need not exist, its absence is reported later.
    (tmp_path / "a[1].png").write_bytes((tmp_path / "photos" / "red" / "000.png").read_bytes())
    assert names("a[1].png", "missing.png") == ["a[1].png", "missing.png"]


def test_what_finds_nothing_is_named(trained, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    archive = shutil.make_archive(str(tmp_path / "empty"), "zip", tmp_path / "empty")
    fails(capsys, "predict", trained, tmp_path / "empty", mentions=["folder", "empty holds no pictures"])
    fails(capsys, "predict", trained, archive, mentions=["zip", "empty.zip holds no pictures"])
    fails(capsys, "predict", trained, f"{tmp_path}/**/*.jpg", mentions=[f"{tmp_path}/**/*.jpg", "matches no pictures"])


def test_a_zip_is_judged_as_its_folder(trained, photos, tmp_path, capsys):
    archive = shutil.make_archive(str(tmp_path / "valid"), "zip", photos, "valid")
    zipped = rows_of(capsys, trained, archive)
    plain = rows_of(capsys, trained, photos / "valid")
    assert [{**row, "file": ""} for row in zipped] == [{**row, "file": ""} for row in plain]


def test_probabilities_are_calibrated_where_the_run_is(trained, calibrated, photos, tmp_path, capsys):
    paths = sorted((photos / "valid").rglob("*.png"))
    loaded = load_run(trained)
    logits = jax.device_get(loaded.predict_step(loaded.variables, np.stack([loaded.pixels(path) for path in paths])))
    for folder, temperature in ((trained, 1.0), (calibrated, 2.5)):
        assert run("predict", folder, *paths, "--format", "json", "--top", "3") == 0
        rows = json.loads(capsys.readouterr().out)
        expected = probabilities(logits.astype(np.float64) / temperature)
        for row, values in zip(rows, expected, strict=True):
            np.testing.assert_allclose([best["probability"] for best in row["top"]], np.sort(values)[::-1], atol=1e-5)
    assert np.ptp(expected, axis=0).max() > 1e-3, "pictures differ by far more than the tolerance"
    assert load_run(calibrated).predict(paths[-1]).probability == pytest.approx(expected[-1].max(), abs=1e-5)


@pytest.mark.parametrize("temperature", [0, "hot", True])
def test_a_damaged_temperature_is_not_guessed(trained, tmp_path, temperature):
    copy = shutil.copytree(trained, tmp_path / "run")
    write_summary(copy, {"checkpoint": "checkpoints/last", "calibration": {"temperature": temperature}})
    with pytest.raises(ValueError, match=f"run is damaged: .*calibration temperature {temperature!r}"):
        load_run(copy)


def test_views_are_those_of_predict_tta_each_of_them_calibrated(calibrated, photos, monkeypatch):
    """Of PNG files, which both decode whole; over several batches, the last of them short."""
    monkeypatch.setattr(command, "BATCH_SIZE", 4)
    loaded = load_run(calibrated)
    paths = sorted((photos / "valid").rglob("*.png"))
    source = ImageFiles(paths, classes=loaded.classes)
    loader = Loader(source, batch_size=4, image_size=32, train=False, preprocess=loaded.spec.preprocess)
    views = probabilities(predict_views(loaded.model, loaded.variables, loader).logits.astype(np.float64) / 2.5)
    judge = open_judge(str(calibrated), tta=True)
    found = list(judge_pictures(judge, paths, on_bad=pytest.fail))
    np.testing.assert_allclose(np.stack([one.probabilities for _, one in found]), views.mean(0), atol=1e-5)
    assert np.abs(views[0] - views.mean(0)).max() > 1e-3
    # A picture that cannot be read changes nothing for the others.
    bad = [paths[0], paths[1].with_name("missing.png"), *paths[2:]]
    reasons: list[str] = []
    some = list(judge_pictures(judge, bad, on_bad=reasons.append))
    assert len(reasons) == 1 and "missing.png" in reasons[0] and len(some) == 10
    np.testing.assert_allclose(some[1][1].probabilities, views.mean(0)[2], atol=1e-5)


def test_views_need_a_run_that_drew_some(trained, exported, photos, tmp_path, capsys):
    picture = next((photos / "valid" / "red").iterdir())
    fails(capsys, "predict", exported, picture, "--tta", mentions=["--tta", exported], code=2)
    copy = shutil.copytree(trained, tmp_path / "plain")
    text = (copy / "recipe.json").read_text()
    (copy / "recipe.json").write_text(text.replace('"augment": "side_on"', '"augment": "none"'))
    fails(capsys, "predict", copy, picture, "--tta", mentions=["without augmentation", "--tta"], code=2)


def test_an_exported_file_takes_the_place_of_its_run(calibrated, exported, photos, capsys):
    from_run = rows_of(capsys, calibrated, photos / "valid")
    from_file = rows_of(capsys, exported, photos / "valid")
    assert [(row["file"], row["label"]) for row in from_file] == [(row["file"], row["label"]) for row in from_run]
    for of_file, of_run in zip(from_file, from_run, strict=True):
        assert float(of_file["probability"]) == pytest.approx(float(of_run["probability"]), abs=1e-5)
    classifier = load_exported(exported)
    assert classifier.description.temperature == 2.5 and classifier.classes == CLASSES
    assert classifier.description.arch == "tiny" and classifier.description.platforms == ("cpu", "cuda", "tpu")


def test_export_says_what_it_wrote_and_overwrites_nothing(calibrated, exported, tmp_path, capsys):
    before = exported.read_bytes()
    fails(capsys, "export", calibrated, exported, mentions=[exported, "exists already", "--overwrite"])
    assert exported.read_bytes() == before
    fails(capsys, "export", tmp_path / "no", tmp_path / "x", mentions=["no does not exist"])
    fails(capsys, "export", calibrated, tmp_path / "no" / "x", mentions=["folder", "does not exist"])
    assert run("export", calibrated, tmp_path / "x", "--platforms", "cpu", "abacus") == 2
    capsys.readouterr()
    assert list(tmp_path.iterdir()) == []
    assert run("export", calibrated, tmp_path / "x", "--platforms", "cpu") == 0
    printed = capsys.readouterr().out
    assert f"wrote {tmp_path / 'x'}" in printed and "calibrated with temperature 2.5, for cpu" in printed
    fails(capsys, "predict", tmp_path / "nothing", "a.png", mentions=["nothing does not exist"])


def fake_judge(read) -> Judge:
    def give(images, numbers, rows):
        assert len(images[0]) == len(numbers) <= rows
        return np.stack([1.0 - images[0][:, 0, 0, 0] / 255, images[0][:, 0, 0, 0] / 255], axis=-1)

    return Judge(("no", "yes"), read, give, lambda values: decide(values, ("no", "yes")))


def test_thousands_of_files_take_the_memory_of_two_batches():
    alive: set[int] = set()
    most = done = 0

    def read(picture):
        nonlocal most
        pixels = np.full((8, 8, 3), int(picture) % 256, np.uint8)
        alive.add(id(pixels))
        weakref.finalize(pixels, alive.discard, id(pixels))
        most = max(most, len(alive))
        return (pixels,)

    def progress(count, total):
        nonlocal done
        assert total == 2000
        done = count

    stream = judge_pictures(fake_judge(read), range(2000), on_bad=pytest.fail, on_progress=progress)
    assert next(stream)[0] == "0" and len(alive) <= BATCH_SIZE, "read as the results are wanted, not before"
    for number, (name, found) in enumerate(stream, 1):
        assert name == str(number) and found.probabilities[1] == (number % 256) / 255
    gc.collect()
    assert number == 1999 and done == 2000
    assert most <= 2 * BATCH_SIZE and not alive


class FakeTerminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Recorder(io.StringIO):
    """Knows what had been written at each flush."""

    def __init__(self):
        super().__init__()
        self.flushed: list[str] = []

    def flush(self) -> None:
        self.flushed.append(self.getvalue())


@pytest.mark.parametrize("format", ["table", "json", "csv"])
def test_results_are_flushed_batch_by_batch_and_never_mix_with_the_bar(format, monkeypatch, tmp_path):
    """Standard output goes to a file while standard error is a terminal: the bar is there, the results are here."""
    out, bar = Recorder(), FakeTerminal()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", bar)
    judge = fake_judge(lambda picture: (np.full((8, 8, 3), 255, np.uint8),))
    monkeypatch.setattr(command, "open_judge", lambda run, tta: judge)
    assert Predict("run", tuple(f"{number}.png" for number in range(3 * BATCH_SIZE)), format=format)() == 0
    seen = [text.count(".png") for text in out.flushed]
    assert [count for count in dict.fromkeys(seen) if count] == [BATCH_SIZE, 2 * BATCH_SIZE, 3 * BATCH_SIZE]
    assert "predicting" in bar.getvalue() or "96" in bar.getvalue()
    assert ".png" not in bar.getvalue() and "\x1b" not in out.getvalue()
    if format == "json":
        assert len(json.loads(out.getvalue())) == 3 * BATCH_SIZE


def test_no_bar_without_a_terminal(monkeypatch):
    """Nor where the results themselves are shown on it."""
    for out, error in ((io.StringIO(), io.StringIO()), (FakeTerminal(), FakeTerminal())):
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", out)
            patch.setattr(sys, "stderr", error)
            with command._observer().task("predicting", 10) as advance:
                advance(5, 10)
        assert out.getvalue() == error.getvalue() == ""
