"""The drawings are reproducible, free of shortcuts (what differs between cats and dogs is shape) and written safely."""

import hashlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.linear_model import LogisticRegression

from jaxclf.data.demo import folder as drawings
from jaxclf.data.demo.drawing import KINDS, draw_face
from jaxclf.data.demo.folder import write_drawings


def digest(*drawings: Image.Image) -> str:
    return hashlib.sha256(b"".join(drawing.tobytes() for drawing in drawings)).hexdigest()


def run_python(program: str, *args: str, hash_seed: str = "1") -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONHASHSEED": hash_seed}
    return subprocess.run([sys.executable, "-c", program, *args], env=env, capture_output=True, text=True, check=False)


def snapshot(folder: Path) -> dict[str, bytes | None]:
    """Every path below a folder, hidden ones too, with the content of the files."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")
    }


# --- one drawing -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_drawing_depends_on_its_arguments_alone(kind: str) -> None:
    first = [digest(draw_face(kind, seed)) for seed in range(12)]
    np.random.seed(3)  # noqa: NPY002  the global generator must neither matter nor move
    assert [digest(draw_face(kind, seed)) for seed in reversed(range(12))] == first[::-1]
    assert np.random.random() == np.random.RandomState(3).random()  # noqa: NPY002
    assert len(set(first)) == 12
    assert digest(draw_face("cat", 0)) != digest(draw_face("dog", 0))


def test_drawings_are_the_same_in_another_process() -> None:
    program = (
        "import hashlib; from jaxclf.data.demo.drawing import KINDS, draw_face; "
        "print(hashlib.sha256(b''.join(draw_face(k, s).tobytes() for s in range(8) for k in KINDS)).hexdigest())"
    )
    here = digest(*(draw_face(kind, seed) for seed in range(8) for kind in KINDS))
    for hash_seed in ("1", "2"):
        there = run_python(program, hash_seed=hash_seed)
        assert there.stdout.strip() == here, there.stderr


@pytest.mark.parametrize("size", [16, 33, 96, 224])
def test_a_drawing_is_rgb_of_the_size_asked_for(size: int) -> None:
    drawing = draw_face("dog", 5, size=size)
    assert (drawing.mode, drawing.size) == ("RGB", (size, size))
    assert np.asarray(drawing).std() > 10


def test_size_does_not_change_the_subject() -> None:
    large = np.asarray(draw_face("cat", 4, size=192).reduce(8), np.float64)
    small = np.asarray(draw_face("cat", 4, size=96).reduce(4), np.float64)
    other = np.asarray(draw_face("cat", 5, size=96).reduce(4), np.float64)
    assert abs(large - small).mean() < 4 < abs(large - other).mean()


def test_a_changed_drawing_needs_a_new_format_number() -> None:
    """Mean colours of four drawings to 1.5 levels: coarse enough for any Pillow, fine enough to see a change."""
    golden = {1: [[160.8, 134.4, 105.8], [161.9, 125.7, 126.8], [169.5, 140.6, 110.9], [162.6, 130.2, 135.7]]}
    means = [np.asarray(draw_face(kind, seed)).mean((0, 1)) for kind in KINDS for seed in (0, 1)]
    np.testing.assert_allclose(means, golden[drawings.FORMAT], atol=1.5, rtol=0)


@pytest.mark.parametrize(
    ("kind", "seed", "size", "message"),
    [
        ("horse", 0, 96, "kind .*'horse'"),
        ("Cat", 0, 96, "kind .*'Cat'"),
        ("cat", -1, 96, "seed .*-1"),
        ("cat", 0, 15, "size .*15"),
    ],
)
def test_draw_face_names_the_bad_argument(kind: str, seed: int, size: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        draw_face(kind, seed, size=size)


# --- no shortcuts ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pairs() -> dict[str, list[Image.Image]]:
    """Cats and dogs of the same 200 scenes."""
    return {kind: [draw_face(kind, 10_000 + seed) for seed in range(200)] for kind in KINDS}


def mean_of(channel: int) -> Callable[[Image.Image], float]:
    return lambda drawing: float(np.asarray(drawing)[..., channel].mean())


def contrast(drawing: Image.Image) -> float:
    return float(np.asarray(drawing.convert("L")).std())


def detail(drawing: Image.Image) -> float:
    grey = np.asarray(drawing.convert("L"), np.float64)
    return float(abs(np.diff(grey, axis=0)).mean() + abs(np.diff(grey, axis=1)).mean())


def saturation(drawing: Image.Image) -> float:
    return float(np.ptp(np.asarray(drawing).astype(np.float64), axis=2).mean())


def file_size(drawing: Image.Image) -> float:
    file = io.BytesIO()
    drawing.save(file, "JPEG", quality=90)
    return float(file.tell())


@pytest.mark.parametrize(
    "statistic",
    [mean_of(0), mean_of(1), mean_of(2), contrast, detail, saturation, file_size],
    ids=["red", "green", "blue", "contrast", "detail", "saturation", "file size"],
)
def test_a_plain_statistic_does_not_tell_cats_from_dogs(
    pairs: dict[str, list[Image.Image]], statistic: Callable[[Image.Image], float]
) -> None:
    """In the same scenes the mean cat and the mean dog differ by less than 0.2 of the spread over all drawings.

    For brightness that is 5 of 255 levels, where one threshold would be right for 54 % of the drawings. Pairing removes
    the scene's own spread, so the difference itself is known to 0.05 or better.
    """
    cats, dogs = (np.array([statistic(drawing) for drawing in pairs[kind]]) for kind in KINDS)
    spread = np.concatenate([cats, dogs]).std()
    assert (cats - dogs).std() / np.sqrt(len(cats)) < 0.05 * spread
    assert abs((cats - dogs).mean()) < 0.2 * spread


def test_the_scene_does_not_know_the_class(pairs: dict[str, list[Image.Image]]) -> None:
    """Away from the face a cat and a dog of one seed are the same picture, pixel for pixel; the face differs."""
    same = [
        (np.asarray(cat) == np.asarray(dog)).all(2).mean() for cat, dog in zip(pairs["cat"], pairs["dog"], strict=True)
    ]
    assert 0.1 < np.median(same) < 0.6


def test_a_linear_model_on_pixels_fails() -> None:
    """1,000 drawings at 32 x 32, standardised; the best of six strengths on 600 others (1 standard error is 0.02)."""
    drawings = [draw_face(KINDS[i % 2], 20_000 + i).resize((32, 32), Image.Resampling.BOX) for i in range(1600)]
    pixels, labels = np.stack([np.asarray(d, np.float64).ravel() for d in drawings]), np.arange(1600) % 2
    pixels = (pixels - pixels[:1000].mean(0)) / pixels[:1000].std(0)
    basis = np.linalg.svd(pixels[:1000], full_matrices=False)[2].T  # rotates: same model, 1,000 columns and not 3,072
    train, test = pixels[:1000] @ basis, pixels[1000:] @ basis
    scores = [
        LogisticRegression(C=strength, max_iter=300).fit(train, labels[:1000]).score(test, labels[1000:])
        for strength in (1e-5, 1e-4, 3e-4, 1e-3, 1e-2, 1.0)
    ]
    assert 0.5 < max(scores) < 0.75


# --- the folder ------------------------------------------------------------------------------------------------------


def write_small(folder: Path, **changes: int) -> Path:
    return write_drawings(folder, **{"num_train": 6, "num_valid": 4, "size": 16, **changes})  # type: ignore[arg-type]


def test_write_drawings_lays_out_a_folder_of_classes(tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    folder = write_drawings(
        str(tmp_path / "new" / "faces"), num_train=104, num_valid=4, size=16, on_progress=lambda *c: calls.append(c)
    )
    assert folder == tmp_path / "new" / "faces"
    files = {path: content for path, content in snapshot(folder).items() if content is not None}
    counts = {"train": 52, "valid": 2}
    assert set(files) == {"drawings.json"} | {
        f"{split}/{kind}/{i:04d}.jpg" for split in counts for kind in KINDS for i in range(counts[split])
    }
    assert len({content for path, content in files.items() if path.endswith(".jpg")}) == 108  # none appears twice
    with Image.open(folder / "train/cat/0000.jpg") as drawing:
        assert (drawing.mode, drawing.size) == ("RGB", (16, 16))
    assert list((tmp_path / "new").iterdir()) == [folder]
    assert calls[-1] == (108, 108)
    assert len(calls) > 1
    assert calls == sorted(calls)


def test_the_files_hold_the_drawings_of_their_class(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    colours = {"cat": (200, 40, 40), "dog": (40, 40, 200)}
    monkeypatch.setattr(drawings, "draw_face", lambda kind, seed, size: Image.new("RGB", (size, size), colours[kind]))
    for path in write_small(tmp_path / "faces").rglob("*.jpg"):
        with Image.open(path) as drawing:
            assert abs(np.asarray(drawing)[8, 8] - np.array(colours[path.parent.name])).max() <= 2


def test_sets_of_other_sizes_share_drawings_and_sets_of_other_seeds_do_not(tmp_path: Path) -> None:
    small, large = snapshot(write_small(tmp_path / "small")), snapshot(write_small(tmp_path / "large", num_train=10))
    other = snapshot(write_small(tmp_path / "other", seed=1))
    drawings = {path for path in small if path.endswith(".jpg")}
    assert all(small[path] == large[path] for path in drawings)
    assert not {small[path] for path in drawings} & {content for content in other.values() if content}


def test_the_same_set_is_reused_without_drawing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = snapshot(write_small(tmp_path / "faces"))

    def no_drawing(*args: object, **kwargs: object) -> None:
        raise AssertionError("drew again")

    monkeypatch.setattr(drawings, "draw_face", no_drawing)
    assert write_small(tmp_path / "faces") == tmp_path / "faces"
    assert snapshot(tmp_path / "faces") == before


def spoil_nothing(folder: Path) -> None:
    write_small(folder)


def spoil_foreign(folder: Path) -> None:
    (folder / "train" / "cat").mkdir(parents=True)
    (folder / "train" / "cat" / "0000.jpg").write_bytes(b"my own photo")


def spoil_file(folder: Path) -> None:
    folder.write_text("a file")


def spoil_empty(folder: Path) -> None:
    folder.mkdir()


def spoil_missing(folder: Path) -> None:
    (write_small(folder) / "valid/dog/0001.jpg").unlink()


def spoil_extra(folder: Path) -> None:
    (write_small(folder) / "train/bird").mkdir()
    (folder / "train/bird/0000.jpg").write_bytes(b"a bird")


def spoil_record(folder: Path) -> None:
    (write_small(folder) / "drawings.json").write_text("{")


def spoil_format(folder: Path) -> None:
    record = json.loads((write_small(folder) / "drawings.json").read_text())
    (folder / "drawings.json").write_text(json.dumps({**record, "format": 0}))


@pytest.mark.parametrize(
    ("spoil", "changes"),
    [
        *((spoil_nothing, change) for change in ({"num_train": 8}, {"num_valid": 2}, {"size": 17}, {"seed": 1})),
        *((spoil, {}) for spoil in (spoil_foreign, spoil_file, spoil_empty, spoil_missing)),
        *((spoil, {}) for spoil in (spoil_extra, spoil_record, spoil_format)),
    ],
)
def test_anything_else_is_refused_and_left_alone(
    tmp_path: Path, spoil: Callable[[Path], None], changes: dict[str, int]
) -> None:
    spoil(tmp_path / "faces")
    before = snapshot(tmp_path)
    with pytest.raises(ValueError, match=r"faces exists .* choose another folder"):
        write_small(tmp_path / "faces", **changes)
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError, RuntimeError])
def test_an_interrupted_run_leaves_nothing(tmp_path: Path, error: type[BaseException]) -> None:
    def interrupt(done: int, total: int) -> None:
        assert any(tmp_path.rglob("*.jpg"))  # there was something to leave
        raise error

    with pytest.raises(error):
        write_drawings(tmp_path / "faces", num_train=60, num_valid=2, size=16, on_progress=interrupt)
    assert list(tmp_path.iterdir()) == []


def test_a_killed_run_leaves_nothing_that_a_later_run_trusts(tmp_path: Path) -> None:
    program = (
        "import os, sys; from jaxclf.data.demo.folder import write_drawings; "
        "write_drawings(sys.argv[1], num_train=60, num_valid=2, size=16, on_progress=lambda *_: os._exit(9))"
    )
    assert run_python(program, str(tmp_path / "faces")).returncode == 9
    (partial,) = tmp_path.iterdir()
    assert partial.name.startswith(".faces.partial-")
    folder = write_drawings(tmp_path / "faces", num_train=60, num_valid=2, size=16)
    assert len(list(folder.rglob("*.jpg"))) == 62


def test_two_runs_at_once_both_succeed(tmp_path: Path) -> None:
    folder = tmp_path / "faces"

    def meanwhile(done: int, total: int) -> None:
        assert not folder.exists()
        write_small(folder)

    assert write_drawings(folder, num_train=6, num_valid=4, size=16, on_progress=meanwhile) == folder
    assert list(tmp_path.iterdir()) == [folder]


@pytest.mark.parametrize(
    ("name", "value"),
    [("num_train", n) for n in (0, 7, -2)] + [("num_valid", 0), ("num_valid", 3), ("size", 15), ("seed", -1)],
)
def test_write_drawings_names_the_bad_argument(tmp_path: Path, name: str, value: int) -> None:
    with pytest.raises(ValueError, match=rf"{name} must be .*got {value}$"):
        write_small(tmp_path / "faces", **{name: value})
    assert list(tmp_path.iterdir()) == []
