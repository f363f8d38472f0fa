"""Each defect is built into a small clean tree: the report names its kind and its paths, and nothing else."""

import io
import json
import os
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from jaxclf.cli import main
from jaxclf.data.check.listing import Listing, Record, list_sources
from jaxclf.data.check.pictures import inspect_image, near_groups
from jaxclf.data.check.report import check_data, check_listing, find_class_errors, find_imbalance
from jaxclf.data.sources import ArrayDataset, Subset


def picture(seed, size=(48, 40)):
    """Smooth, so that a saved copy looks the same; each seed its own."""
    patches = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), np.uint8)
    return Image.fromarray(patches).resize(size, Image.Resampling.BICUBIC)


@pytest.fixture
def clean(tmp_path):
    """train and valid with two classes, all pictures different."""
    root = tmp_path / "data"
    for seed, path in enumerate(
        f"{split}/{name}/{number}.png" for split in ("train", "valid") for name in ("ant", "bee") for number in range(3)
    ):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        picture(seed).save(root / path)
    return root


def found(root, **kwargs):
    """(kind, paths relative to the data) of errors and of warnings."""
    report = check_data(root, **kwargs)

    def shorten(findings):
        return [(f.kind, *sorted(os.path.relpath(path, root) for path in f.paths)) for f in findings]

    return shorten(report.errors), shorten(report.warnings)


def test_a_clean_tree_has_nothing_to_report(clean):
    report = check_data(clean)
    assert report.errors == () and report.warnings == ()
    assert report.num_images == 12 and report.modes == {"RGB": 12}
    assert report.counts == {"train": {"ant": 3, "bee": 3}, "valid": {"ant": 3, "bee": 3}}
    assert report.sizes["32-63"] == 12 == sum(report.sizes.values())


def snapshot(root):
    paths = sorted(root.rglob("*"))
    return {path: (path.lstat().st_mtime_ns, path.lstat().st_size, path.lstat().st_mode) for path in paths}


def cut(path):
    path.write_bytes(path.read_bytes()[:60])


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (cut, "truncated"),
        (lambda path: path.write_bytes(b""), "0 bytes"),
        (lambda path: path.write_text("<html>"), "not a picture"),
        (lambda path: (path.unlink(), path.symlink_to("/nowhere/at/all.png")), "broken link"),
    ],
    ids=["truncated", "empty", "text", "broken link"],
)
def test_unreadable_files_are_named_and_left_alone(clean, spoil, reason):
    spoil(clean / "train" / "bee" / "1.png")
    before = snapshot(clean)
    report = check_data(clean)
    assert snapshot(clean) == before
    (finding,) = report.errors
    assert finding.kind == "unreadable" and finding.paths == (str(clean / "train/bee/1.png"),)
    assert reason in finding.message and str(clean / "train/bee/1.png") in finding.message
    assert report.warnings == () and sum(report.sizes.values()) == 11


def test_a_file_without_permission(clean, monkeypatch):
    from pathlib import Path

    read_bytes = Path.read_bytes

    def guarded(path):  # root may read anything, so the refusal is played
        if path.name == "2.png" and path.parent.name == "ant":
            raise PermissionError(13, "Permission denied", str(path))
        return read_bytes(path)

    monkeypatch.setattr(Path, "read_bytes", guarded)
    errors, _ = found(clean)
    assert errors == [("unreadable", "train/ant/2.png"), ("unreadable", "valid/ant/2.png")]


@pytest.mark.parametrize("again", ["the file", "as BMP", "with an orientation"])
def test_the_same_image_in_two_splits(clean, again):
    source, copy = clean / "train/ant/0.png", clean / "valid/ant/copy.png"
    if again == "the file":
        copy.write_bytes(source.read_bytes())
    elif again == "as BMP":
        Image.open(source).save(copy, "BMP")
    else:
        exif = Image.Exif()
        exif[0x0112] = 6  # stored a quarter turn to the left, shown upright
        Image.open(source).transpose(Image.Transpose.ROTATE_90).save(copy, exif=exif)
    errors, warnings = found(clean)
    assert errors == [("leak", "train/ant/0.png", "valid/ant/copy.png")] and warnings == []


