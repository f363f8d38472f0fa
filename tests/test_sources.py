import pickle

import numpy as np
import pytest
from conftest import write_class_folders

from jaxclf.data.sources import ArrayDataset, ImageFiles, ImageFolder, Subset, fingerprint
from jaxclf.data.splits import open_data, split_dataset


def test_classes_are_sorted_and_files_in_order(tmp_path):
    write_class_folders(tmp_path, {"zebra": 2, "ant": 3})
    source = ImageFolder(tmp_path)
    assert source.classes == ("ant", "zebra")
    assert source.labels.tolist() == [0, 0, 0, 1, 1]
    assert [source.name(i) for i in (0, 4)] == ["ant/000.png", "zebra/001.png"]
    assert source[4].label == 1 and source[4].image == tmp_path / "zebra" / "001.png"


def test_hidden_and_foreign_files_are_passed_over_and_nested_ones_found(tmp_path):
    write_class_folders(tmp_path, {"a": 1, "b": 1})
    (tmp_path / "a" / ".DS_Store").write_text("")
    (tmp_path / "a" / "._000.png").write_text("")
    (tmp_path / "a" / "notes.txt").write_text("")
    (tmp_path / ".git").mkdir()
    (tmp_path / "readme.md").write_text("")
    (tmp_path / "b" / "more" / "deep").mkdir(parents=True)
    (tmp_path / "b" / "000.png").rename(tmp_path / "b" / "more" / "deep" / "PICTURE.PNG")
    source = ImageFolder(tmp_path)
    assert [source.name(i) for i in range(len(source))] == ["a/000.png", "b/more/deep/PICTURE.PNG"]


@pytest.mark.parametrize("valid", ["valid", "val", "validation"])
def test_layout_with_a_validation_folder(tmp_path, valid):
    write_class_folders(tmp_path / "train", {"a": 3, "b": 4, "c": 2})
    write_class_folders(tmp_path / valid, {"c": 1, "b": 2})
    splits = open_data(tmp_path)
    assert splits.layout == "split"
    assert splits.train.classes == splits.valid.classes == ("a", "b", "c")
    assert splits.valid.labels.tolist() == [1, 1, 2]


@pytest.mark.parametrize("train", ["", "train"])
def test_layout_without_validation_is_split(tmp_path, train):
    write_class_folders(tmp_path / train, {"a": 10, "b": 5})
    splits = open_data(tmp_path, valid_fraction=0.2, seed=3)
    assert splits.layout == "drawn"
    assert (len(splits.train), len(splits.valid), len(splits.whole)) == (12, 3, 15)
    names = {s.name(i) for s in (splits.train, splits.valid) for i in range(len(s))}
    assert len(names) == 15
    again = open_data(tmp_path, valid_fraction=0.2, seed=3)
    assert fingerprint(again.valid) == fingerprint(splits.valid)
    assert fingerprint(open_data(tmp_path, seed=4).valid) != fingerprint(splits.valid)


def test_a_class_may_be_called_train(tmp_path):
    write_class_folders(tmp_path, {"train": 3, "bus": 3})
    assert open_data(tmp_path).train.classes == ("bus", "train")


def refused(path, match, **kwargs):
    before = sorted(path.rglob("*")) if path.exists() else None
    with pytest.raises(ValueError, match=match) as error:
        open_data(path, **kwargs)
    assert str(path) in str(error.value), "the message names the path"
    assert before is None or before == sorted(path.rglob("*"))


def test_bad_data_is_named(tmp_path):
    refused(tmp_path / "nowhere", "does not exist")
    (tmp_path / "file").write_text("")
    refused(tmp_path / "file", "is a file")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "no class folders")
    refused(write_class_folders(tmp_path / "one", {"only": 3}), "one class only")
    hollow = write_class_folders(tmp_path / "hollow", {"a": 3, "b": 0})
    refused(hollow, "hollow/b holds no pictures")
    odd = write_class_folders(tmp_path / "odd" / "train", {"a": 3, "b": 3}).parent
    write_class_folders(odd / "valid", {"a": 1, "x": 1})
    refused(odd, "valid/x is a class that training does not have")
    write_class_folders(tmp_path / "lost" / "valid", {"a": 3, "b": 3})
    refused(tmp_path / "lost", "no train/")
    (tmp_path / "void" / "train").mkdir(parents=True)
    refused(tmp_path / "void", "no class folders")


def test_a_class_of_one_cannot_be_split(tmp_path):
    write_class_folders(tmp_path, {"a": 3, "lonely": 1})
    with pytest.raises(ValueError, match="'lonely' has one picture only"):
        open_data(tmp_path)


def test_sources_are_picklable(tmp_path):
    source = ImageFolder(write_class_folders(tmp_path, {"a": 3, "b": 3}))
    subset = Subset(source, np.array([4, 1]))
    copy = pickle.loads(pickle.dumps(subset))  # noqa: S301
    assert [copy.name(i) for i in range(2)] == ["b/001.png", "a/001.png"]
    assert copy.labels.tolist() == [1, 0] and fingerprint(copy) == fingerprint(subset)


def test_fingerprint_sees_names_labels_order_and_classes_but_not_the_place(tmp_path):
    first = ImageFolder(write_class_folders(tmp_path / "one", {"a": 3, "b": 3}))
    moved = ImageFolder(write_class_folders(tmp_path / "two", {"a": 3, "b": 3}, seed=9))
    assert fingerprint(first) == fingerprint(moved)
    others = [
        ImageFolder(write_class_folders(tmp_path / "three", {"a": 3, "b": 4})),
        ImageFolder(write_class_folders(tmp_path / "four", {"a": 3, "c": 3})),
        ImageFolder(tmp_path / "one", classes=("b", "a")),
        Subset(first, np.array([1, 0, 2, 3, 4, 5])),
    ]
    assert len({fingerprint(source) for source in (first, *others)}) == 5


def test_array_dataset():
    images = np.zeros((4, 8, 8, 3), np.uint8)
    source = ArrayDataset(images, [0, 1, 1, 2])
    assert source.classes == ("0", "1", "2") and source[3].label == 2 and len(source) == 4
    for args, message in [
        ((images, [0, 1]), "4 images but labels"),
        ((images.astype(np.float32), [0, 1, 1, 1]), "uint8"),
        ((images[..., :1], [0, 1, 1, 1]), "uint8 \\[h, w, 3\\]"),
        ((images, [0, 1, -2, 1]), "labels must lie"),
    ]:
        with pytest.raises(ValueError, match=message):
            ArrayDataset(*args)
    with pytest.raises(ValueError, match="0 .. 1 for 2 classes"):
        ArrayDataset(images, [0, 1, 1, 2], classes=("a", "b"))


def test_image_files_have_no_labels(tmp_path):
    source = ImageFiles([tmp_path / "a.png"], classes=("x", "y"))
    assert source[0] == (tmp_path / "a.png", -1) and source.name(0) == str(tmp_path / "a.png")


def test_split_dataset_keeps_the_class_list():
    source = ArrayDataset(np.zeros((10, 4, 4, 3), np.uint8), [0, 1] * 5, classes=("no", "yes"))
    train, valid = split_dataset(source, valid_fraction=0.3)
    assert train.classes == valid.classes == ("no", "yes")
    assert len(valid) == 4 and set(valid.labels) == {0, 1}
