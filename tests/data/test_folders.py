import os
import pickle
import struct
import tracemalloc
import zipfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from conftest import write_class_folders

from jaxclf.data import folders
from jaxclf.data.decode import pixels
from jaxclf.data.folders import open_tree, open_zip
from jaxclf.data.loader import Loader
from jaxclf.data.sources import ImageFolder, fingerprint
from jaxclf.data.splits import open_data


def pack(path, folder, *, top="", method=zipfile.ZIP_DEFLATED):
    """A zip of a folder, as `zip -r` makes it: with entries for folders."""
    with zipfile.ZipFile(path, "w", method) as archive:
        for entry in sorted(folder.rglob("*")):
            archive.write(entry, top + entry.relative_to(folder).as_posix())
    return path


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data") / "pets"
    write_class_folders(root / "train", {"cat": 4, "dog": 3})
    write_class_folders(root / "valid", {"dog": 2}, seed=1)
    write_class_folders(root, {"test": 2}, seed=2)
    (root / "train" / "cat" / ".hidden").mkdir()
    (root / "train" / "cat" / ".hidden" / "a.png").write_bytes(b"")
    (root / "train" / "cat" / "notes.txt").write_text("")
    return root


@pytest.mark.parametrize("top", ["", "pets/"])
@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_zip_gives_what_its_folder_gives(data, tmp_path, top, method):
    packed = open_data(pack(tmp_path / "pets.ZIP", data, top=top, method=method))
    plain = open_data(data)
    assert packed.layout == plain.layout == "split"
    for name in ("train", "valid", "test", "whole"):
        ours, theirs = getattr(packed, name), getattr(plain, name)
        assert fingerprint(ours) == fingerprint(theirs)
        for index in range(len(theirs)):
            np.testing.assert_array_equal(pixels(ours[index].image), pixels(theirs[index].image))
    assert sorted(tmp_path.iterdir()) == [tmp_path / "pets.ZIP"], "nothing is extracted"


def test_what_a_mac_adds_is_passed_over(data, tmp_path):
    path = pack(tmp_path / "mac.zip", data, top="pets/")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("__MACOSX/pets/train/cat/._000.png", b"junk")
        archive.writestr("pets/.DS_Store", b"junk")
        archive.writestr("__MACOSX/other/000.png", b"junk")
    assert fingerprint(open_data(path).train) == fingerprint(open_data(data).train)


def test_a_folder_of_classes_is_entered_but_a_split_or_a_class_is_not(data, tmp_path):
    alone = tmp_path / "alone"
    write_class_folders(alone / "train", {"a": 3, "b": 3})
    assert len(open_data(pack(tmp_path / "train.zip", alone)).whole) == 6
    write_class_folders(tmp_path / "lost" / "valid", {"a": 3, "b": 3})
    with pytest.raises(ValueError, match=r"lost\.zip holds valid/ but no train/"):
        open_data(pack(tmp_path / "lost.zip", tmp_path / "lost"))
    write_class_folders(tmp_path / "one", {"only": 3})
    with pytest.raises(ValueError, match=r"one\.zip holds one class only \('only'\)"):
        open_data(pack(tmp_path / "one.zip", tmp_path / "one"))
    write_class_folders(tmp_path / "hollow", {"a": 3, "b": 0})
    with pytest.raises(ValueError, match=r"hollow\.zip/b holds no pictures"):
        open_data(pack(tmp_path / "hollow.zip", tmp_path / "hollow"))


def test_windows_separators_are_folders(tmp_path):
    with zipfile.ZipFile(tmp_path / "w.zip", "w") as archive:
        for name in ("a", "b"):
            entry = zipfile.ZipInfo("x.png")
            entry.filename = f"{name}\\x.png"
            archive.writestr(entry, b"bytes of " + name.encode())
    source = ImageFolder(tmp_path / "w.zip")
    assert [source.name(i) for i in range(2)] == ["a/x.png", "b/x.png"]
    assert source[1].image.read_bytes() == b"bytes of b"


