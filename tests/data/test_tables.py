import csv
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxclf.data.sources import fingerprint
from jaxclf.data.splits import open_data, split_dataset
from jaxclf.data.tables import CsvTable, read_table


@pytest.fixture
def table(tmp_path):
    """Writes a CSV and an empty file for every picture it may name."""
    for number in range(8):
        (tmp_path / f"{number}.jpg").write_bytes(b"")

    def write(text, encoding="utf-8"):
        path = tmp_path / "table.csv"
        path.write_bytes(text.encode(encoding))
        return path

    return write


def test_single_label(table):
    path = table("file,label\n0.jpg,golden retriever\n1.jpg,cat\n2.jpg, cat \n")
    source = CsvTable(path)
    assert source.classes == ("cat", "golden retriever"), "a name with spaces is one label"
    assert not source.multi_label
    assert source.labels.dtype == np.int32 and source.labels.tolist() == [1, 0, 0]
    assert source[0] == (path.parent / "0.jpg", 1) and source.name(0) == "0.jpg" and len(source) == 3


def test_multi_label(table):
    source = CsvTable(table("file,label\n0.jpg,clear|primary forest\n1.jpg,haze\n2.jpg,\n3.jpg, haze | clear\n"))
    assert source.classes == ("clear", "haze", "primary forest")
    assert source.multi_label and source.labels.dtype == np.float32
    assert source.labels.tolist() == [[1, 0, 1], [0, 1, 0], [0, 0, 0], [1, 1, 0]]
    assert source[3].label.tolist() == [1, 1, 0]
    copy = pickle.loads(pickle.dumps(source))  # noqa: S301
    assert fingerprint(copy) == fingerprint(source) and copy[0].image == source[0].image
    swapped = CsvTable(source.table, classes=("haze", "clear", "primary forest"))
    assert swapped.labels[0].tolist() == [0, 1, 1]


def test_as_spreadsheets_write_it(table):
    plain = CsvTable(table('file,label\n0.jpg,a\n1.jpg,"b, or c"\n'))
    odd = CsvTable(table('\ufeff"Label",size,"FILE"\r\na,3,0.jpg\r\n\r\n"b, or c",4,"1.jpg"\r\n,,\r\n'))
    assert fingerprint(plain) == fingerprint(odd)
    assert odd.classes == ("a", "b, or c")


def test_splits_share_one_class_list(table):
    path = table(
        "file,label,split\n0.jpg,b,train\n1.jpg,a,Train\n2.jpg,c,train\n3.jpg,b,val\n4.jpg,,test\n5.jpg,c,test\n"
    )
    splits = open_data(path)
    assert splits.layout == "split"
    assert [splits.train.name(i) for i in range(3)] == ["0.jpg", "1.jpg", "2.jpg"]
    assert splits.train.classes == splits.valid.classes == splits.test.classes == ("a", "b", "c")
    assert splits.valid.labels.tolist() == [1] and splits.test.labels.tolist() == [-1, 2]
    renamed = open_data(path, classes=("c", "b", "a", "new"))
    assert renamed.train.labels.tolist() == [1, 2, 0] and renamed.test.classes[3] == "new"