def test_the_same_image_under_two_labels_and_in_two_splits(clean):
    (clean / "train/bee/a.png").write_bytes((clean / "train/ant/0.png").read_bytes())
    (clean / "valid/bee/b.png").write_bytes((clean / "train/ant/1.png").read_bytes())
    errors, warnings = found(clean)
    across = ("train/ant/1.png", "valid/bee/b.png")
    assert errors == [("leak", *across), ("two labels", "train/ant/0.png", "train/bee/a.png"), ("two labels", *across)]
    assert warnings == []


def test_duplicates_and_near_duplicates_within_a_split_are_warnings(clean):
    (clean / "train/ant/again.png").write_bytes((clean / "train/ant/0.png").read_bytes())
    Image.open(clean / "valid/bee/0.png").save(clean / "valid/bee/near.jpg", quality=70)
    Image.open(clean / "valid/bee/0.png").resize((96, 80)).save(clean / "valid/bee/large.png")
    errors, warnings = found(clean)
    assert errors == []
    assert warnings == [
        ("duplicate", "train/ant/0.png", "train/ant/again.png"),
        ("near duplicate", "valid/bee/0.png", "valid/bee/large.png", "valid/bee/near.jpg"),
    ]


def test_near_groups_against_all_pairs():
    """The bands miss no pair; different pictures, also a picture and its mirror image, are not the same."""
    facts = []
    for seed in range(12):
        image = picture(seed, (64, 64))
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=85)
        again = Image.open(io.BytesIO(buffer.getvalue()))
        mirrored = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        facts += [inspect_image(np.asarray(each)) for each in (image, again, mirrored)]
    expected = []
    for i, one in enumerate(facts):
        for j, other in enumerate(facts[:i]):
            bits = bin(one.gradients ^ other.gradients).count("1")
            if bits <= 3 and np.abs(np.subtract(one.thumbnail, other.thumbnail, dtype=float)).mean() < 8:
                expected.append([j, i])
    assert near_groups(facts) == sorted(expected)
    assert len(expected) >= 10 and all(i % 3 == 0 and j == i + 1 for i, j in expected)


def test_classes_empty_missing_and_unknown(clean):
    (clean / "train" / "cow").mkdir()
    (clean / "valid" / "bee").rename(clean / "valid" / "eel")
    report = check_data(clean)
    assert [(f.kind, f.message.split(":")[0]) for f in report.errors] == [
        ("empty class", "class 'cow' has no pictures in train"),
        ("missing class", "class 'bee' is in train but not in valid"),
        ("unknown class", "class 'eel' is in valid but not in train"),
    ]
    assert report.counts["train"]["cow"] == 0 and report.warnings == ()


def test_a_class_of_one_matters_where_the_split_is_still_to_be_drawn():
    assert [f.kind for f in find_class_errors({"all": {"ant": 1, "bee": 5}})] == ["too few"]
    assert find_class_errors({"train": {"ant": 1, "bee": 5}, "valid": {"ant": 1, "bee": 1}}) == []


def test_imbalance_beyond_ten_to_one():
    assert find_imbalance({"train": {"ant": 30, "bee": 3}, "valid": {"ant": 99, "bee": 1}}) == []
    (finding,) = find_imbalance({"all": {"ant": 31, "bee": 3, "cow": 0, "(no label)": 999}})
    assert finding.kind == "imbalance" and "'ant' has 31" in finding.message and "'bee' 3" in finding.message


def odd_pictures():
    base = picture(99)
    grey = np.asarray(base.convert("L"))
    clear = base.convert("RGBA")
    clear.putalpha(Image.fromarray(np.where(np.arange(40)[:, None] + np.zeros(48) > 20, 255, 0).astype(np.uint8)))
    two = base.convert("P")
    return {
        "cmyk.jpg": (base.convert("CMYK"), {}, "CMYK"),
        "deep.png": (Image.fromarray(grey.astype(np.uint16) * 257), {}, "16-bit"),
        "bits.png": (base.convert("1"), {}, "1-bit"),
        "clear.png": (clear, {}, "transparent"),
        "grey_clear.png": (clear.convert("LA"), {}, "transparent"),
        "palette_clear.png": (two, {"transparency": 3}, "transparent"),
        "moving.gif": (two, {"save_all": True, "append_images": [picture(98).convert("P")]}, "several frames"),
    }


