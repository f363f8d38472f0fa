"""A real prepared data set, built by tensorflow_datasets itself, once per session and without TensorFlow."""

import io
import os
import pickle
import re
import shlex
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

import jaxclf
from jaxclf.data.decode import pixels
from jaxclf.data.loader import Loader
from jaxclf.data.manifest import record_fingerprints
from jaxclf.data.sources import fingerprint
from jaxclf.data.splits import open_data, open_parts
from jaxclf.data.tfds import TfdsSource, find_prepared, split_names

NAMES = ["cat", "dog", "axolotl"]


def png(number: int) -> io.BytesIO:
    """A picture whose every pixel is its number."""
    file = io.BytesIO()
    Image.fromarray(np.full((10 + number % 3, 12, 3), number, np.uint8)).save(file, "png")
    file.seek(0)
    return file


class JaxclfFaces(tfds.core.GeneratorBasedBuilder):
    """Picture number i shows class i % 3; whatever else a record holds, nobody wants."""

    VERSION = tfds.core.Version("1.2.0")
    SPLITS = {"train": range(30), "test": range(30, 36)}  # noqa: RUF012

    def _info(self):
        return self.make_info(tfds.features.ClassLabel(names=NAMES), ("image", "label"))

    def make_info(self, label, keys=None):
        box = {"box": tfds.features.BBoxFeature(), "kind": tfds.features.ClassLabel(num_classes=9)}
        features = {
            "image": tfds.features.Image(shape=(None, None, 3)),
            "mask": tfds.features.Image(),
            "name": tfds.features.Text(),
            "objects": tfds.features.Sequence(box),
            "label": label,
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features), supervised_keys=keys)

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples(numbers) for split, numbers in self.SPLITS.items()}

    def _generate_examples(self, numbers):
        for i in numbers:
            objects = [{"box": tfds.features.BBox(0.0, 0.0, 0.5, 0.5), "kind": 8}] * (i % 3)
            record = {"image": png(i), "mask": png(0), "name": f"picture {i}", "objects": objects}
            yield i, {**record, "label": self.label(i)}

    def label(self, i):
        return i % 3


class JaxclfSplits(JaxclfFaces):
    SPLITS = {"train": range(6), "validation": range(6, 9), "test": range(9, 12)}  # noqa: RUF012

    def label(self, i):
        return i % 3 if i < 9 else -1


class JaxclfMulti(JaxclfFaces):
    def _info(self):
        return self.make_info(tfds.features.Sequence(tfds.features.ClassLabel(names=NAMES)))

    def label(self, i):
        return [n for n in range(3) if i >> n & 1]


class JaxclfNumbers(JaxclfFaces):
    def _info(self):
        return self.make_info(tfds.features.Scalar(np.int64))


class JaxclfMasks(JaxclfFaces):
    def _info(self):
        return self.make_info(tfds.features.ClassLabel(names=NAMES), ("mask", "label"))


class JaxclfUnknown(JaxclfFaces):
    def label(self, i):
        return -1 if i == 4 else i % 3


class JaxclfUntrained(JaxclfFaces):
    SPLITS = {"unlabelled": range(3)}  # noqa: RUF012


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tfds")
    for builder in (JaxclfFaces, JaxclfSplits, JaxclfMulti, JaxclfNumbers, JaxclfMasks, JaxclfUnknown, JaxclfUntrained):
        builder(data_dir=folder, file_format="array_record").download_and_prepare()
    return folder


@pytest.fixture(autouse=True)
def data_dir(prepared, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(prepared))


def number_of(example) -> int:
    return int(np.asarray(pixels(example.image))[0, 0, 0])


def test_pictures_labels_and_names_belong_together():
    source = TfdsSource("jaxclf_faces")
    assert len(source) == 30 and source.classes == tuple(NAMES) and not source.multi_label
    numbers = [number_of(source[i]) for i in range(30)]
    assert sorted(numbers) == list(range(30))
    assert source.labels.dtype == np.int32
    assert source.labels.tolist() == [source[i].label for i in range(30)] == [n % 3 for n in numbers]
    assert str(source[7].image) == source.name(7) == "tfds:jaxclf_faces:1.2.0/train/7"


def test_a_validation_part_is_drawn_where_there_is_none():
    splits = open_data("tfds:jaxclf_faces", seed=2)
    assert splits.layout == "drawn" and sorted(split_names("jaxclf_faces")) == ["test", "train"]
    assert [len(part) for part in (splits.train, splits.valid, splits.test, splits.whole)] == [24, 6, 6, 30]
    assert {number_of(splits.test[i]) for i in range(6)} == set(range(30, 36))
    assert splits.test.labels.tolist() == [number_of(splits.test[i]) % 3 for i in range(6)]
    whole, held_back, _ = open_parts("tfds:jaxclf_faces:1.2.0")
    assert held_back is None and fingerprint(whole) == fingerprint(splits.whole)


