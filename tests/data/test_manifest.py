import json
import os
import zipfile

import numpy as np
import pytest
from conftest import write_class_folders
from hypothesis import given
from hypothesis import strategies as st

from jaxclf.data.manifest import dataset_key, record_fingerprints
from jaxclf.data.sources import ArrayDataset, EncodedImage, ImageFiles, ImageFolder, Subset


def key(source, **what):
    return dataset_key(record_fingerprints(source), **what)


@given(st.permutations(range(5)), st.integers(1, 5))
def test_order_and_membership_change_the_key_of_arrays(order, number):
    images = np.arange(5 * 12, dtype=np.uint8).reshape(5, 2, 2, 3)
    source = ArrayDataset(images, [0, 1, 0, 1, 0])
    chosen = Subset(source, np.array(order[:number]))
    assert (key(chosen) == key(source)) == (order[:number] == [0, 1, 2, 3, 4])
    np.testing.assert_array_equal(record_fingerprints(chosen), record_fingerprints(source)[order[:number]])


@given(st.integers(0, 59), st.integers(1, 255), st.lists(st.integers(0, 2), min_size=5, max_size=5))
def test_every_byte_counts_and_labels_do_not(where, change, labels):
    images = np.arange(5 * 12, dtype=np.uint8).reshape(5, 2, 2, 3)
    changed = images.copy()
    changed.flat[where] ^= change
    before = record_fingerprints(ArrayDataset(images, [0, 1, 0, 1, 0]))
    np.testing.assert_array_equal(before, record_fingerprints(ArrayDataset(images, labels, classes=("x", "y", "z"))))
    after = record_fingerprints(ArrayDataset(changed, labels, classes=("x", "y", "z")))
    assert np.flatnonzero((before != after).any(axis=1)).tolist() == [where // 12]


def test_the_shape_of_pixels_counts():
    wide, high = np.zeros((1, 2, 3, 3), np.uint8), np.zeros((1, 3, 2, 3), np.uint8)
    assert key(ArrayDataset(wide, [0])) != key(ArrayDataset(high, [0]))


def test_files_are_known_by_place_size_and_time(tmp_path):
    source = ImageFolder(write_class_folders(tmp_path / "a", {"x": 3, "y": 2}))
    path, before, contents = source.paths[1], record_fingerprints(source), record_fingerprints(source, content=True)
    assert before.shape == (5, 32) and before.dtype == np.uint8 and len(set(map(bytes, before))) == 5

    def changed():
        now = record_fingerprints(source)
        return np.flatnonzero((now != before).any(axis=1)).tolist()

    stat, data = path.stat(), path.read_bytes()
    assert changed() == []
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1000))
    assert changed() == [1], "time"
    np.testing.assert_array_equal(record_fingerprints(source, content=True), contents)
    path.write_bytes(data + b"x")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert changed() == [1], "size"
    path.write_bytes(data[:-1] + b"x")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert changed() == [], "the same size and time: only the content tells"
    assert (record_fingerprints(source, content=True)[1] != contents[1]).any()
    moved = ImageFolder(write_class_folders(tmp_path / "b", {"x": 3, "y": 2}))
    assert (record_fingerprints(moved) != before).any(axis=1).all(), "place"
    np.testing.assert_array_equal(record_fingerprints(moved, content=True), contents)
    path.unlink()
    with pytest.raises(ValueError, match=rf"{path} cannot be read.*open the data again"):
        record_fingerprints(source)


def test_the_label_of_a_file_does_not_count(tmp_path):
    root = write_class_folders(tmp_path, {"x": 3, "y": 2})
    assert key(ImageFolder(root)) == key(ImageFolder(root, classes=("y", "x")))
    paths = ImageFolder(root).paths
    assert key(ImageFiles(paths, classes=("p", "q"))) == key(ImageFolder(root))


def test_relative_paths_are_the_same_files(tmp_path, monkeypatch):
    write_class_folders(tmp_path / "d", {"x": 2, "y": 2})
    monkeypatch.chdir(tmp_path)
    assert key(ImageFolder("d")) == key(ImageFolder(tmp_path / "d"))


def test_pictures_in_a_zip(tmp_path):
    path = tmp_path / "z.zip"

    def write(*contents):
        with zipfile.ZipFile(path, "w") as archive:
            for number, content in enumerate(contents):
                archive.writestr(zipfile.ZipInfo(f"{'ab'[number % 2]}/{number}.png"), content)
        os.utime(path, ns=(0, 10**18))
        return record_fingerprints(ImageFolder(path)), record_fingerprints(ImageFolder(path), content=True)

    before, contents = write(b"one", b"two", b"six")
    again, changed = write(b"one", b"two", b"six"), write(b"one", b"ten", b"six")
    np.testing.assert_array_equal(before, again[0])
    assert (before != changed[0]).any(axis=1).tolist() == [False, False, True], "a/0 a/2 b/1: only its checksum differs"
    assert (contents != changed[1]).any(axis=1).tolist() == [False, False, True]
    os.utime(path, ns=(0, 10**18 + 1000))
    assert (record_fingerprints(ImageFolder(path)) != changed[0]).any(axis=1).all()


def test_content_is_the_same_wherever_it_lies(tmp_path):
    (tmp_path / "f.png").write_bytes(b"picture")
    with zipfile.ZipFile(tmp_path / "z.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/f.png", b"picture")
        archive.writestr("b/f.png", b"picture")
    images = [tmp_path / "f.png", ImageFolder(tmp_path / "z.zip")[0].image, EncodedImage(b"picture", "tfds:x/0")]
    digests = record_fingerprints(ImageFiles(images[:1], classes=("a", "b")), content=True)
    for image in images:
        found = record_fingerprints(ImageFiles([image], classes=("a", "b")), content=True)
        np.testing.assert_array_equal(found, digests)


def test_an_empty_source_has_no_fingerprints():
    assert record_fingerprints(ImageFiles([], classes=("a", "b"))).shape == (0, 32)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=2), inner, max_size=2),
    max_leaves=4,
)


@given(st.dictionaries(st.sampled_from(["size", "cut", "dtype"]), JSON), st.sampled_from(["size", "cut"]), JSON)
def test_whatever_else_a_key_depends_on(what, name, value):
    digests = np.arange(64, dtype=np.uint8).reshape(2, 32)
    first = dataset_key(digests, **what)
    assert first == dataset_key(digests, **dict(reversed(what.items())))
    other = {**what, name: value}
    same = json.dumps(other, sort_keys=True) == json.dumps(what, sort_keys=True)
    assert (dataset_key(digests, **other) == first) == same
    assert dataset_key(digests[::-1], **what) != first


def test_bad_keys():
    with pytest.raises(ValueError, match="dtype=<class 'float'> cannot be part of a key.*plain JSON"):
        dataset_key(np.zeros((1, 32), np.uint8), dtype=float)
    with pytest.raises(ValueError, match="lr=nan"):
        dataset_key(np.zeros((1, 32), np.uint8), lr=float("nan"))
    with pytest.raises(ValueError, match=r"digests must be uint8 \[n, 32\]"):
        dataset_key(np.zeros((1, 31), np.uint8))
