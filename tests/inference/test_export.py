"""A classifier in one file: the same probabilities, for every platform, and a file that nobody can bend."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jax import export as jax_export
from PIL import Image

from jaxclf.config import Preprocess
from jaxclf.inference.decision import calibrated_threshold, decide
from jaxclf.inference.export import export_classifier, load_exported, lower_classifier
from jaxclf.inference.export_file import MAGIC, Description, is_export, read_export, write_export
from jaxclf.inference.predict import make_predict_step
from jaxclf.metrics import label_probabilities, probabilities
from jaxclf.models import ResNetConfig, create_classifier

PREPROCESS = Preprocess(image_size=32, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25), interpolation="bicubic")
CLASSES = ("cat", "dog", "Löwe")
TEMPERATURE = 1.7


def pictures(count: int) -> np.ndarray:
    return np.random.default_rng(count).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)


def logits_of(model, variables, images) -> np.ndarray:
    return np.asarray(make_predict_step(model, preprocess=PREPROCESS)(variables, images), np.float64)


@pytest.fixture(scope="module")
def file(tiny, tmp_path_factory):
    path = tmp_path_factory.mktemp("export") / "tiny.jaxclf"
    return export_classifier(path, *tiny, preprocess=PREPROCESS, classes=CLASSES, temperature=TEMPERATURE)


@pytest.fixture(scope="module")
def exported(file):
    return load_exported(file)


@pytest.fixture(scope="module")
def parts(file):
    """Description, program and arrays of the file."""
    return read_export(file)


def test_any_batch_gives_the_calibrated_probabilities(tiny, exported):
    images = pictures(17)
    expected = probabilities(logits_of(*tiny, images) / TEMPERATURE)
    assert np.ptp(expected, axis=0).max() > 1e-3, "pictures differ by far more than the tolerance"
    for count, batch_size in ((1, None), (3, None), (17, None), (3, 17)):
        found = exported.probabilities(images[:count], batch_size=batch_size)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected[:count], atol=1e-5)


def test_it_prepares_pictures_itself(tiny, exported, tmp_path):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8))
    image.save(tmp_path / "a.png")
    several = exported.predict([tmp_path / "a.png", str(tmp_path / "a.png"), np.asarray(image)])
    single = exported.predict(image)
    pixels = np.broadcast_to(exported.pixels(image), (17, 32, 32, 3))  # compiled above
    expected = probabilities(logits_of(*tiny, pixels) / TEMPERATURE)[0]
    for prediction in (*several, single):
        np.testing.assert_allclose(prediction.probabilities, expected, atol=1e-5)
        assert prediction.label == CLASSES[expected.argmax()] and prediction.labels == (prediction.label,)
    assert exported.classes == CLASSES and exported.preprocess == PREPROCESS
    (tmp_path / "bad.png").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"bad\.png"):
        exported.predict([image, tmp_path / "bad.png"])


def test_long_lists_are_cut_into_batches(exported, monkeypatch):
    monkeypatch.setattr("jaxclf.inference.export.BATCH_SIZE", 4)
    images = list(pictures(7))  # 4, and 3 padded to 4
    found = np.stack([prediction.probabilities for prediction in exported.predict(images)])
    pixels = np.stack([exported.pixels(image) for image in images])
    expected = exported.probabilities(pixels, batch_size=17)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert exported.predict([]) == []


def test_several_labels_and_bfloat16(tiny, tmp_path):
    model = create_classifier(tiny[0].config, 3, dtype=jnp.bfloat16)
    images = pictures(3)
    logits = logits_of(model, tiny[1], images)
    threshold = float(np.sort(label_probabilities(logits).ravel())[3:5].mean())  # between two, so some reach it
    options = {"classes": CLASSES, "multi_label": True, "threshold": threshold, "temperature": 2.5}
    exported = load_exported(
        export_classifier(
            tmp_path / "x.jaxclf", model, tiny[1], preprocess=PREPROCESS, platforms=("cpu", "cuda"), **options
        )
    )
    assert exported.description.precision == "bfloat16" and exported.description.platforms == ("cpu", "cuda")
    found = exported.probabilities(images)
    np.testing.assert_allclose(found, label_probabilities(logits / 2.5), atol=1e-5)
    plain = [one.labels for one in decide(label_probabilities(logits), CLASSES, multi_label=True, threshold=threshold)]
    assert [one.labels for one in exported.decide(found)] == plain and 0 < sum(map(len, plain)) < 9


@given(st.lists(st.floats(-8, 8), min_size=3, max_size=3), st.floats(0.01, 0.99), st.floats(0.05, 20.0), st.booleans())
def test_a_temperature_changes_no_decision(logits, threshold, temperature, multi_label):
    row = np.array([logits])
    to_probabilities = label_probabilities if multi_label else probabilities
    plain, scaled = to_probabilities(row), to_probabilities(row / temperature)
    near = np.abs(row - np.log(threshold / (1 - threshold))) < 1e-6
    if near.any() or (np.diff(np.sort(logits)) < 1e-6).any():
        return
    (before,) = decide(plain, CLASSES, multi_label=multi_label, threshold=threshold)
    (after,) = decide(scaled, CLASSES, multi_label=multi_label, threshold=threshold, temperature=temperature)
    assert before.labels == after.labels and before.label == after.label


def test_thresholds_and_temperatures_out_of_range():
    assert calibrated_threshold(0.3, 1.0) == 0.3
    assert calibrated_threshold(0.8, 2.0) == pytest.approx(2 / 3)  # odds of 4 become odds of 2
    for threshold, temperature, name in ((0.0, 1.0, "threshold=0.0"), (0.5, float("nan"), "temperature=nan")):
        with pytest.raises(ValueError, match=name):
            calibrated_threshold(threshold, temperature)


def test_one_program_serves_all_platforms_and_batches(tiny, parts):
    description, program, arrays = parts
    exported = jax_export.deserialize(bytearray(program))
    assert exported.platforms == ("cpu", "cuda", "tpu") == description.platforms
    assert str(exported.in_avals[-1].shape) == "(b, 32, 32, 3)" and str(exported.out_avals[0].shape) == "(b, 3)"
    assert "stablehlo.convolution" in exported.mlir_module()
    assert len(program) < 300_000 < sum(a.nbytes for a in arrays.values()) + 300_000, "arrays are not in the program"
    for platform in ("cuda", "tpu"):
        alone = lower_classifier(*tiny, dataclasses.replace(description, platforms=(platform,)))
        assert alone.platforms == (platform,) and "stablehlo.convolution" in alone.mlir_module()


def test_every_kind_of_network_has_a_symbolic_batch(parts):
    """Whatever block, stem, shortcut and head; only shapes are needed for it."""
    sizes = {"stem_width": 8, "stage_widths": (8, 8, 16, 16)}
    kinds = {"stem": "deep", "downsample": "avg", "squeeze_excitation": True, "groups": 4}
    model = create_classifier(ResNetConfig("odd", "bottleneck", (1, 1, 1, 1), **sizes, **kinds), 3, head="concat")
    variables = jax.eval_shape(model.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32))
    description = dataclasses.replace(parts[0], preprocess=Preprocess(image_size=64))
    exported = lower_classifier(model, variables, description)
    assert str(exported.out_avals[0].shape) == "(b, 3)" and exported.platforms == ("cpu", "cuda", "tpu")


def test_pixels_of_another_kind_are_refused(exported):
    for images in (
        np.zeros((2, 32, 32, 3), np.float32),
        np.zeros((2, 31, 32, 3), np.uint8),
        np.zeros((32, 32, 3), np.uint8),
        np.zeros((0, 32, 32, 3), np.uint8),
    ):
        with pytest.raises(ValueError, match=r"uint8 \[b, 32, 32, 3\]"):
            exported.probabilities(images)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"classes": ("a", "b")}, "3 different names"),
        ({"classes": ("a", "b", "a")}, "3 different names"),
        ({"temperature": 0.0}, "temperature=0.0"),
        ({"temperature": float("inf")}, "temperature=inf"),
        ({"threshold": 1.0}, "threshold=1.0"),
        ({"platforms": ("cpu", "abacus")}, "platforms"),
        ({"platforms": ()}, "platforms"),
    ],
)
def test_values_that_make_no_sense_write_nothing(tiny, tmp_path, options, match):
    with pytest.raises(ValueError, match=match):
        export_classifier(tmp_path / "x", *tiny, **{"preprocess": PREPROCESS, "classes": CLASSES, **options})
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_overwritten_unasked(tiny, tmp_path):
    (tmp_path / "mine").write_text("precious")
    for path, match in (("mine", "exists already"), ("no/folder", "does not exist"), (".", "is a folder")):
        with pytest.raises(ValueError, match=match):
            export_classifier(tmp_path / path, *tiny, preprocess=PREPROCESS, classes=CLASSES)
    assert (tmp_path / "mine").read_text() == "precious"
    export_classifier(tmp_path / "mine", *tiny, preprocess=PREPROCESS, classes=CLASSES, overwrite=True)
    assert is_export(tmp_path / "mine") and [path.name for path in tmp_path.iterdir()] == ["mine"]


def refused(path, match):
    with pytest.raises(ValueError, match=match) as error:
        load_exported(path)
    assert str(path) in str(error.value)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(data=st.data())
def test_damage_anywhere_is_found(file, tmp_path, data):
    """Each byte that differs, each end that is missing, anything that is added."""
    content = bytearray(file.read_bytes())
    kind = data.draw(st.sampled_from(("flip", "cut", "add")))
    if kind == "flip":
        # Half of them in the first kilobyte, where every byte has a meaning of its own.
        position = data.draw(st.integers(0, 1023) | st.integers(0, len(content) - 1))
        content[position] ^= data.draw(st.integers(1, 255))
    elif kind == "cut":
        content = content[: data.draw(st.integers(0, 64) | st.integers(0, len(content) - 1))]
    else:
        content += data.draw(st.binary(min_size=1, max_size=8))
    (tmp_path / "damaged").write_bytes(content)
    refused(tmp_path / "damaged", "damaged|cut short|format version|not a file that")


@pytest.mark.parametrize(("part", "from_end"), [("program", 0.5), ("arrays", 0.0), ("arrays", 0.5)])
def test_a_single_wrong_bit_names_the_part_it_is_in(file, parts, tmp_path, part, from_end):
    content = bytearray(file.read_bytes())
    packed = len(content) - content.index(parts[1]) - len(parts[1])
    position = 1 + int(from_end * packed) if part == "arrays" else packed + len(parts[1]) // 2
    content[-position] ^= 1
    (tmp_path / "wrong").write_bytes(content)
    refused(tmp_path / "wrong", f"damaged: its {part} does not match the checksum")


def test_other_files_are_named_for_what_they_are(file, tmp_path):
    refused(tmp_path / "missing", "does not exist")
    refused(tmp_path, "is a folder")
    (tmp_path / "photo.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))
    refused(tmp_path / "photo.png", "is not a file that `jaxclf export` wrote")
    assert not is_export(tmp_path / "photo.png") and not is_export(tmp_path) and is_export(file)
    (tmp_path / "newer").write_bytes(MAGIC + (2).to_bytes(4, "little") + file.read_bytes()[12:])
    refused(tmp_path / "newer", "format version 2, and this jaxclf reads 1: update")
    (tmp_path / "short").write_bytes(file.read_bytes()[:-1])
    refused(tmp_path / "short", "cut short")


def test_parts_that_do_not_belong_together_are_refused(parts, tmp_path):
    """Checksums are right in all of these: whoever made them meant it."""
    description, program, arrays = parts
    path = tmp_path / "forged"

    def forged(match, *, program=program, arrays=arrays, **changes):
        write_export(path, dataclasses.replace(description, **changes), program, arrays)
        refused(path, match)

    first = min(arrays)
    forged("inconsistent", classes=("a", "b"))
    forged("inconsistent", preprocess=dataclasses.replace(PREPROCESS, image_size=64))
    forged("inconsistent", arrays={name: array for name, array in arrays.items() if name != first})
    forged("inconsistent", arrays={**arrays, first: arrays[first].astype(np.float16)})
    forged("cannot read", program=b"")
    forged("cannot read", program=bytes(1000))
    forged("cannot read", program=program[: len(program) // 2])


def test_programs_that_call_out_are_refused(parts, tmp_path):
    """A custom call can name any function that the process has registered; a Cholesky factor takes LAPACK's."""
    description, _, _ = parts

    def calls_out(arrays, images):
        factor = jnp.linalg.cholesky(arrays[0])
        return jnp.zeros((images.shape[0], 3)) + factor[0, 0]

    (batch,) = jax_export.symbolic_shape("b")
    images = jax.ShapeDtypeStruct((batch, 32, 32, 3), jnp.uint8)
    program = jax_export.export(jax.jit(calls_out), platforms=("cpu",))([jnp.eye(2)], images).serialize()
    write_export(
        tmp_path / "x", dataclasses.replace(description, platforms=("cpu",)), program, {"a": np.eye(2, dtype="f")}
    )
    refused(tmp_path / "x", "calls functions outside itself")


def test_a_file_for_other_devices_says_so(tiny, tmp_path):
    here = jax_export.default_export_platform()
    platform = "rocm" if here != "rocm" else "tpu"
    path = tmp_path / "x.jaxclf"
    export_classifier(path, *tiny, preprocess=PREPROCESS, classes=CLASSES, platforms=(platform,))
    refused(path, f"exported for {platform}, and JAX runs on {here} here")


def test_the_description_comes_back(parts, tiny):
    description, _, arrays = parts
    assert description == Description(
        "tiny", "float32", CLASSES, PREPROCESS, TEMPERATURE, False, 0.5, ("cpu", "cuda", "tpu"), jax.__version__
    )
    assert sum(array.size for array in arrays.values()) == sum(leaf.size for leaf in jax.tree.leaves(tiny[1]))
