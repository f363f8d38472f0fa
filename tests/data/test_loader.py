import json
import threading
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxclf.data import loader as loader_module
from jaxclf.data.batches import LoaderState
from jaxclf.data.cache import RamCache
from jaxclf.data.loader import Loader
from jaxclf.data.order import epoch_order
from jaxclf.data.sources import ArrayDataset, Example, ImageFolder


def numbered(count: int, size: int = 12) -> ArrayDataset:
    """Pictures whose every pixel is their own number."""
    images = np.broadcast_to(np.arange(count, dtype=np.uint8)[:, None, None, None], (count, size, size, 3))
    return ArrayDataset(np.ascontiguousarray(images), np.arange(count) % 3, classes=("a", "b", "c"))


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 50), st.integers(1, 20), st.integers(1, 4), st.booleans())
def test_every_index_exactly_once_and_padding_marked(count, batch_size, threads, train):
    loader = Loader(numbered(count), batch_size=batch_size, image_size=10, train=train, seed=5, num_threads=threads)
    batches = list(loader.epoch(2))
    assert len(batches) == len(loader) == -(-count // batch_size)
    assert all(len(batch.mask) == len(batch.inputs) == batch_size for batch in batches)
    mask = np.concatenate([batch.mask for batch in batches])
    index = np.concatenate([batch.index for batch in batches])
    inputs = np.concatenate([batch.inputs for batch in batches])
    labels = np.concatenate([batch.labels for batch in batches])
    expected = epoch_order(5, 2, count) if train else np.arange(count)
    np.testing.assert_array_equal(index[mask > 0], expected)
    np.testing.assert_array_equal(inputs[mask > 0][:, 0, 0, 0], expected)
    np.testing.assert_array_equal(labels[mask > 0], expected % 3)
    assert (index[mask == 0] == -1).all() and (inputs[mask == 0] == 0).all()
    assert loader.num_examples == count
    real = [int(batch.mask.sum()) for batch in batches]
    assert max(real) - min(real) <= 1 if train else real[:-1] == [batch_size] * (len(real) - 1)


def test_start_batch_continues_the_same_epoch():
    loader = Loader(numbered(40), batch_size=4, image_size=10, train=True)
    whole = [batch.index for batch in loader.epoch(1)]
    rest = [batch.index for batch in loader.epoch(1, start_batch=7)]
    np.testing.assert_array_equal(whole[7:], rest)


def test_pictures_are_decoded_once(photos, monkeypatch):
    calls = []
    for name in ("presized_pixels", "evaluation_pixels"):
        original = getattr(loader_module, name)
        monkeypatch.setattr(
            loader_module, name, lambda image, preprocess, f=original: (calls.append(image), f(image, preprocess))[1]
        )
    source = ImageFolder(photos / "train")
    loader = Loader(source, batch_size=8, image_size=16, train=True)
    loader.fill_cache()
    assert sorted(calls) == sorted(source.paths)
    first, second = list(loader.epoch(0)), list(loader.epoch(1))
    assert len(calls) == len(source)
    assert not np.array_equal(first[0].inputs, second[0].inputs)
    uncached = Loader(source, batch_size=8, image_size=16, train=True, cache="none")
    np.testing.assert_array_equal(next(uncached.epoch(0)).inputs, first[0].inputs)
    assert len(calls) > len(source)


def test_a_data_set_too_large_for_memory_is_kept_on_disk(monkeypatch):
    monkeypatch.setattr("jaxclf.data.cache.physical_memory", lambda: 4 * 10 * 12 * 12 * 3 - 1)
    kept = [Loader(numbered(count), batch_size=4, image_size=12, train=False).cache for count in (10, 9)]
    assert kept == ["disk", "memory"]


def test_fill_reports_progress_and_names_the_first_bad_picture(tmp_path, photos):
    loader = Loader(ImageFolder(photos / "train"), batch_size=8, image_size=16, train=True)
    seen = []
    loader.fill_cache(lambda done, total: seen.append((done, total)))
    assert seen == [(i + 1, 26) for i in range(26)]

    def transform(image):
        if image[0, 0, 0] in (3, 7):
            raise ValueError(f"image number {image[0, 0, 0]}")
        return image

    with pytest.raises(ValueError, match="image number 3"):
        RamCache(numbered(9), transform, 12).fill(num_threads=4)
    bad = RamCache(numbered(9), transform, 12).fill(num_threads=4, on_bad_image="skip")
    assert [(picture.index, picture.name) for picture in bad] == [(3, "3"), (7, "7")]
    assert bad[0].reason == "image number 3"


def test_a_bad_picture_ends_an_uncached_epoch_with_its_name(photos, tmp_path):
    source = ImageFolder(photos / "train")
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"nothing")
    source.paths = (*source.paths[:9], bad, *source.paths[10:])
    loader = Loader(source, batch_size=8, image_size=16, train=False, cache="none")
    with pytest.raises(ValueError, match=r"bad\.jpg"):
        list(loader)


