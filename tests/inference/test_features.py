"""Activations computed once: what is stored and where, and that it is found again only when nothing has changed."""

import os
import signal
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import REPOSITORY
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxclf.augment import make_augment
from jaxclf.config import CUTS, MODULES, Preprocess
from jaxclf.data.activations import ActivationLoader
from jaxclf.data.loader import Loader
from jaxclf.data.sources import ArrayDataset
from jaxclf.inference import extract, features
from jaxclf.models import ResNetConfig, create_classifier, init_variables

SIZE = 32
NUM = 11


def pictures(seed=0, num=NUM) -> ArrayDataset:
    images = np.random.default_rng(seed).integers(0, 256, (num, 40, 44, 3)).astype(np.uint8)
    return ArrayDataset(images, np.arange(num) % 3)


def loader(source=None, batch_size=4, presized=False, **kwargs) -> Loader:
    source = source or pictures()
    options = {"train": True, "image_size": SIZE, "num_threads": 2, **kwargs}
    return Loader(source, batch_size=batch_size, presized=presized, **options)


@pytest.fixture(scope="module")
def plain(tiny):
    return features.extract_features(*tiny, loader(), placement="host")


@pytest.fixture(scope="module")
def bank(tiny):
    return features.extract_features(
        *tiny, loader(presized=True), num_views=3, augment="side_on", seed=5, placement="host"
    )


def test_a_bank_of_known_plain_views_has_them_and_the_others_of_every_bank(tiny, plain, bank):
    """Its plain rows are of evaluation's own pixels; no other row differs, whatever the plain ones are."""
    common = {"num_views": 3, "augment": "side_on", "seed": 5}
    extended = features.extend_features(plain, *tiny, loader(presized=True), **common)
    rows, whole = (np.asarray(each.activations).reshape(NUM, 3, -1) for each in (extended, bank))
    np.testing.assert_array_equal(rows[:, 0], plain.activations)
    np.testing.assert_array_equal(rows[:, 1:], whole[:, 1:])
    assert not np.array_equal(rows[:, 0], whole[:, 0]) and extended.key not in (plain.key, bank.key)
    np.testing.assert_array_equal(extended.labels, bank.labels)


def test_the_known_views_must_be_of_the_same_pictures(tiny, plain, bank):
    common = {"num_views": 3, "augment": "side_on"}
    for known, pictures_ in ((bank, loader(presized=True)), (plain, loader(presized=True).without([2]))):
        with pytest.raises(ValueError, match="one view of each of the loader's pictures"):
            features.extend_features(known, *tiny, pictures_, **common)


@pytest.mark.parametrize("cut", ["stem", "stage2", "pooled"])
def test_activations_are_those_of_the_network(tiny, cut):
    model, variables = tiny
    dataset = features.extract_features(*tiny, loader(), cut=cut, placement="host")
    expected_labels = pictures().labels
    np.testing.assert_array_equal(dataset.labels, expected_labels)
    np.testing.assert_array_equal(dataset.index, np.arange(NUM))
    seen = loader(train=False, batch_size=NUM)
    (batch,) = list(seen)
    inputs = (batch.inputs / np.float32(255) - np.float32(seen.preprocess.mean)) / np.float32(seen.preprocess.std)
    expected = jax.jit(lambda v, x: model.apply(v, x, stop=cut))(variables, inputs)
    assert dataset.activations.dtype == np.float32 and dataset.placement == "host"
    np.testing.assert_allclose(dataset.activations, expected, rtol=1e-4, atol=1e-5)


def test_pictures_that_were_left_out_stay_out(tiny, plain):
    rest = features.extract_features(*tiny, loader().without([0, 4]), placement="host")
    np.testing.assert_array_equal(rest.index, [1, 2, 3, 5, 6, 7, 8, 9, 10])
    np.testing.assert_array_equal(rest.labels, plain.labels[rest.index])
    np.testing.assert_allclose(rest.activations, plain.activations[rest.index], rtol=1e-4, atol=1e-5)