def test_many_threads_read_the_same_zip_and_it_pickles_by_path(tmp_path):
    contents = {f"c{i % 2}/{i:03d}.png": os.urandom(2000) + bytes(2000) for i in range(40)}
    with zipfile.ZipFile(tmp_path / "t.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in contents.items():
            archive.writestr(name, content)
    source = ImageFolder(tmp_path / "t.zip")
    copy = pickle.loads(pickle.dumps(source))  # noqa: S301
    with ThreadPoolExecutor(8) as pool:
        read = list(pool.map(lambda i: (copy.name(i % 40), copy[i % 40].image.read_bytes()), range(400)))
    assert all(contents[name] == content for name, content in read)
    assert len(pickle.dumps(source)) < sum(map(len, contents.values())) / 4


def test_grain_reads_a_zip(data, tmp_path):
    batches = []
    for root in (data, pack(tmp_path / "pets.zip", data)):
        loader = Loader(open_data(root).train, batch_size=3, image_size=16, train=True, cache="none", num_threads=4)
        batches.append(np.concatenate([batch.inputs for batch in loader.epoch(1)]))
    np.testing.assert_array_equal(*batches)


def refused(path, match):
    with pytest.raises(ValueError, match=match) as error:
        open_data(path)
    assert str(path) in str(error.value)


def test_bad_zips_are_named(data, tmp_path, monkeypatch):
    whole = pack(tmp_path / "whole.zip", data).read_bytes()
    bad = tmp_path / "bad.zip"
    for content in (b"", b"no zip at all", whole[: len(whole) // 2], whole[:-30]):
        bad.write_bytes(content)
        refused(bad, "cannot be read as a zip.*fetch or pack it again")
    refused(tmp_path / "nowhere.zip", "does not exist")
    # The flag, the method and the size of the list's first picture, in its 46 byte header.
    where = whole.index(b"PK\1\2")
    while b".png" not in whole[where + 46 : where + 46 + whole[where + 28]]:
        where = whole.index(b"PK\1\2", where + 1)
    for offset, form, value, match in [
        (8, "<H", 1, "is encrypted.*without a password"),
        (10, "<H", 12, "packed with method 12.*plain zip"),
        (24, "<I", 2**30 + 1, "claims to be 1073741825 bytes.*remove it"),
    ]:
        changed = bytearray(whole)
        struct.pack_into(form, changed, where + offset, value)
        bad.write_bytes(changed)
        refused(bad, match)
    monkeypatch.setattr(folders, "MAX_MEMBER_BYTES", 10)
    bad.write_bytes(whole)
    refused(bad, "claims to be")


def test_a_damaged_or_replaced_member_is_named_when_it_is_read(tmp_path):
    path = tmp_path / "d.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/x.png", b"the content of a")
        archive.writestr("b/x.png", b"the content of b")
    source = ImageFolder(path)
    content = path.read_bytes()
    path.write_bytes(content.replace(b"the content of b", b"the content of c"))
    assert source[0].image.read_bytes() == b"the content of a"
    for change in (lambda: None, lambda: path.write_bytes(b"short"), path.unlink):
        change()
        with pytest.raises(ValueError, match=r"image .*d\.zip/b/x\.png cannot be read.*restore it"):
            source[1].image.read_bytes()
        with pytest.raises(ValueError, match=r"b/x\.png"):
            pixels(source[1].image)


def test_a_member_that_unpacks_to_more_than_it_says_is_stopped(tmp_path):
    path = tmp_path / "bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/x.png", bytes(10_000_000))
    content = bytearray(path.read_bytes())
    struct.pack_into("<I", content, content.index(b"PK\1\2") + 24, 1000)
    path.write_bytes(content)
    member = open_zip(path).child("a").image("x.png")
    tracemalloc.start()
    with pytest.raises(ValueError, match="does not match"):
        member.read_bytes()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_000_000


def test_other_files_are_no_trees(tmp_path):
    (tmp_path / "a.txt").write_text("")
    with pytest.raises(ValueError, match=r"a\.txt is a file, not a folder"):
        open_tree(tmp_path / "a.txt")