def test_a_validation_split_is_taken_and_an_unlabelled_test_split_too():
    splits = open_data("tfds:jaxclf_splits")
    assert splits.layout == "split"
    assert {number_of(splits.valid[i]) for i in range(3)} == {6, 7, 8}
    assert splits.test.labels.tolist() == [-1, -1, -1]


def test_the_order_of_a_run_is_kept():
    plain, swapped = TfdsSource("jaxclf_faces"), TfdsSource("jaxclf_faces", classes=("new", "axolotl", "dog", "cat"))
    np.testing.assert_array_equal(np.array([3, 2, 1])[plain.labels], swapped.labels)
    assert swapped.classes[0] == "new"
    with pytest.raises(ValueError, match=r"train/\d+: class '(cat|dog)' is not among the known ones \(axolotl, other"):
        TfdsSource("jaxclf_faces", classes=("axolotl", "other"))


def test_the_data_set_says_which_picture_is_meant():
    source = TfdsSource("jaxclf_masks")
    assert {number_of(source[i]) for i in range(30)} == {0}


def test_several_labels():
    source = TfdsSource("jaxclf_multi", classes=NAMES[::-1])
    assert source.multi_label and source.labels.dtype == np.float32
    for index in range(len(source)):
        number = number_of(source[index])
        assert source[index].label.tolist() == [float(number >> n & 1) for n in (2, 1, 0)]


def test_it_pickles_as_a_path():
    source = TfdsSource("tfds:jaxclf_faces")
    data = pickle.dumps(source)
    assert len(data) < 2000
    copy = pickle.loads(data)  # noqa: S301
    assert fingerprint(copy) == fingerprint(source)
    assert [number_of(copy[i]) for i in range(30)] == [number_of(source[i]) for i in range(30)]


def test_threads_and_grain_read_it():
    source = TfdsSource("jaxclf_faces")
    with ThreadPoolExecutor(8) as pool:
        numbers = list(pool.map(lambda i: number_of(source[i % 30]), range(240)))
    assert numbers == [number_of(source[i]) for i in range(30)] * 8
    loader = Loader(source, batch_size=7, image_size=8, train=True, presized=False, cache="none", num_threads=3)
    for batch in loader.epoch(0):
        np.testing.assert_array_equal(batch.inputs[:, 0, 0, 0] % 3, batch.labels)


def test_records_are_known_by_their_content():
    source = TfdsSource("jaxclf_faces")
    digests = record_fingerprints(source)
    assert len(set(map(bytes, digests))) == 30
    np.testing.assert_array_equal(digests, record_fingerprints(source, content=True))


def test_what_is_missing_is_named_with_the_command(prepared):
    for name in ("cats_vs_dogs", "oxford_iiit_pet", "jaxclf_faces:9.9.9", "jaxclf_faces/config"):
        with pytest.raises(
            ValueError, match=rf"tfds:{name} is not prepared in {prepared}.*Prepare it once.*TensorFlow"
        ):
            open_data(f"tfds:{name}")
    with pytest.raises(ValueError, match=r"\(prepared: 1\.2\.0\)"):
        open_data("tfds:jaxclf_faces:9.9.9")
    for name in ("", "../etc", "a/../b", "a b", "a:1", "/etc"):
        with pytest.raises(ValueError, match="is not a data set's name; write tfds:NAME"):
            open_data(f"tfds:{name}")


def test_the_command_in_the_message_does_prepare_it(tmp_path, monkeypatch):
    """JaxclfFaces is registered in this process, so the code runs here instead of in a new Python."""
    folder = tmp_path / 'it\'s a "folder"'
    monkeypatch.setenv("TFDS_DATA_DIR", str(folder))
    with pytest.raises(ValueError, match="is not prepared") as error:
        open_data("tfds:jaxclf_splits")
    command = re.search(r"python -c .*(?= - or set)", str(error.value))
    python, option, code = shlex.split(command[0])
    assert (python, option) == ("python", "-c")
    exec(code)
    assert len(open_data("tfds:jaxclf_splits").train) == 6


