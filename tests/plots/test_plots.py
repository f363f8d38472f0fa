"""Asserts on what is drawn, the artists, not on pixels; pyplot is out of bounds for all of it."""

import ast
import dataclasses
import io
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import optax
import pytest
from conftest import write_class_folders
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from jaxclf import plots, schedules
from jaxclf.augment import make_augment, normalize
from jaxclf.data.loader import Loader
from jaxclf.data.sources import ImageFolder
from jaxclf.plots.history import history
from jaxclf.plots.rates import loss_limits
from jaxclf.training.lr_curve import LRBand
from jaxclf.training.state import create_train_state
from jaxclf.training.step import make_train_step

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
LONG = [f"n0{number}_a_rather_long_class_name_{number}" for number in range(130)]


@pytest.fixture(autouse=True)
def _no_pyplot(monkeypatch):
    """Importing pyplot fails, and global settings stay as they were."""
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    before = global_settings()
    yield
    assert global_settings() == before


def global_settings():
    # Asking rcParams for the backend would choose one.
    return {name: matplotlib.rcParams[name] for name in matplotlib.rcParams if name != "backend"}


def test_matplotlib_is_imported_inside_functions_only():
    for path in Path(plots.__file__).parent.glob("*.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Import | ast.ImportFrom):
                assert "matplotlib" not in ast.unparse(node), path


def extents(texts):
    """Boxes on the drawn figure of the texts that say something."""
    texts = [text for text in texts if text.get_text()]
    figure = texts[0].get_figure(root=True)
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return [text.get_window_extent(canvas.get_renderer()) for text in texts], figure.bbox


def assert_apart(texts):
    boxes, page = extents(texts)
    for number, box in enumerate(boxes):
        assert page.x0 - 1 <= box.x0 and box.x1 <= page.x1 + 1 and page.y0 - 1 <= box.y0 and box.y1 <= page.y1 + 1
        for other in boxes[:number]:
            assert not (
                min(box.x1, other.x1) - max(box.x0, other.x0) > 1 and min(box.y1, other.y1) > max(box.y0, other.y0) + 1
            )


# --- pictures


@settings(max_examples=20, deadline=None)
@given(hnp.arrays(np.uint8, (2, 4, 5, 3)))
def test_denormalize_undoes_normalize_exactly(images):
    normalised = normalize(images.astype(np.float32) / 255.0, MEAN, STD)
    np.testing.assert_array_equal(plots.denormalize(normalised, MEAN, STD), images)


def test_denormalize_clips_what_lies_outside():
    assert plots.denormalize(np.full((1, 1, 1, 3), 9.0), MEAN, STD).tolist() == [[[[255] * 3]]]
    assert plots.denormalize(np.full((1, 1, 1, 3), -9.0), MEAN, STD).tolist() == [[[[0] * 3]]]


def batch(num=6, size=8):
    pixels = np.random.default_rng(0).integers(0, 256, (num, size, size, 3), np.uint8)
    return pixels, np.asarray(normalize(pixels / np.float32(255), MEAN, STD))


def shown(figure):
    """(pixels, title) of each picture."""
    return [(ax.images[0].get_array(), ax.get_title()) for ax in figure.axes]


def test_show_batch_shows_the_pixels_under_their_labels():
    pixels, images = batch()
    mask = np.array([1, 1, 0, 1, 1, 1])
    figure = plots.show_batch(
        images, np.array([0, 1, 0, 1, -1, 0]), ("cat", "dog"), mean=MEAN, std=STD, mask=mask, num=4
    )
    assert [title for _, title in shown(figure)] == ["cat", "dog", "dog", ""]
    for (drawn, _), expected in zip(shown(figure), pixels[[0, 1, 3, 4]], strict=True):
        assert np.abs(np.asarray(drawn, float) - expected).max() <= 1
    named = plots.show_batch(
        images, np.zeros(6, int), ("cat",), mean=MEAN, std=STD, names=[f"a/{i}.png" for i in range(6)]
    )
    assert [title for _, title in shown(named)] == [f"cat\na/{i}.png" for i in range(6)]


def test_show_batch_with_several_or_soft_labels():
    _, images = batch()
    labels = np.array([[1, 1, 0], [0, 0, 0], [0.3, 0.7, 0], [0, 0.02, 0.98], [0, 0, 1], [1, 1, 1]], np.float32)
    figure = plots.show_batch(images, labels, ("cat", "dog", "$x_{"), mean=MEAN, std=STD)
    titles = [title for _, title in shown(figure)]
    assert titles == ["cat, dog", "none", "dog .70, cat .30", "$x_{ .98", "$x_{", "cat, dog, $x_{"]
    extents([ax.title for ax in figure.axes])  # a dollar is no mathematics: drawing does not fail


def test_show_batch_in_grey_and_in_bfloat16():
    grey = plots.show_batch(np.zeros((2, 4, 4, 1), np.float32), np.array([0, 0]), ("a",), mean=(0.5,), std=(0.5,))
    assert shown(grey)[0][0].tolist() == np.full((4, 4), 128).tolist() and grey.axes[0].images[0].get_clim() == (0, 255)
    half = jnp.zeros((2, 4, 4, 3), jnp.bfloat16)
    assert len(plots.show_batch(half, np.array([0, 0]), ("a",), mean=MEAN, std=STD).axes) == 2


def test_show_batch_keeps_long_labels_apart():
    _, images = batch(9)
    labels = np.ones((9, 30), np.float32)
    figure = plots.show_batch(images, labels, LONG[:30], mean=MEAN, std=STD, columns=3, names=LONG[:9])
    assert_apart([ax.title for ax in figure.axes])


def test_show_batch_refuses_what_does_not_belong_together():
    _, images = batch()
    for change, message in [
        ({"images": images[0]}, "images must be float"),
        ({"images": (images * 0).astype(np.uint8)}, "normalised floats"),
        ({"labels": np.zeros(5, int)}, "labels \\[5\\] fit neither 6 images"),
        ({"labels": np.zeros((6, 3))}, "nor 2 classes"),
        ({"mask": np.zeros(6)}, "no pictures"),
        ({"num": 0}, "num=0"),
    ]:
        arguments = {"images": images, "labels": np.zeros(6, int), "mask": None, "num": 16, **change}
        images_, labels = arguments.pop("images"), arguments.pop("labels")
        with pytest.raises(ValueError, match=message):
            plots.show_batch(images_, labels, ("cat", "dog"), mean=MEAN, std=STD, **arguments)


class Spy:
    """In place of a network: keeps what it is given."""

    num_classes = 2

    def __init__(self):
        self.seen = []

    def apply(self, variables, inputs, **_):
        jax.debug.callback(lambda x: self.seen.append(np.asarray(x)), inputs)
        logits = inputs.mean((1, 2))[:, :2] * variables["params"]["head"]["scale"]
        return logits, {"batch_stats": {}}


@pytest.fixture(scope="module")
def loader(tmp_path_factory):
    root = write_class_folders(tmp_path_factory.mktemp("plots"), {"red": 7, "green": 6}, size=30)
    return Loader(ImageFolder(root), batch_size=4, image_size=24, train=True, seed=3)


def test_training_batch_is_what_the_train_step_gives_the_network(loader):
    spy, optimizer = Spy(), optax.sgd(0.1)
    key, augment = jax.random.key(7), make_augment("side_on", 24, shown=loader.preprocess.shown)
    step = make_train_step(spy, optimizer, preprocess=loader.preprocess, augment=augment)
    params = {"body": {}, "head": {"scale": jnp.ones(())}}
    state = dataclasses.replace(create_train_state({"params": params, "batch_stats": {}}, optimizer), step=jnp.int32(5))
    given_batch = list(loader.epoch(1))[1]
    jax.block_until_ready(step(state, given_batch, key))
    jax.effects_barrier()
    ours = plots.training_batch(loader, "side_on", key, epoch=1, step=5)
    assert ours.inputs.shape == (4, 24, 24, 3) and ours.index.tolist() == given_batch.index.tolist()
    np.testing.assert_allclose(ours.inputs, spy.seen[0], atol=1e-5)
    other = plots.training_batch(loader, "side_on", key, epoch=1, step=1)
    assert np.abs(ours.inputs - other.inputs).max() > 0.1, "the draws depend on the step"


def test_plot_lr_band_draws_the_middle_and_the_spread():
    lrs = np.geomspace(1e-4, 1, 30)
    losses = np.linspace(2, 1, 30) + np.linspace(-0.1, 0.1, 5)[:, None]
    band = LRBand(lrs, losses, losses, ("completed",) * 5, lrs[:, None])
    ax = plots.plot_lr_band(band, suggestions={"valley": 0.01})
    assert ax.get_xscale() == "log"
    low, high = band.bounds()
    (spread,) = ax.collections
    edges = spread.get_paths()[0].vertices[:, 1]
    assert edges.min() == pytest.approx(low.min()) and edges.max() == pytest.approx(high.max())
    assert any("80 %" in text.get_text() for text in ax.get_legend().get_texts())


def test_show_loader(loader):
    seen = plots.training_batch(loader, "side_on")
    figure = plots.show_loader(loader, "side_on", num=3)
    expected = plots.denormalize(seen.inputs, loader.preprocess.mean, loader.preprocess.std)
    assert len(figure.axes) == 3
    for (drawn, title), pixels, label, index in zip(shown(figure), expected, seen.labels, seen.index, strict=False):
        np.testing.assert_array_equal(drawn, pixels)
        assert title == f"{loader.classes[label]}\n{loader.dataset.name(int(index))}"


# --- rates


def data(ax):
    return {line.get_label(): np.asarray(line.get_ydata(), float) for line in ax.lines if line.get_visible()}


def test_plot_schedule_draws_its_values():
    schedule = schedules.sgdr(10, 2, cycle_mult=2)
    values = np.asarray(schedule(np.arange(30)))
    ax = plots.plot_schedule(schedule, 30)
    (line,) = ax.lines
    np.testing.assert_allclose(line.get_ydata(), values, rtol=1e-6)
    assert line.get_xdata().tolist() == list(range(30))
    assert (ax.get_xlabel(), ax.get_ylabel(), ax.get_yscale()) == ("step", "multiplier", "linear")
    ax = plots.plot_schedule(schedule, 30, lrs=(1e-4, 1e-3, 1e-2))
    assert ax.get_yscale() == "log" and ax.get_ylabel() == "learning rate"
    assert list(data(ax)) == ["stem to stage2", "stage3, stage4", "head"]
    np.testing.assert_allclose(data(ax)["head"], 1e-2 * values, rtol=1e-6)
    assert plots.plot_schedule(optax.constant_schedule(1.0), 3).lines[0].get_ydata().tolist() == [1, 1, 1]
    with pytest.raises(ValueError, match="num_steps=0"):
        plots.plot_schedule(schedule, 0)


def test_plot_schedule_with_equal_rates_and_momentum():
    schedule = schedules.one_cycle(20)
    ax = plots.plot_schedule(schedule, 20, lrs=(0.1, 0.1, 0.1), momentum=lambda step: 0.95 - 0.1 * schedule(step))
    assert list(data(ax)) == ["all layers"] and ax.get_yscale() == "linear"
    (right,) = (other for other in ax.get_figure().axes if other is not ax)
    np.testing.assert_allclose(right.lines[0].get_ydata(), 0.95 - 0.1 * np.asarray(schedule(np.arange(20))), rtol=1e-5)
    constant = plots.plot_schedule(schedule, 5, momentum=0.9).get_figure().axes[1]
    np.testing.assert_allclose(constant.lines[0].get_ydata(), np.full(5, 0.9), rtol=1e-6)


def curve(num=60):
    exponent = np.linspace(-6, 1, num)
    smoothed = 1.1 - 0.7 / (1 + np.exp(-2.5 * (exponent + 2.6))) + np.exp(4 * (exponent + 0.6))
    losses = smoothed * (1 + 0.05 * np.random.default_rng(0).normal(size=num))
    losses[-3:] = smoothed[-3:] = np.nan
    return SimpleNamespace(lrs=10**exponent, losses=losses, smoothed=smoothed, reason="diverged at step 57 ($ $)")


def test_plot_lr_curve():
    found = curve()
    ax = plots.plot_lr_curve(found, suggestions={"valley": 2e-3, "steep": 2.1e-3, "slide": None})
    assert ax.get_xscale() == "log" and "learning rate" in ax.get_xlabel() and "loss" in ax.get_ylabel()
    np.testing.assert_array_equal(data(ax)["raw"], found.losses)
    np.testing.assert_array_equal(data(ax)["smoothed"], found.smoothed)
    assert ax.lines[1].get_linewidth() > ax.lines[0].get_linewidth()
    legend = [text.get_text() for text in ax.get_legend().get_texts()]
    assert legend == ["raw", "smoothed", "valley: 0.002", "steep: 0.0021", "slide: none"]
    marked = {line.get_label(): line for line in ax.lines}
    assert marked["valley: 0.002"].get_xdata()[0] == 2e-3
    finite = np.isfinite(found.smoothed)
    expected = np.interp(np.log(2e-3), np.log(found.lrs[finite]), found.smoothed[finite])
    assert marked["valley: 0.002"].get_ydata()[0] == pytest.approx(expected)
    assert ax.get_title("left") == found.reason
    extents([ax.xaxis.label])


def test_the_loss_axis_ignores_the_divergence_and_shows_the_descent():
    found = curve()
    low, high = plots.plot_lr_curve(found).get_ylim()
    assert np.nanmax(found.smoothed) > 50 and high < 2
    assert low < np.nanmin(found.smoothed) and high > found.smoothed[0]


@settings(max_examples=50, deadline=None)
@given(hnp.arrays(np.float64, 12, elements=st.floats(-5, 1e6) | st.just(np.nan)))
def test_loss_limits_hold_the_best_loss(losses):
    limits = loss_limits(losses, losses)
    if not np.isfinite(losses).any():
        assert limits is None
        return
    low, high = limits
    assert np.isfinite([low, high]).all() and low < np.nanmin(losses) < high


def test_degenerate_curves_can_be_drawn():
    for losses in ([0.7], [0.7, 0.7], [np.nan, np.nan], [0.5, 9.0, np.inf]):
        found = SimpleNamespace(lrs=np.logspace(-5, -3, len(losses)), losses=losses, smoothed=losses, reason="end")
        ax = plots.plot_lr_curve(found, suggestions={"valley": None, "steep": 1e-4})
        assert "steep: 0.0001" in [text.get_text() for text in ax.get_legend().get_texts()]
        extents([ax.xaxis.label])
    one = plots.plot_lr_curve(SimpleNamespace(lrs=[1e-4], losses=[0.7], smoothed=[0.7], reason=""))
    assert all(line.get_marker() == "o" for line in one.lines), "a line of one point shows nothing"


# --- rows


def rows():
    """Two phases as `fit` writes them: steps and epochs count from zero in each."""
    found = []
    for phase, epochs, steps, lrs in (("head", 1, (1, 2), [0.1, 0.2]), ("all $layers", 2, (1, 3), [0.3, 0.4])):
        for epoch in range(epochs):
            for step in steps:
                at = epoch * (steps[-1] + 1) + step
                found.append(
                    {"kind": "step", "phase": phase, "epoch": epoch, "step": at, "loss": 1 / (1 + at), "lrs": lrs}
                )
            figures = {"train_loss": 0.5 - epoch / 10, "train_accuracy": 0.8, "valid_loss": 0.6, "valid_accuracy": 0.7}
            found.append({"kind": "epoch", "phase": phase, "epoch": epoch, "step": at + 1, **figures})
    return found


def test_phases_are_laid_end_to_end():
    steps = history(rows(), "step")
    assert steps.position.tolist() == [1, 2, 4, 6, 8, 10]
    assert steps.phases == (("head", 0, 2), ("all $layers", 3, 10))
    epochs = history(rows(), "epoch")
    assert epochs.position.tolist() == [1, 2, 3] and epochs.phases == (("head", 1, 1), ("all $layers", 2, 3))
    twice = [row | {"phase": "same"} for row in rows()]
    assert history(twice, "step").position.tolist() == [1, 2, 4, 6, 8, 10]
    with pytest.raises(ValueError, match="no rows of kind 'epoch'"):
        plots.plot_epochs([row for row in rows() if row["kind"] == "step"])


def test_plots_of_rows_draw_their_values():
    ax = plots.plot_losses(rows())
    assert ax.lines[0].get_xdata().tolist() == [1, 2, 4, 6, 8, 10]
    np.testing.assert_allclose(ax.lines[0].get_ydata(), [1 / 2, 1 / 3, 1 / 2, 1 / 4, 1 / 6, 1 / 8])
    assert [text.get_text() for text in ax.texts] == ["head", "all $layers"]
    assert [line.get_xdata()[0] for line in ax.lines[1:]] == [2.5], "between the last step of one and the next's first"
    assert_apart(ax.texts)
    ax = plots.plot_rates([row | {"momentum": 0.9} for row in rows()])
    assert data(ax)["head"].tolist() == [0.2, 0.2, 0.4, 0.4, 0.4, 0.4]
    assert ax.get_figure().axes[1].lines[0].get_ydata().tolist() == [0.9] * 6
    assert len(plots.plot_rates(rows()).get_figure().axes) == 1, "no momentum, no axis for it"
    ax = plots.plot_loss_over_rate(rows())
    assert ax.get_xscale() == "log"
    offsets = np.asarray(ax.collections[0].get_offsets())
    np.testing.assert_allclose(offsets[:, 0], [0.2, 0.2, 0.4, 0.4, 0.4, 0.4])
    np.testing.assert_allclose(offsets[:, 1], [1 / 2, 1 / 3, 1 / 2, 1 / 4, 1 / 6, 1 / 8])


def test_plot_epochs():
    ax = plots.plot_epochs(rows())
    assert ax.lines[0].get_xdata().tolist() == [1, 2, 3] and (ax.get_xlabel(), ax.get_ylabel()) == ("epoch", "loss")
    assert data(ax)["training"].tolist() == [0.5, 0.5, 0.4] and data(ax)["validation"].tolist() == [0.6] * 3
    figure = plots.show_epochs(iter(rows()))
    assert [ax.get_ylabel() for ax in figure.axes] == ["loss", "accuracy"]
    assert data(figure.axes[1])["validation"].tolist() == [0.7] * 3
    without = [{k: v for k, v in row.items() if not k.startswith("valid")} for row in rows()]
    assert "validation" not in data(plots.plot_epochs(without))
    with pytest.raises(ValueError, match="metric='f2'"):
        plots.plot_epochs(rows(), metric="f2")


def test_read_rows(tmp_path):
    text = "".join(json.dumps(row) + "\n" for row in rows())
    (tmp_path / "metrics.jsonl").write_text(text)
    assert plots.read_rows(tmp_path) == plots.read_rows(tmp_path / "metrics.jsonl") == rows()
    (tmp_path / "metrics.jsonl").write_text(text + '{"kind": ')
    with pytest.raises(ValueError, match=r"metrics.jsonl, line 10: not JSON"):
        plots.read_rows(tmp_path)
    with pytest.raises(ValueError, match=r"nowhere does not exist"):
        plots.read_rows(tmp_path / "nowhere")


def test_plots_draw_on_the_given_axes():
    from matplotlib.figure import Figure

    for draw in (
        lambda ax: plots.plot_schedule(schedules.cosine(5), 5, ax=ax),
        lambda ax: plots.plot_lr_curve(curve(), ax=ax),
        lambda ax: plots.plot_rates(rows(), ax=ax),
        lambda ax: plots.plot_losses(rows(), ax=ax),
        lambda ax: plots.plot_loss_over_rate(rows(), ax=ax),
        lambda ax: plots.plot_epochs(rows(), ax=ax),
        lambda ax: plots.plot_confusion(np.eye(2, dtype=int), ("a", "b"), ax=ax),
    ):
        ax = Figure().add_subplot()
        assert draw(ax) is ax and ax.has_data()


# --- confusion matrix


def confusion(num):
    matrix = np.random.default_rng(0).poisson(0.3, (num, num))
    np.fill_diagonal(matrix, 40)
    return matrix


def ticks(axis):
    return [label.get_text() for label in axis.get_ticklabels()]


def test_plot_confusion():
    matrix = np.array([[399, 1], [0, 0]])
    ax = plots.plot_confusion(matrix, ("cat", "$dog_"))
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("predicted", "actual")
    assert ticks(ax.xaxis) == ticks(ax.yaxis) == ["cat", "$dog_"]
    np.testing.assert_array_equal(ax.images[0].get_array(), matrix)
    assert {text.get_position(): text.get_text() for text in ax.texts} == {
        (0, 0): "399",
        (1, 0): "1",  # column 1, row 0: a cat taken for a dog
        (0, 1): "0",
        (1, 1): "0",
    }
    shares = plots.plot_confusion(matrix, ("cat", "$dog_"), normalize=True)
    np.testing.assert_allclose(shares.images[0].get_array(), [[399 / 400, 1 / 400], [0, 0]])
    assert [text.get_text() for text in shares.texts] == ["1.00", "<.01", "0", "0"]
    extents(ax.get_xticklabels())
    with pytest.raises(ValueError, match=r"matrix \[2, 2\] does not belong to 3 classes"):
        plots.plot_confusion(matrix, ("a", "b", "c"))


@pytest.mark.parametrize("num", [2, 20, 100])
def test_confusion_names_every_class_legibly(num):
    ax = plots.plot_confusion(confusion(num), LONG[:num])
    assert len(ax.texts) == (num**2 if num <= 20 else 0)
    names = ticks(ax.yaxis)
    assert len(names) == num and len(set(names)) == num
    assert_apart([*ax.get_yticklabels(), ax.yaxis.label, *ax.get_xticklabels(), ax.xaxis.label])


def test_confusion_of_very_many_classes_names_some():
    ax = plots.plot_confusion(confusion(130), LONG)
    assert ax.get_yticks().tolist() == list(range(0, 130, 2)) and len(ticks(ax.yaxis)) == 65


# --- files


def test_save_figure(tmp_path):
    figure = plots.plot_losses(rows()).get_figure()
    path = plots.save_figure(figure, tmp_path / "losses.png", dpi=80)
    with Image.open(io.BytesIO(path.read_bytes())) as image:
        pixels = np.asarray(image.convert("RGB"))
    assert pixels.shape[:2] == (320, 512)
    blue = (np.abs(pixels.astype(int) - (0, 114, 178)).max(-1) < 10).sum()
    assert blue > 100, "the line is there"
    svg = plots.save_figure(figure, tmp_path / "losses.SVG").read_text()
    assert svg.startswith("<?xml") and svg.rstrip().endswith("</svg>")
    for name in ("losses.jpg", "losses"):
        with pytest.raises(ValueError, match=f"{tmp_path / name}: its name must end in .png or .svg"):
            plots.save_figure(figure, tmp_path / name)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["losses.SVG", "losses.png"]