def test_a_bank_holds_the_plain_view_first_and_views_that_depend_on_the_picture_alone(tiny, bank):
    """Not on the batch, the number of views, or which pictures are there."""
    model, variables = tiny
    rows = bank.activations.reshape(NUM, 3, -1)
    assert (np.abs(rows[:, 1] - rows[:, 0]).max(1) > 1e-3).all() and (
        np.abs(rows[:, 1] - rows[:, 2]).max(1) > 1e-3
    ).all()
    plain = features.extract_features(*tiny, loader(presized=True), placement="host")
    np.testing.assert_allclose(rows[:, 0], plain.activations, rtol=1e-4, atol=1e-5)
    common = {"augment": "side_on", "placement": "host"}
    others = loader(presized=True, batch_size=3).without([2])
    other = features.extract_features(*tiny, others, num_views=2, seed=5, **common).activations.reshape(NUM - 1, 2, -1)
    np.testing.assert_allclose(other, np.delete(rows, 2, 0)[:, :2], rtol=1e-4, atol=1e-5)
    # Written out for one view of one picture.
    image = next(iter(loader(presized=True, train=False, batch_size=NUM))).inputs[7]
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(5), 2), 7)
    seen = loader()
    shown = seen.preprocess.shown
    assert shown < 1
    for view, name in ((2, "side_on"), (0, "none")):
        drawn = make_augment(name, SIZE, shown=shown)(key, image[None])
        x = (drawn - jnp.asarray(seen.preprocess.mean)) / jnp.asarray(seen.preprocess.std)
        expected = jax.jit(lambda v, x: model.apply(v, x, stop="pooled"))(variables, x)[0]
        np.testing.assert_allclose(rows[7, view], expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("crop_fraction", [0.7, 0.95])
def test_the_plain_view_of_a_bank_shows_what_evaluation_shows(crop_fraction):
    """By the mean colour of a picture with a bright middle: how much of it is seen."""
    images = np.zeros((2, 120, 120, 3), np.uint8)
    images[:, 36:84, 36:84] = 240
    source = ArrayDataset(images, np.arange(2), classes=("a", "b"))
    preprocess = Preprocess(SIZE, crop_fraction=crop_fraction, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))

    class Mean:
        """In place of a network."""

        def apply(self, variables, x, stop):
            return x.mean((1, 2))

    found = []
    for presized in (True, False):
        seen = loader(source, batch_size=2, presized=presized, train=False, preprocess=preprocess)
        step = extract.make_extract_step(Mean(), seen, extract.Plan("pooled", 1, "none", 0, np.dtype("float32")))
        (batch,) = list(seen)
        found.append(np.asarray(step(None, batch.inputs, batch.index, 0)[0])[:, 0])
    expected = 240 / 255 * (48 / 120 / crop_fraction) ** 2
    np.testing.assert_allclose(found[1], expected, rtol=0.05)
    np.testing.assert_allclose(found[0], found[1], rtol=0.03)


@pytest.mark.parametrize(("name", "relative"), [("float16", 2.0**-11), ("bfloat16", 2.0**-8)])
def test_stored_types_round_by_no_more_than_stated(tiny, plain, name, relative, tmp_path):
    stored = features.extract_features(*tiny, loader(), dtype=name, placement="host")
    assert stored.dtype.name == name and stored.nbytes == plain.nbytes // 2
    error = np.abs(np.asarray(stored.activations, np.float32) - plain.activations)
    assert (error <= relative * np.abs(plain.activations) + 2.0**-25).all() and error.max() > 0
    kept = features.extract_features(*tiny, loader(), dtype=name, placement="disk", cache_dir=tmp_path)
    np.testing.assert_array_equal(kept.rows(np.array([3, 0])), stored.activations[[3, 0]])
    assert kept.rows(np.array([1])).dtype == stored.dtype


def test_auto_stores_what_the_network_computes(tiny):
    model = create_classifier(tiny[0].config, 3, dtype=jnp.bfloat16)
    names = {cut: extract.make_plan(model, loader(), cut=cut).dtype.name for cut in ("stage2", "pooled")}
    assert names == {"stage2": "bfloat16", "pooled": "float32"}


def test_what_float16_cannot_hold_is_an_error_that_names_the_picture(tiny):
    model, variables = tiny
    stem = jax.tree.map(lambda x: x * 1e4, variables["params"]["body"]["stem"])
    large = {**variables, "params": {"body": {**variables["params"]["body"], "stem": stem}}}
    with pytest.raises(ValueError, match="picture 0: its activation at stem is not finite in float16"):
        features.extract_features(model, large, loader(), cut="stem", dtype="float16")