def test_one_config_is_found_and_several_must_be_chosen_from(tmp_path, prepared):
    for config, version in (("small", "1.0.0"), ("small", "1.10.0"), ("small", "1.9.0")):
        (tmp_path / "set" / config / version).mkdir(parents=True)
        (tmp_path / "set" / config / version / "dataset_info.json").write_text("{}")
    assert find_prepared("set", tmp_path).parts[-2:] == ("small", "1.10.0"), "versions are numbers, not text"
    assert find_prepared("set/small:1.9.0", tmp_path).name == "1.9.0"
    (tmp_path / "set" / "large" / "1.0.0").mkdir(parents=True)
    (tmp_path / "set" / "large" / "1.0.0" / "dataset_info.json").write_text("{}")
    with pytest.raises(ValueError, match="several configs; choose one of large, small"):
        find_prepared("set", tmp_path)
    assert find_prepared("set/large", tmp_path).parts[-2:] == ("large", "1.0.0")


def test_unfit_data_sets_are_named(tmp_path, prepared, monkeypatch):
    with pytest.raises(ValueError, match=r"no classification data set.*label \(Scalar\)"):
        open_data("tfds:jaxclf_numbers")
    with pytest.raises(ValueError, match=r"no split named train \(it has unlabelled\)"):
        open_data("tfds:jaxclf_untrained")
    with pytest.raises(ValueError, match=r"train/\d+ has no label: split 'train'"):
        open_data("tfds:jaxclf_unknown")
    with pytest.raises(ValueError, match="no split 'valid'; it has train, test"):
        TfdsSource("jaxclf_faces", split="valid")
    damaged = tmp_path / "jaxclf_faces" / "1.2.0"
    damaged.mkdir(parents=True)
    (damaged / "dataset_info.json").write_text("{")
    with pytest.raises(ValueError, match=rf"{damaged} cannot be read .*delete it and prepare it again"):
        TfdsSource("jaxclf_faces", data_dir=tmp_path)
    kept = prepared / "jaxclf_faces" / "1.2.0"
    for file in kept.iterdir():
        text = file.read_bytes()
        (damaged / file.name).write_bytes(text.replace(b"tensorflow_datasets.core.features.text", b"antigravity.text"))
    with pytest.raises(ValueError, match=r"feature class 'antigravity.* is not one of tensorflow_datasets"):
        TfdsSource("jaxclf_faces", data_dir=tmp_path)
    assert "antigravity" not in sys.modules
    for file in kept.iterdir():
        text = file.read_bytes()
        (damaged / file.name).write_bytes(text.replace(b'"array_record"', b'"tfrecord"'))
    with pytest.raises(
        ValueError, match=r"stored in .* as tfrecord, which is not read at random.*as array_record: python"
    ):
        TfdsSource("jaxclf_faces", data_dir=tmp_path)


def test_damaged_files_are_named(tmp_path, prepared):
    copy = tmp_path / "jaxclf_faces"
    shutil.copytree(prepared / "jaxclf_faces", copy)
    source = TfdsSource("jaxclf_faces", data_dir=tmp_path)
    shard = next(copy.rglob("*train*"))
    content = shard.read_bytes()
    for change in (lambda: shard.write_bytes(content[:1000]), shard.unlink):
        change()
        with pytest.raises(ValueError, match=rf"train/0 cannot be read .*{copy}.*missing or damaged.*prepare it again"):
            TfdsSource("jaxclf_faces", data_dir=tmp_path)
    with pytest.raises(ValueError, match="train/3 cannot be read"):
        pickle.loads(pickle.dumps(source))[3]  # noqa: S301


def test_tensorflow_is_not_touched(tmp_path, prepared):
    log = tmp_path / "touched.log"
    (tmp_path / "tensorflow").mkdir()
    recorder = f"import traceback; print(*traceback.format_stack(), file=open({str(log)!r}, 'a'))"
    (tmp_path / "tensorflow" / "__init__.py").write_text(recorder)
    code = """
import pickle
import jaxclf
from jaxclf.data.decode import pixels
splits = jaxclf.open_data("tfds:jaxclf_faces")
copy = pickle.loads(pickle.dumps(splits.train))
print(len(splits.train), pixels(copy[3].image).size[0], len(jaxclf.record_fingerprints(splits.test)))
"""
    path = os.pathsep.join([str(tmp_path), str(Path(jaxclf.__file__).parent.parent)])
    environment = {**os.environ, "PYTHONPATH": path, "JAX_PLATFORMS": "cpu"}

    def python(code):
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=300
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert python(code).split() == ["24", "12", "6"]
    assert not log.exists(), log.read_text()
    python("import tensorflow")
    assert log.exists(), "the stand-in records"