@pytest.mark.parametrize("name", odd_pictures())
def test_odd_modes_are_warned_about(clean, name):
    image, options, reason = odd_pictures()[name]
    image.save(clean / "train" / "ant" / name, **options)
    report = check_data(clean)
    assert report.errors == ()
    (finding,) = report.warnings
    assert finding.kind == "odd mode" and reason in finding.message
    assert finding.paths == (str(clean / "train/ant" / name),)


def test_plain_grey_opaque_alpha_and_palettes_are_only_counted(clean):
    picture(50).convert("L").save(clean / "train/ant/grey.png")
    picture(51).convert("RGBA").save(clean / "train/ant/opaque.png")
    picture(52).convert("P").save(clean / "train/ant/palette.png")
    report = check_data(clean)
    assert report.warnings == () and report.modes == {"RGB": 12, "L": 1, "RGBA": 1, "P": 1}


def test_tiny_foreign_hidden_and_unused_files(clean):
    picture(60, (31, 200)).save(clean / "valid/ant/small.png")
    picture(61, (32, 200)).save(clean / "valid/ant/just.png")
    (clean / "valid/ant/notes.txt").write_text("x")
    (clean / "readme.md").write_text("x")
    (clean / "valid/ant/.DS_Store").write_text("x")
    (clean / "valid/ant/.thumbnails").mkdir()
    picture(63, (8, 8)).save(clean / "valid/ant/.thumbnails/0.png")
    picture(62).save(clean / "train/loose.png")
    (clean / "more").mkdir()
    errors, warnings = found(clean)
    assert errors == []
    assert Counter(warnings) == Counter(
        [
            ("tiny", "valid/ant/small.png"),
            ("not an image", "readme.md", "valid/ant/notes.txt"),
            ("unused", "train/loose.png"),
            ("unused", "more"),
        ]
    )


def test_layouts(clean, tmp_path):
    """Data without a split, a flat folder, one class, a test split without classes, validation alone."""
    assert check_data(clean / "train").counts == {"all": {"ant": 3, "bee": 3}}
    flat = check_data(clean / "train" / "ant")
    assert [f.kind for f in flat.errors] == ["layout"] and flat.counts == {"all": {"(no label)": 3}}
    (clean / "test").mkdir()
    (clean / "test" / "unknown.png").write_bytes((clean / "train/ant/0.png").read_bytes())
    errors, warnings = found(clean)
    assert errors == [("leak", "test/unknown.png", "train/ant/0.png")] and warnings == []
    (clean / "train").rename(tmp_path / "away")
    assert found(clean)[0] == [("layout", ".")]
    (tmp_path / "one" / "only").mkdir(parents=True)
    picture(0).save(tmp_path / "one" / "only" / "0.png")
    picture(1).save(tmp_path / "one" / "only" / "1.png")
    assert found(tmp_path / "one")[0] == [("layout", "only")]
    with pytest.raises(ValueError, match="nowhere does not exist"):
        check_data(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="is a file, not a folder"):
        check_data(tmp_path / "one/only/0.png")


def test_duplicates_before_a_split_is_drawn(clean):
    (clean / "train/ant/again.png").write_bytes((clean / "train/ant/0.png").read_bytes())
    (finding,) = check_data(clean / "train").warnings
    assert finding.kind == "duplicate" and "drawn validation part" in finding.message


class Bytes:
    """What a source may hand out: something with `read_bytes()`."""

    def __init__(self, content):
        self.content = content

    def read_bytes(self):
        return self.content


def test_records_of_any_kind():
    """Arrays, bytes in an archive, several labels: the same checks without any file."""
    pixels = np.asarray(picture(0))
    buffer = io.BytesIO()
    picture(0).save(buffer, "PNG")
    records = [
        Record("train", ("ant",), "#0", pixels),
        Record("train", ("ant", "bee"), "zip:a.png", Bytes(buffer.getvalue())),
        Record("valid", ("bee",), "#2", np.asarray(picture(1))),
        Record("valid", ("ant",), "zip:b.png", Bytes(b"nonsense")),
    ]
    listing = Listing(records, {"train": ("ant", "bee"), "valid": ("ant", "bee")})
    once = check_listing(listing, data="x")
    assert [(f.kind, f.paths) for f in once.errors] == [
        ("unreadable", ("zip:b.png",)),
        ("two labels", ("#0", "zip:a.png")),
    ]
    several = check_listing(listing._replace(multi_label=True), data="x")
    assert [f.kind for f in several.errors] == ["unreadable"] and [f.kind for f in several.warnings] == ["duplicate"]
    assert several.counts["train"] == {"ant": 2, "bee": 1}