@pytest.mark.parametrize("cache", [False, True])
@pytest.mark.parametrize("placement", ["device", "host", "disk"])
def test_every_place_hands_out_the_same(tiny, bank, placement, cache, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    kept = features.extract_features(
        *tiny, loader(presized=True), num_views=3, augment="side_on", seed=5, placement=placement,
        cache_dir=tmp_path / "own" if cache else None,
    )  # fmt: skip
    assert kept.placement == placement and kept.key == bank.key and kept.nbytes == bank.nbytes
    assert (tmp_path / "own").exists() == cache
    assert (tmp_path / "user").exists() == (placement == "disk" and not cache), "memory only, unless it does not fit"
    epochs = [ActivationLoader(dataset, batch_size=4, train=True, seed=2).epoch(3) for dataset in (kept, bank)]
    for one, other in zip(*epochs, strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def test_the_place_follows_from_the_size(monkeypatch):
    monkeypatch.setattr(features, "physical_memory", lambda: 4000)
    assert [features.choose_placement(size) for size in (1000, 1001)] == ["device", "disk"]

    class Accelerator:
        platform = "gpu"

        def memory_stats(self):
            return {"bytes_limit": 400}

    monkeypatch.setattr(features.jax, "local_devices", lambda: [Accelerator()])
    assert [features.choose_placement(size) for size in (100, 101, 1001)] == ["device", "host", "disk"]


def test_a_cache_is_found_runand_a_damaged_one_made_anew(tiny, plain, tmp_path, monkeypatch):
    seen, steps = [], []
    original = extract.make_extract_step
    monkeypatch.setattr(extract, "make_extract_step", lambda *args: steps.append(args) or original(*args))

    def run():
        return features.extract_features(
            *tiny, loader(), cache_dir=tmp_path, placement="host", on_progress=lambda *done: seen.append(done)
        )

    first = run()
    assert seen == [(4, NUM), (8, NUM), (NUM, NUM)] and len(steps) == 1
    (path,) = tmp_path.iterdir()
    content = path.read_bytes()
    again = run()
    np.testing.assert_array_equal(first.activations, again.activations)
    assert len(steps) == 1 and seen[-1] == (NUM, NUM)
    for damaged in (content[: len(content) // 2], content[:100] + bytes([content[100] ^ 1]) + content[101:]):
        path.write_bytes(damaged)
        np.testing.assert_array_equal(run().activations, first.activations)
        assert path.read_bytes() == content
    assert len(steps) == 3
    np.testing.assert_array_equal(first.activations, plain.activations)


def test_labels_come_from_the_source(tiny, tmp_path):
    features.extract_features(*tiny, loader(), cache_dir=tmp_path)
    relabelled = ArrayDataset(pictures().images, (np.arange(NUM) + 1) % 3)
    again = features.extract_features(*tiny, loader(relabelled), cache_dir=tmp_path)
    assert len(list(tmp_path.iterdir())) == 1
    np.testing.assert_array_equal(again.labels, relabelled.labels)


KILLED = """
import os, sys
import jax
sys.path[:0] = ["tests", "tests/inference"]
from test_features import loader
from conftest import tiny
from jaxclf.inference.features import extract_features

def kill(done, total):
    if done == 8:
        os.kill(os.getpid(), 9)

extract_features(*tiny.__wrapped__(), loader(presized=True), num_views=2, augment="side_on", cache_dir=sys.argv[1],
                 on_progress=kill)
"""


def test_killed_and_started_rungives_the_cache_of_an_undisturbed_run(tiny, tmp_path):
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run([sys.executable, "-c", KILLED, str(killed)], cwd=REPOSITORY, env=environment, check=False)
    assert done.returncode == -signal.SIGKILL
    assert not list(killed.glob(f"*{features.SUFFIX}")), "an unfinished cache must not be found"
    seen = []
    for folder in (killed, whole):
        features.extract_features(
            *tiny, loader(presized=True), num_views=2, augment="side_on", cache_dir=folder,
            on_progress=lambda *progress: seen.append(progress),
        )  # fmt: skip
    assert seen == [(NUM, NUM), (4, NUM), (8, NUM), (NUM, NUM)], "the first had only the last batch left"
    names = [[path.name for path in folder.iterdir()] for folder in (killed, whole)]
    assert names[0] == names[1] and len(names[0]) == 1
    assert (killed / names[0][0]).read_bytes() == (whole / names[0][0]).read_bytes()


CONFIG = ResNetConfig("tiny", "basic", (1, 1, 1, 1), stem_width=8, stage_widths=(8, 8, 8, 8))
MODEL = create_classifier(CONFIG, 3)
#: What a cache may depend on: name -> the values tried. The first of each is the starting point.
CHOICES = {
    "cut": ("stage2", "stage3", "pooled"),
    "picture": (None, 0, 5),
    "order": (False, True),
    "left_out": ((), (3,)),
    "weight": (None, *MODULES),
    "statistic": (None, "stem", "stage3"),
    "stride": ("conv", "avg"),
    "image_size": (SIZE, 40),
    "mean": (0.4, 0.5),
    "crop_fraction": (0.875, 1.0),
    "interpolation": ("bilinear", "bicubic"),
    "resize": ("crop", "pad"),
    "compute": ("float32", "bfloat16"),
    "precision": (None, "highest"),
    "dtype": ("float32", "float16", "bfloat16"),
    "presized": (True, False),
    "bank": ((1, None, 0), (2, "side_on", 0), (3, "side_on", 0), (2, "top_down", 0), (2, "side_on", 1)),
}
START = {name: values[0] for name, values in CHOICES.items()}
WORLDS = st.fixed_dictionaries({name: st.sampled_from(values) for name, values in CHOICES.items()})


@pytest.fixture(scope="module")
def weights():
    return jax.tree.map(np.asarray, init_variables(MODEL, jax.random.key(0), image_size=SIZE))


def bumped(tree, module):
    """A tree with one value of one module changed by its last bit."""
    leaves, structure = jax.tree.flatten_with_path(tree)
    names = [[str(part.key) for part in path] for path, _ in leaves]
    place = next((number for number, name in enumerate(names) if module in name), None)
    values = [leaf for _, leaf in leaves]
    if place is not None:
        flat = values[place].copy().reshape(-1)
        flat[-1] = np.nextafter(flat[-1], np.float32(9))
        values[place] = flat.reshape(values[place].shape)
    return jax.tree.unflatten(structure, values)


def key_of(weights, world) -> str | None:
    """None where the combination is refused."""
    source = pictures()
    if world["picture"] is not None:
        source.images[world["picture"], 3, 3, 0] ^= 1
    if world["order"]:
        source.images = source.images[::-1]
    size = world["image_size"]
    preprocess = Preprocess(
        size, (world["mean"],) * 3, crop_fraction=world["crop_fraction"], interpolation=world["interpolation"],
        resize=world["resize"],
    )  # fmt: skip
    data = loader(source, presized=world["presized"], image_size=size, preprocess=preprocess, cache="none")
    data = data.without(world["left_out"]) if world["left_out"] else data
    config = ResNetConfig(**{**CONFIG.__dict__, "downsample": world["stride"]})
    model = create_classifier(config, 3, dtype=jnp.dtype(world["compute"]))
    variables = {
        "params": bumped(weights["params"], world["weight"]),
        "batch_stats": bumped(weights["batch_stats"], world["statistic"]),
    }
    views, augment, seed = world["bank"]
    try:
        plan = extract.make_plan(
            model, data, cut=world["cut"], num_views=views, augment=augment, seed=seed, dtype=world["dtype"]
        )
    except ValueError:
        assert views > 1 and not world["presized"]
        return None
    with jax.default_matmul_precision(world["precision"]):
        return extract.features_key(model, variables, data, plan)


def of_account(world):
    """The world without what cannot matter: weights above the cut."""
    last = min(CUTS.index(world["cut"]), 4)
    return {
        **world,
        **{
            name: world[name] if world[name] in MODULES[: last + 1] else None for name in ("weight", "statistic")
        },
    }  # fmt: skip


@pytest.mark.parametrize("name", CHOICES)
def test_each_change_alone_makes_another_key(weights, name):
    start = {**START, "cut": "pooled"} if name in ("weight", "statistic") else START
    others = [{**start, name: value} for value in CHOICES[name]]
    keys = [key_of(weights, world) for world in others]
    assert len(set(keys)) == len({repr(of_account(world)) for world in others})


@settings(max_examples=60, deadline=None)
@given(WORLDS, WORLDS, st.sets(st.sampled_from(sorted(CHOICES))))
def test_equal_keys_only_where_nothing_of_account_differs(weights, one, other, taken_over):
    """Two worlds, equal in some respects: the same key if and only if all that may matter is the same."""
    other = {name: one[name] if name in taken_over else value for name, value in other.items()}
    keys = key_of(weights, one), key_of(weights, other)
    if None not in keys:
        assert (keys[0] == keys[1]) == (of_account(one) == of_account(other))


def test_labels_and_batches_do_not_count(weights):
    relabelled = ArrayDataset(pictures().images, np.zeros(NUM, int), classes=("0", "1", "2"))
    loaders = [loader(), loader(relabelled, batch_size=3, train=False, seed=4)]
    keys = [
        extract.features_key(MODEL, weights, data, extract.make_plan(MODEL, data, cut="pooled")) for data in loaders
    ]
    assert keys[0] == keys[1]


@pytest.mark.parametrize(
    ("kwargs", "mentions"),
    [
        ({"cut": "stage5"}, "cut='stage5'"),
        ({"num_views": 0}, "num_views=0"),
        ({"num_views": 2}, "set augment"),
        ({"augment": "side_on"}, "num_views of 2 or more"),
        ({"num_views": 2, "augment": "side_on"}, "presized=True"),
        ({"dtype": "int8"}, "dtype='int8'"),
        ({"placement": "cloud"}, "placement='cloud'"),
        ({"seed": -1}, "seed=-1"),
        ({"loader": loader().part(0, 2)}, "not sharded"),
        ({"loader": loader(presized=True), "num_views": 2, "augment": "upside"}, "augment='upside'"),
    ],
)
def test_arguments_out_of_range_are_errors(tiny, kwargs, mentions):
    data = kwargs.pop("loader", None) or loader()
    with pytest.raises(ValueError, match=mentions):
        features.extract_features(*tiny, data, **kwargs)
