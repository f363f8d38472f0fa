import os
import pickle
import signal
import subprocess
import sys

import numpy as np
import pytest
from conftest import count_decoded, write_class_folders
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxclf.config import Preprocess
from jaxclf.data.array_file import ArrayFileError, ArrayWriter, open_array
from jaxclf.data.loader import Loader
from jaxclf.data.sources import ArrayDataset, ImageFolder

ROWS = np.random.default_rng(0).integers(0, 256, (7, 3, 2)).astype(np.uint8)


def write(path, rows=ROWS, key="key", note=None):
    writer = ArrayWriter(path, rows.shape, rows.dtype, key)
    for index in writer.missing:
        writer.write(int(index), rows[index])
    return writer.finish(note)


def test_round_trip(tmp_path):
    found = open_array(write(tmp_path / "a", note={"views": 2}), "key")
    np.testing.assert_array_equal([found[i] for i in range(7)], ROWS)
    assert (found.shape, found.dtype, len(found)) == (ROWS.shape, ROWS.dtype, 7)
    with pytest.raises(IndexError):
        found[7]
    assert found.note == {"views": 2}
    assert os.listdir(tmp_path) == ["a"]


@pytest.mark.parametrize("shape", [(0, 4), (3, 0), (3,)])
@pytest.mark.parametrize("dtype", ["float16", "int32"])
def test_empty_and_flat_arrays(tmp_path, shape, dtype):
    rows = np.arange(np.prod(shape)).reshape(shape).astype(dtype)
    found = open_array(write(tmp_path / "a", rows), "key")
    np.testing.assert_array_equal(np.reshape([found[i] for i in range(len(found))], shape), rows)
    assert found.dtype == dtype and found.shape == shape


def test_a_file_cut_off_while_it_is_read_fails_and_does_not_kill(tmp_path):
    found = open_array(write(tmp_path / "a"), "key")
    os.truncate(tmp_path / "a", 2 * 6)
    np.testing.assert_array_equal(found[1], ROWS[1])
    with pytest.raises(ArrayFileError, match="cut short while it was read"):
        found[2]