class Several:
    """A data source with several labels per picture; the first two are the same picture."""

    classes = ("ant", "bee")
    multi_label = True
    labels = np.array([[1, 1], [0, 1], [0, 0]], np.float32)

    def __len__(self):
        return 3

    def __getitem__(self, index):
        return SimpleNamespace(image=np.asarray(picture(max(index, 1))), label=self.labels[index])

    def name(self, index):
        return f"#{index}"


def test_sources_of_any_kind():
    """A data source in memory, labels as numbers or as rows of several."""
    pixels = [np.asarray(picture(seed)) for seed in range(4)]
    train = ArrayDataset([*pixels, pixels[0]], [0, 0, 1, -1, 1], classes=("ant", "bee"))
    valid = Subset(train, np.array([1]))
    report = check_listing(list_sources({"train": train, "valid": valid}), data="x")
    assert report.counts == {"train": {"ant": 2, "bee": 2, "(no label)": 1}, "valid": {"ant": 1, "bee": 0}}
    assert [(f.kind, f.paths) for f in report.errors] == [
        ("empty class", ()),
        ("leak", ("1", "1")),
        ("two labels", ("0", "4")),
    ]
    listing = list_sources({"train": Several()})
    assert listing.multi_label and [record.labels for record in listing.records] == [("ant", "bee"), ("bee",), ()]
    report = check_listing(listing, data="x")
    assert report.errors == () and [f.kind for f in report.warnings] == ["duplicate"]


def test_threads_change_nothing_and_progress_counts_up(clean):
    cut(clean / "train" / "bee" / "1.png")
    (clean / "valid/bee/b.png").write_bytes((clean / "train/ant/1.png").read_bytes())
    seen = []
    reports = [check_data(clean, num_threads=n, on_progress=lambda *at: seen.append(at)) for n in (1, 2, 9)]
    assert reports[0] == reports[1] == reports[2]
    assert seen == [(done, 13) for done in range(1, 14)] * 3


def run(*arguments):
    with pytest.raises(SystemExit) as end:
        main([str(argument) for argument in arguments])
    return int(end.value.code or 0)


def test_command_line(clean, tmp_path, capsys):
    assert run("check", clean) == 0
    printed = capsys.readouterr().out
    assert f"12 pictures in {clean}: nothing wrong" in printed and "\x1b[" not in printed
    picture(60, (31, 200)).save(clean / "valid/ant/small.png")
    assert run("check", clean) == 0, "warnings alone are not a failure"
    assert "0 errors, 1 warning" in capsys.readouterr().out
    for number in range(7):
        (clean / f"train/bee/zero{number}.png").touch()
    (clean / "train/[red]").mkdir()
    before = snapshot(clean)
    assert run("check", clean, "--show", 2, "--json", tmp_path / "report.json") == 1
    assert snapshot(clean) == before
    printed = capsys.readouterr().out
    assert f"{clean}/train/bee/zero1.png cannot be read: it is empty (0 bytes)" in printed
    assert "zero2" not in printed and ".. 7 in all" in printed and "[red]" in printed
    report = json.loads((tmp_path / "report.json").read_text())
    assert report == json.loads(json.dumps(check_data(clean).to_dict()))
    assert [e["kind"] for e in report["errors"]] == ["unreadable"] * 7 + ["empty class"]
    assert report["counts"]["train"] == {"[red]": 0, "ant": 3, "bee": 10}


def test_command_line_refuses_in_one_line(clean, tmp_path, capsys):
    for arguments, message in [
        ((tmp_path / "nowhere",), "nowhere does not exist"),
        ((clean, "--json", tmp_path / "no" / "report.json"), "json="),
        ((clean, "--json", tmp_path), "json="),
    ]:
        assert run("check", *arguments) == 1
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1
    assert run("check", clean, "--show", "0") == 2
    assert run("check", "--help") == 0 and "Example: jaxclf check" in capsys.readouterr().out


def test_real_photos_have_no_false_alarm(shared_dogscats):
    report = check_data(shared_dogscats)
    assert report.num_images == 700 and report.errors == () and report.warnings == ()