def test_closing_an_epoch_ends_its_threads():
    class Slow(ArrayDataset):
        def __getitem__(self, index: int) -> Example:
            time.sleep(0.005)
            return super().__getitem__(index)

    source = numbered(200)
    source.__class__ = Slow
    before = set(threading.enumerate())
    epoch = Loader(source, batch_size=2, image_size=12, train=True, num_threads=4).epoch(0)
    next(epoch)
    epoch.close()
    deadline = time.monotonic() + 20
    while set(threading.enumerate()) - before and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not set(threading.enumerate()) - before


def test_empty_sets_and_batches_are_refused():
    with pytest.raises(ValueError, match="empty"):
        Loader(ArrayDataset(np.zeros((0, 4, 4, 3), np.uint8), []), batch_size=1, image_size=8, train=True)
    with pytest.raises(ValueError, match="batch_size=0"):
        Loader(numbered(3), batch_size=0, image_size=8, train=True)
    with pytest.raises(ValueError, match="num_shards=2"):
        Loader(numbered(30), batch_size=3, image_size=8, train=True).part(0, 2)
    with pytest.raises(ValueError, match="index=2"):
        Loader(numbered(30), batch_size=4, image_size=8, train=True).part(2, 2)
    with pytest.raises(ValueError, match="cache='ram'"):
        Loader(numbered(30), batch_size=4, image_size=8, train=True, cache="ram")


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 40), st.integers(1, 4), st.integers(1, 4), st.booleans(), st.integers(0, 3))
def test_shards_together_are_the_whole(count, local, num_shards, train, epoch):
    common = {"batch_size": local * num_shards, "image_size": 10, "train": train, "seed": 3}
    whole = Loader(numbered(count), **common)
    shards = [Loader(numbered(count), **common).part(i, num_shards) for i in range(num_shards)]
    assert {len(shard) for shard in shards} == {len(whole)}
    parts = [shard.order(epoch).reshape(len(whole), local) for shard in shards]
    np.testing.assert_array_equal(np.concatenate(parts, 1).reshape(-1), whole.order(epoch))
    seen = np.concatenate([part.reshape(-1) for part in parts])
    np.testing.assert_array_equal(np.sort(seen[seen >= 0]), np.arange(count))
    if train:  # no device waits for another, and no part of a batch is empty where another has two
        real = np.sum(np.stack(parts) >= 0, axis=2)  # [shards, batches]
        assert (real.max(0) - real.min(0) <= 1).all()


def test_a_shard_hands_out_its_rows():
    loader = Loader(numbered(20), batch_size=6, image_size=10, train=True, seed=3).part(1, 3)
    first = next(loader.epoch(0))
    np.testing.assert_array_equal(first.index, epoch_order(3, 0, 20)[2:4])
    np.testing.assert_array_equal(first.inputs[:, 0, 0, 0], first.index)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 9), st.integers(0, 3))
def test_the_state_of_an_epoch_continues_it_exactly(consumed, epoch):
    loader = Loader(numbered(40), batch_size=4, image_size=10, train=True)
    batches = loader.epoch(epoch)
    for _ in range(consumed):
        next(batches)
    state = LoaderState(*json.loads(json.dumps(batches.state)))
    assert state == (epoch, consumed)
    rest = [batch.index for batch in batches]
    np.testing.assert_array_equal([batch.index for batch in loader.restore(state)], rest)
    assert len(rest) == 10 - consumed


def test_a_closed_epoch_gives_nothing_more():
    batches = Loader(numbered(40), batch_size=4, image_size=10, train=True).epoch(0)
    next(batches)
    batches.close()
    assert list(batches) == []
    batches.close()


def test_balanced_sampling_evens_out_the_classes():
    images = np.zeros((100, 8, 8, 3), np.uint8)
    source = ArrayDataset(images, [0] * 90 + [1] * 10)
    loader = Loader(source, batch_size=20, image_size=8, train=True, sampling="balanced")
    labels = np.concatenate([batch.labels for epoch in range(5) for batch in loader.epoch(epoch)])
    assert len(labels) == 500 and 200 < labels.sum() < 300
    assert (loader.order(0) != loader.order(1)).any()
    evaluation = Loader(source, batch_size=20, image_size=8, train=False, sampling="balanced")
    np.testing.assert_array_equal(evaluation.order(0), np.arange(100))


def test_without_leaves_out_examples_and_shares_the_cache(photos):
    loader = Loader(ImageFolder(photos / "train"), batch_size=4, image_size=16, train=True, seed=1)
    loader.fill_cache()
    rest = loader.without([3, 25]).without([0])
    assert rest.prepared is loader.prepared and rest.num_examples == 23
    order = np.concatenate([batch.index[batch.mask > 0] for batch in rest.epoch(1)])
    kept = np.setdiff1d(np.arange(26), [0, 3, 25])
    np.testing.assert_array_equal(order, kept[epoch_order(1, 1, 23)])
    assert len(loader.order(0)) == 28
    with pytest.raises(ValueError, match="no picture"):
        loader.without(range(26))


def test_multi_label_rows_are_stacked():
    labels = np.array([[1, 0, 1], [0, 0, 0], [0, 1, 0]], np.float32)
    loader = Loader(ArrayDataset(np.zeros((3, 8, 8, 3), np.uint8), labels), batch_size=2, image_size=8, train=False)
    first, second = loader
    assert first.labels.dtype == np.float32
    np.testing.assert_array_equal(np.concatenate([first.labels, second.labels]), [*labels, [0, 0, 0]])