def test_without_validation_lines_it_is_drawn(table):
    body = "".join(f"{i}.jpg,{'ab'[i % 2]},train\n" for i in range(6))
    splits = open_data(table("file,label,split\n" + body + "6.jpg,,test\n"), seed=1)
    assert splits.layout == "drawn" and len(splits.test) == 1
    assert (len(splits.train), len(splits.valid), len(splits.whole)) == (4, 2, 6)
    plain = open_data(table("file,label\n" + body.replace(",train", "")), seed=1)
    assert plain.test is None and fingerprint(plain.valid) == fingerprint(splits.valid)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", "table.csv is empty; its first line must be: file,label"),
        ("file,label\n", "has a header but no lines"),
        ("0.jpg,a\n1.jpg,b\n", "line 1: no column 'file' among 0.jpg, a;"),
        ("file;label\n0.jpg;a\n", "line 1: no column 'file' among file;label"),
        ("file,label,label\n0.jpg,a,b\n", "line 1: two columns have the same name"),
        ("file,label\n0.jpg,a\n1.jpg\n", "line 3: 1 cells where the header has 2"),
        ("file,label\n0.jpg,a, or b\n", "line 2: 3 cells .* quotes"),
        ("file,label\n,a\n", "line 2: the file is missing"),
        ("file,label\n0.jpg,a\n\n1.jpg,b\n0.jpg,b\n", "line 5: 0.jpg is listed already in line 2"),
        ("file,label\n0.jpg,a\n1.jpg,\n", "line 3: 1.jpg has no label; fill it in"),
        ("file,label\n0.jpg,a||b\n", "line 2: label 'a||b' names nothing or the same twice"),
        ("file,label\n0.jpg,a|a\n", "line 2: label 'a|a' names nothing or the same twice"),
        ("file,label,split\n0.jpg,a,train\n1.jpg,b,dev\n", "line 3: split 'dev' must be one of train, valid, val"),
        ("file,label,split\n0.jpg,a,train\n1.jpg,b,\n", "line 3: split '' must be"),
        ("file,label,split\n0.jpg,a,test\n1.jpg,b,valid\n", "no lines whose split is train"),
        (
            "file,label,split\n0.jpg,a,train\n1.jpg,b,train\n2.jpg,c,valid\n",
            "line 4: 'c' is a class that training does",
        ),
        ("file,label,split\n0.jpg,a|b,train\n1.jpg,b|x,test\n", "line 3: 'x' is a class .*knows a, b"),
        ("file,label\n0.jpg,a\n1.jpg,a\n", r"has 1 classes \(a\)"),
        ("file,label\n0.jpg,a\nmissing.jpg,b\n", "line 3: .*missing.jpg does not exist; files are looked for relative"),
        ('file,label\n0.jpg,a\n1.jpg,"b\n', "line 3: not valid CSV"),
    ],
)
def test_bad_tables_are_named_with_their_line(table, text, match):
    path = table(text)
    with pytest.raises(ValueError, match=match) as error:
        open_data(path)
    assert str(path) in str(error.value)


def test_bad_files(table, tmp_path):
    with pytest.raises(ValueError, match=r"none\.csv does not exist"):
        open_data(tmp_path / "none.csv")
    with pytest.raises(ValueError, match="not UTF-8.*save it as UTF-8"):
        open_data(table("file,label\n0.jpg,Kätzchen\n", "latin-1"))
    with pytest.raises(ValueError, match="split='val' must be train, valid, test or None"):
        CsvTable(table("file,label\n0.jpg,a\n1.jpg,b\n"), split="val")
    with pytest.raises(ValueError, match="no lines whose split is test"):
        CsvTable(tmp_path / "table.csv", split="test")


NAMES = st.text(
    st.characters(codec="utf-8", exclude_characters="|\r\n\x00", exclude_categories=("Cc", "Zs", "Cf")),
    min_size=1,
    max_size=6,
)


@given(st.lists(st.frozensets(NAMES, max_size=3), min_size=1, max_size=6))
def test_every_set_of_labels_survives_the_table(tmp_path_factory, rows):

    path = tmp_path_factory.mktemp("csv") / "t.csv"
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "label"])
        writer.writerow(["first.jpg", "x|y"])
        writer.writerows([f"{number}.jpg", "|".join(row)] for number, row in enumerate(rows))
    table = read_table(path)
    assert [set(record.labels) for record in table.records[1:]] == [
        {name.strip() for name in row} - {""} for row in rows
    ]
    assert table.multi_label and table.classes == tuple(sorted({"x", "y"}.union(*rows)))


def test_a_multi_label_split_keeps_rare_combinations_in_training(table):
    rows = ["a|b", "a|b", "a|b", "c", "c", "c", "a|c", ""]
    source = CsvTable(table("file,label\n" + "".join(f"{i}.jpg,{row}\n" for i, row in enumerate(rows))))
    train, valid = split_dataset(source, valid_fraction=0.3)
    assert train.multi_label and valid.multi_label and len(valid) == 2
    assert sorted(valid.labels.tolist()) == [[0, 0, 1], [1, 1, 0]]