def test_another_key_is_stale_and_rewritten(tmp_path):
    write(tmp_path / "a")
    assert open_array(tmp_path / "a", "other") is None
    assert open_array(tmp_path / "missing", "key") is None
    write(tmp_path / "a", ROWS[:2], "other")
    np.testing.assert_array_equal(list(open_array(tmp_path / "a", "other")), ROWS[:2])


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_cut_or_flipped_byte_is_noticed(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("cut") / "a"
    content = bytearray(write(path).read_bytes())
    if data.draw(st.booleans()):
        content = content[: data.draw(st.integers(0, len(content) - 1))]
    else:
        # The note's own text is not covered by a checksum; everything that decides what is read is.
        content[data.draw(st.integers(0, ROWS.size + 4 * len(ROWS) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(content)
    assert open_array(path, "key") is None


def test_a_writer_goes_on_where_another_stopped(tmp_path):
    first = ArrayWriter(tmp_path / "a", ROWS.shape, "u1", "key")
    for index in (0, 4, 2):
        first.write(index, ROWS[index])
    first.close()
    second = ArrayWriter(tmp_path / "a", ROWS.shape, "u1", "key")
    assert second.missing.tolist() == [1, 3, 5, 6]
    with pytest.raises(ValueError, match="4 of 7 rows"):
        second.finish()
    for index in second.missing:
        second.write(int(index), ROWS[index])
    np.testing.assert_array_equal(list(open_array(second.finish(), "key")), ROWS)
    assert os.listdir(tmp_path) == ["a"]


@pytest.mark.parametrize("damage", ["journal cut", "row changed", "other key", "data cut"])
def test_what_a_stopped_writer_left_is_checked(tmp_path, damage):
    first = ArrayWriter(tmp_path / "a", ROWS.shape, "u1", "key")
    for index in (0, 4, 2):
        first.write(index, ROWS[index])
    first.close()
    partial, journal = tmp_path / ".a.partial", tmp_path / ".a.journal"
    if damage == "journal cut":
        journal.write_bytes(journal.read_bytes()[:-3])
    elif damage == "row changed":
        content = bytearray(partial.read_bytes())
        content[4 * 6] ^= 1
        partial.write_bytes(content)
    elif damage == "data cut":
        os.truncate(partial, 4 * 6 + 2)
    key = "key 2" if damage == "other key" else "key"
    second = ArrayWriter(tmp_path / "a", ROWS.shape, "u1", key)
    expected = {
        "journal cut": [1, 2, 3, 5, 6],
        "row changed": [1, 3, 4, 5, 6],
        "data cut": [1, 3, 4, 5, 6],
        "other key": list(range(7)),
    }
    assert second.missing.tolist() == expected[damage]
    for index in second.missing:
        second.write(int(index), ROWS[index])
    np.testing.assert_array_equal(list(open_array(second.finish(), key)), ROWS)


def test_two_writers_at_once_do_no_harm(tmp_path):
    one, two = (ArrayWriter(tmp_path / "a", ROWS.shape, "u1", "key") for _ in range(2))
    for writer in (one, two):
        for index in writer.missing:
            writer.write(int(index), ROWS[index])
    for writer in (two, one):
        np.testing.assert_array_equal(list(open_array(writer.finish(), "key")), ROWS)
    assert os.listdir(tmp_path) == ["a"]


def test_rows_left_out_on_purpose_read_as_zeros(tmp_path):
    writer = ArrayWriter(tmp_path / "a", ROWS.shape, "u1", "key")
    for index in range(6):
        writer.write(index, ROWS[index])
    rows = list(open_array(writer.finish(without=[6]), "key"))
    assert not rows[6].any() and np.array_equal(rows[:6], ROWS[:6])


def test_wrong_rows_and_folders_that_cannot_be_written(tmp_path):
    writer = ArrayWriter(tmp_path / "a", ROWS.shape, "u1", "key")
    with pytest.raises(ValueError, match="row 2 is float64"):
        writer.write(2, ROWS[2].astype(float))
    (tmp_path / "file").write_text("")
    with pytest.raises(ArrayFileError, match="file/a"):
        ArrayWriter(tmp_path / "file" / "a", ROWS.shape, "u1", "key")


FULL_DISK = """
import resource, sys, numpy as np
from jaxclf.data.array_file import ArrayFileError, ArrayWriter
import signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
writer = ArrayWriter(sys.argv[1], (10, 1000), "u1", "key")
try:
    for index in range(10):
        writer.write(index, np.full(1000, index, "u1"))
except ArrayFileError as error:
    print(index, error)
writer.close()
"""


def test_a_full_disk_is_named_and_what_was_written_stays(tmp_path):
    result = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path / "a")], capture_output=True, text=True, check=True
    )
    assert result.stdout.startswith("5 ") and str(tmp_path / "a") in result.stdout and "make room" in result.stdout
    assert ArrayWriter(tmp_path / "a", (10, 1000), "u1", "key").missing.tolist() == [5, 6, 7, 8, 9]


def disk_loader(source, folder, **options):
    common = {"batch_size": 8, "image_size": 16, "train": True, "cache": folder}
    return Loader(source, **(common | options))


def test_the_disk_cache_serves_later_runs_without_decoding(photos, tmp_path, monkeypatch):
    calls = count_decoded(monkeypatch)
    source = ImageFolder(photos / "train")
    memory = [batch.inputs for batch in disk_loader(source, None, cache="memory").epoch(3)]
    calls.clear()
    first = [batch.inputs for batch in disk_loader(source, tmp_path).epoch(3)]
    assert len(calls) == len(source)
    loader = disk_loader(ImageFolder(photos / "train"), tmp_path)
    seen = []
    assert loader.fill_cache(lambda done, total: seen.append((done, total))) == ()
    second = [batch.inputs for batch in loader.epoch(3)]
    assert len(calls) == len(source) and seen[-1] == (26, 26)
    np.testing.assert_array_equal(first, memory)
    np.testing.assert_array_equal(second, memory)
    assert len(os.listdir(tmp_path)) == 1


@pytest.mark.parametrize("how", ["cut", "flipped"])
def test_a_damaged_disk_cache_is_rebuilt(photos, tmp_path, monkeypatch, how):
    calls = count_decoded(monkeypatch)
    source = ImageFolder(photos / "train")
    expected = next(disk_loader(source, tmp_path).epoch(0)).inputs
    (path,) = tmp_path.iterdir()
    content = bytearray(path.read_bytes())
    content[1000] ^= 1
    path.write_bytes(content[:-5] if how == "cut" else content)
    calls.clear()
    np.testing.assert_array_equal(next(disk_loader(source, tmp_path).epoch(0)).inputs, expected)
    assert len(calls) == len(source)
    disk_loader(source, tmp_path).fill_cache()
    assert len(calls) == len(source)


def test_whatever_the_pixels_depend_on_changes_the_key(tmp_path):
    root = write_class_folders(tmp_path / "data", {"red": 3, "green": 3})

    def path(source=None, **options):
        return disk_loader(source or ImageFolder(root), tmp_path, **options).prepared.path

    base = path()
    assert base == path() == path(batch_size=2, seed=4) == path(preprocess=Preprocess(mean=(0, 0, 0)))
    changed = [
        path(image_size=17),
        path(train=False),
        path(preprocess=Preprocess(interpolation="bicubic")),
        path(preprocess=Preprocess(resize="squish")),
        path(train=False, preprocess=Preprocess(crop_fraction=1.0)),
    ]
    picture = root / "red" / "001.png"
    os.utime(picture, ns=(1, 1))
    changed.append(path())
    picture.write_bytes(picture.read_bytes() + b"\0")
    os.utime(picture, ns=(1, 1))
    changed.append(path())
    picture.rename(root / "red" / "009.png")
    changed.append(path())
    (root / "red" / "009.png").unlink()
    changed.append(path())
    assert len({base, *changed}) == len(changed) + 1
    images = np.zeros((4, 8, 8, 3), np.uint8)
    first = path(ArrayDataset(images, [0, 1, 0, 1]))
    assert first == path(ArrayDataset(images.copy(), [1, 1, 0, 0]))  # labels come from the source, never from here
    images[2, 3, 3, 1] = 1
    assert first != path(ArrayDataset(images, [0, 1, 0, 1]))


def test_bad_pictures_are_skipped_and_not_remembered(tmp_path):
    root = write_class_folders(tmp_path / "data", {"red": 6, "green": 6})
    good = (root / "red" / "002.png").read_bytes()
    (root / "red" / "002.png").write_bytes(good[:60])
    with pytest.raises(ValueError, match=r"002\.png"):
        disk_loader(ImageFolder(root), tmp_path / "cache").fill_cache()
    loader = disk_loader(ImageFolder(root), tmp_path / "cache", batch_size=4)
    (bad,) = loader.fill_cache(on_bad_image="skip")
    assert bad.name == "red/002.png" and "002.png" in bad.reason
    rest = loader.without([bad.index])
    index = np.concatenate([batch.index for batch in rest.epoch(0)])
    others = sorted(set(range(12)) - {bad.index})
    assert sorted(index[index >= 0]) == others and len(index) == 12, "each of the others once, and one row of padding"
    assert not list((tmp_path / "cache").glob("*.pictures"))
    (root / "red" / "002.png").write_bytes(good)
    assert disk_loader(ImageFolder(root), tmp_path / "cache").fill_cache(on_bad_image="skip") == ()


def test_a_pickled_cache_opens_its_file_again(photos, tmp_path):
    loader = disk_loader(ImageFolder(photos / "train"), tmp_path)
    data = pickle.dumps(loader.prepared)
    loader.fill_cache()
    filled = pickle.dumps(loader.prepared)
    assert len(filled) < 10_000
    for copy in (pickle.loads(data), pickle.loads(filled)):  # noqa: S301  # our own bytes
        np.testing.assert_array_equal(copy[5].image, loader.prepared[5].image)


BUILD = """
import sys, time
from jaxclf.data import loader as module
from jaxclf.data.loader import Loader
from jaxclf.data.sources import ImageFolder
original = module.presized_pixels
def presized_pixels(image, preprocess):
    print("decoding", flush=True)
    time.sleep(float(sys.argv[3]))
    return original(image, preprocess)
module.presized_pixels = presized_pixels
from pathlib import Path
loader = Loader(ImageFolder(sys.argv[1]), batch_size=8, image_size=16, train=True, cache=Path(sys.argv[2]))
loader.fill_cache()
"""


def build(photos, folder, pause):
    command = [sys.executable, "-c", BUILD, str(photos / "train"), str(folder), str(pause)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_killed_while_building_then_built_again(photos, tmp_path, monkeypatch):
    process = build(photos, tmp_path, 0.02)
    for _ in range(12):
        process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not list(tmp_path.glob("*.pictures"))
    calls = count_decoded(monkeypatch)
    source = ImageFolder(photos / "train")
    loader = disk_loader(source, tmp_path)
    loader.fill_cache()
    assert 0 < len(calls) < len(source)  # what the killed process had written was taken over
    fresh = disk_loader(source, tmp_path / "fresh")
    fresh.fill_cache()
    for index in range(len(source)):
        np.testing.assert_array_equal(loader.prepared[index].image, fresh.prepared[index].image)
    assert len(list(tmp_path.glob("*.pictures"))) == 1 and not list(tmp_path.glob(".*"))


def test_two_processes_building_at_once_do_no_harm(photos, tmp_path):
    processes = [build(photos, tmp_path, 0.01) for _ in range(2)]
    for process in processes:
        process.communicate(timeout=60)
        assert process.returncode == 0
    assert len(list(tmp_path.glob("*.pictures"))) == 1 and len(list(tmp_path.glob(".*"))) == 0
    loader = disk_loader(ImageFolder(photos / "train"), tmp_path)
    expected = disk_loader(ImageFolder(photos / "train"), None, cache="memory")
    np.testing.assert_array_equal(next(loader.epoch(0)).inputs, next(expected.epoch(0)).inputs)
