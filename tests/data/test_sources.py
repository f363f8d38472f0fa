import hashlib
import pickle
import shutil

import numpy as np
import pytest
from conftest import write_class_folders

from jaxclf.data.sources import ArrayDataset, ImageFiles, ImageFolder, Subset, fingerprint
from jaxclf.data.splits import fold_datasets, open_data, split_dataset
from jaxclf.data.tables import CsvTable


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


def test_a_test_folder_with_and_without_classes(tmp_path):
    write_class_folders(tmp_path / "train", {"a": 6, "b": 6})
    assert open_data(tmp_path).test is None
    write_class_folders(tmp_path, {"test": 3})
    (tmp_path / "test" / ".hidden.png").write_bytes(b"")
    splits = open_data(tmp_path)
    assert splits.layout == "drawn" and splits.test.classes == ("a", "b")
    assert splits.test.labels.tolist() == [-1, -1, -1]
    assert [splits.test.name(i) for i in range(3)] == ["000.png", "001.png", "002.png"]
    assert splits.test[2] == (tmp_path / "test" / "002.png", -1)
    write_class_folders(tmp_path / "test", {"b": 1})
    refused(tmp_path, "test holds pictures .* and folders of pictures .b.")
    for path in (tmp_path / "test").glob("*.png"):
        path.unlink()
    labelled = open_data(tmp_path).test
    assert labelled.labels.tolist() == [1] and labelled.name(0) == "b/000.png"
    write_class_folders(tmp_path / "test", {"x": 1})
    refused(tmp_path, "test/x is a class that training does not have")
    shutil.rmtree(tmp_path / "test")
    (tmp_path / "test").mkdir()
    refused(tmp_path, "test holds no pictures")


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


def test_array_dataset_with_several_labels():
    images = np.zeros((3, 8, 8, 3), np.uint8)
    source = ArrayDataset(images, [[1, 0], [0, 0], [1, 1]], classes=("a", "b"))
    assert source.multi_label and not ArrayDataset(images, [0, 1, 0]).multi_label
    assert source.labels.dtype == np.float32 and source[2].label.tolist() == [1, 1]
    subset = Subset(source, np.array([2, 0]))
    assert subset.multi_label and subset.labels.tolist() == [[1, 1], [1, 0]] and subset[0].label.tolist() == [1, 1]
    assert ArrayDataset(images, np.eye(3)).classes == ("0", "1", "2")
    for labels in ([[1, 0]] * 2, np.zeros((3, 2, 1))):
        with pytest.raises(ValueError, match="3 images but labels of shape"):
            ArrayDataset(images, labels)
    for labels in ([[1, 0, 0]] * 3, [[2, 0]] * 3, [[0.5, 0]] * 3):
        with pytest.raises(ValueError, match="zeros and ones, one column for each of 2 classes"):
            ArrayDataset(images, labels, classes=("a", "b"))


def test_fingerprint_of_several_labels():
    images = np.zeros((2, 8, 8, 3), np.uint8)
    labels = [[[1, 0], [0, 1]], [[0, 1], [0, 1]], [[0, 0], [0, 1]], [[1, 1], [0, 1]], [0, 1]]
    assert len({fingerprint(ArrayDataset(images, rows, classes=("a", "b"))) for rows in labels}) == 5


def test_fingerprints_of_old_runs_are_kept(tmp_path):
    """`evaluate` compares them with what a run wrote down."""
    source = ImageFolder(write_class_folders(tmp_path, {"a": 2, "b": 1}))
    expected = hashlib.sha256(b"a\0b\na/000.png\0" + b"0\na/001.png\0" + b"0\nb/000.png\0" + b"1")
    assert fingerprint(source) == expected.hexdigest()


def test_image_files_have_no_labels(tmp_path):
    source = ImageFiles([tmp_path / "a.png"], classes=("x", "y"))
    assert source[0] == (tmp_path / "a.png", -1) and source.name(0) == str(tmp_path / "a.png")


def test_split_dataset_keeps_the_class_list():
    source = ArrayDataset(np.zeros((10, 4, 4, 3), np.uint8), [0, 1] * 5, classes=("no", "yes"))
    train, valid = split_dataset(source, valid_fraction=0.3)
    assert train.classes == valid.classes == ("no", "yes")
    assert len(valid) == 4 and set(valid.labels) == {0, 1}


@pytest.mark.parametrize("multi_label", [False, True])
def test_folds_hold_every_example_out_once(multi_label):
    labels = np.arange(20) % 2
    source = ArrayDataset(np.zeros((20, 4, 4, 3), np.uint8), np.eye(2)[labels] if multi_label else labels)
    held_out = []
    for fold in range(4):
        train, valid = fold_datasets(source, num_folds=4, fold=fold, seed=1)
        assert sorted(train.indices.tolist() + valid.indices.tolist()) == list(range(20))
        assert len(valid) == 5 and set(labels[valid.indices]) == {0, 1} and valid.multi_label == multi_label
        held_out += valid.indices.tolist()
    assert sorted(held_out) == list(range(20))
    with pytest.raises(ValueError, match=r"fold=4 must lie in 0 .. 3"):
        fold_datasets(source, num_folds=4, fold=4)


def test_a_class_of_one_has_no_folds():
    source = ArrayDataset(np.zeros((3, 4, 4, 3), np.uint8), [0, 0, 1], classes=("many", "lonely"))
    with pytest.raises(ValueError, match="'lonely' has one picture only"):
        fold_datasets(source, num_folds=2, fold=0)


def test_grain_takes_every_source(tmp_path, photos):
    import grain

    write_class_folders(tmp_path, {"a": 2})
    (tmp_path / "t.csv").write_text("file,label\na/000.png,x\na/001.png,y\n")
    arrays = ArrayDataset(np.zeros((2, 4, 4, 3), np.uint8), [0, 1])
    for source in (ImageFolder(photos / "train"), CsvTable(tmp_path / "t.csv"), arrays, Subset(arrays, np.array([1]))):
        assert isinstance(source, grain.sources.RandomAccessDataSource)
        copy = pickle.loads(pickle.dumps(source))  # noqa: S301
        assert grain.MapDataset.source(copy)[0].label == source[0].label
        assert not source.multi_label
