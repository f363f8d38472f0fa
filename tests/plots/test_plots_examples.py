"""Asserts on the artists that are drawn, as in test_plots; pyplot is out of bounds here too."""

import sys

import numpy as np
import pytest
from conftest import write_class_folders
from test_plots import assert_apart

from jaxclf import plots
from jaxclf.data.decode import evaluation_pixels
from jaxclf.data.loader import Loader
from jaxclf.data.sources import ImageFolder
from jaxclf.metrics import Predictions, calibration_error, most_uncertain, reliability_curve, top_losses
from jaxclf.plots.examples import HEAT_OPACITY, WRONG

GENERATOR = np.random.default_rng(0)
IMAGES = GENERATOR.integers(0, 256, (4, 8, 8, 3), np.uint8)
HEAT = GENERATOR.random((4, 8, 8)).astype(np.float32)
LOGITS = np.log([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8], [1e-4, 1 - 1e-4]])
PREDICTIONS = Predictions(LOGITS, np.array([0, 1, 1, 1], np.int32), np.arange(4))
CLASSES = ("cat", "$dog")


@pytest.fixture(autouse=True)
def _no_pyplot(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)


def titles(figure):
    return [ax.get_title() for ax in figure.axes]


def test_titles_say_prediction_actual_loss_and_probability():
    rows = top_losses(PREDICTIONS, 4)
    figure = plots.show_examples(IMAGES, rows, CLASSES, names=[f"{i}.png" for i in rows.index])
    assert titles(figure) == [
        "cat 60 %\nactual: $dog\nloss 0.92\n1.png",
        "$dog 80 %\nactual: $dog\nloss 0.22\n2.png",
        "cat 90 %\nactual: cat\nloss 0.11\n0.png",
        "$dog >99 %\nactual: $dog\nloss 0.00\n3.png",
    ]
    assert [ax.title.get_color() == WRONG for ax in figure.axes] == [True, False, False, False]
    for ax, image in zip(figure.axes, IMAGES, strict=True):
        (drawn,) = ax.images
        np.testing.assert_array_equal(drawn.get_array(), image)
    assert_apart([ax.title for ax in figure.axes])


def test_unknown_and_several_labels():
    unknown = most_uncertain(PREDICTIONS._replace(labels=np.full(4, -1, np.int32)), 2)
    figure = plots.show_examples(IMAGES[:2], unknown, CLASSES)
    assert titles(figure) == ["cat 60 %", "$dog 80 %"] and figure.axes[0].title.get_color() != WRONG
    several = PREDICTIONS._replace(
        logits=np.array([[3.0, 3], [-3, -3], [3, -3], [-3, 3]]), labels=np.array([[1.0, 1], [1, 1], [1, 1], [0, 1]])
    )
    rows = top_losses(several._replace(multi_label=True), 4)
    figure = plots.show_examples(IMAGES, rows, CLASSES)
    assert titles(figure)[:2] == ["none\nactual: cat, $dog\nloss 3.05", "cat\nactual: cat, $dog\nloss 1.55"]
    assert [ax.title.get_color() == WRONG for ax in figure.axes] == [True, True, False, False]


def test_long_names_keep_apart():
    long = [f"n0{number}_a_rather_long_class_name_{number}" for number in range(2)]
    figure = plots.show_examples(
        IMAGES, top_losses(PREDICTIONS, 4), long, names=[f"{name}/{name}.png" for name in long] * 2
    )
    assert_apart([ax.title for ax in figure.axes])
    assert titles(figure)[0].split("\n")[0].endswith("name_0 60 %")


def test_heat_lies_over_the_pictures():
    figure = plots.show_grad_cam(IMAGES, HEAT, columns=2)
    for ax, image, heat in zip(figure.axes, IMAGES, HEAT, strict=True):
        below, above = ax.images
        np.testing.assert_array_equal(below.get_array(), image)
        np.testing.assert_array_equal(above.get_array(), heat.astype(np.float64))
        np.testing.assert_allclose(above.get_alpha(), HEAT_OPACITY * heat, rtol=1e-6)
        assert above.get_clim() == (0, 1)
    assert len(plots.show_examples(IMAGES, top_losses(PREDICTIONS, 4), CLASSES, heat=HEAT).axes[0].images) == 2
    assert len(plots.show_grad_cam(IMAGES[..., :1], None, ["a"] * 4).axes[3].images) == 1


def test_loader_pixels_are_what_the_network_is_evaluated_on(tmp_path):
    source = ImageFolder(write_class_folders(tmp_path, {"red": 3, "green": 3}, size=30))
    loader = Loader(source, batch_size=4, image_size=24, train=False)
    found = plots.loader_pixels(loader, [4, 1])
    expected = [evaluation_pixels(source.paths[index], loader.preprocess) for index in (4, 1)]
    np.testing.assert_array_equal(found, expected)


def curve_of(confidence, correct, num_bins=10):
    """Of decisions on one label."""
    logits = np.log(confidence) - np.log1p(-np.asarray(confidence))
    labels = np.asarray(correct, np.float32)
    predictions = Predictions(logits[:, None], labels[:, None], np.arange(len(labels)), multi_label=True)
    return reliability_curve(predictions, num_bins=num_bins)


def test_plot_reliability_draws_the_curve_and_its_counts():
    confidence, correct = GENERATOR.random(300), GENERATOR.random(300) < 0.5
    curve = curve_of(np.sqrt(confidence), correct)
    ax = plots.plot_reliability(curve)
    filled = curve.counts > 0
    points = np.stack([curve.confidence, curve.accuracy], -1)[filled]
    np.testing.assert_array_equal(ax.collections[-1].get_offsets(), points)
    gaps = ax.collections[0].get_segments()
    np.testing.assert_array_equal([gap[:, 1] for gap in gaps], np.stack([points[:, 0], points[:, 1]], -1))
    np.testing.assert_array_equal(ax.lines[0].get_xydata(), [[0, 0], [1, 1]])  # the diagonal
    assert ax.get_title("left") == f"300 pictures, calibration error {calibration_error(curve):.3f}"
    (bars,) = (other for other in ax.get_figure().axes if other is not ax)
    assert [bar.get_height() for bar in bars.patches] == curve.counts.tolist()
    np.testing.assert_allclose([bar.get_x() for bar in bars.patches], curve.edges[:-1])
    assert_apart([ax.title, ax.xaxis.label, ax.yaxis.label, bars.yaxis.label])


def test_plot_reliability_of_one_bin_on_given_axes():
    figure = plots.plot_reliability(curve_of([0.4], [1], num_bins=1)).get_figure()
    ax = figure.add_subplot()
    assert plots.plot_reliability(curve_of([0.9, 0.9], [1, 0], num_bins=4), ax) is ax


ROWS = top_losses(PREDICTIONS, 4)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: plots.show_examples(IMAGES[:3], ROWS, CLASSES), "3 images do not belong to 4 rows"),
        (lambda: plots.show_examples(IMAGES, ROWS, CLASSES, names=["a"]), "4 images and 1 names"),
        (lambda: plots.show_examples(IMAGES, ROWS, CLASSES, heat=HEAT[:, :4]), "one value for each pixel"),
        (lambda: plots.show_grad_cam(IMAGES[:0], None), "a picture to show"),
        (lambda: plots.show_grad_cam(IMAGES, HEAT, columns=0), "columns=0"),
        (lambda: plots.show_grad_cam(IMAGES / 255, HEAT), "must be uint8"),
        (lambda: plots.show_grad_cam(IMAGES, HEAT, ["a"]), "1 titles"),
        (lambda: plots.loader_pixels(None, []), "at least one picture"),
        (
            lambda: plots.plot_reliability(curve_of([0.5], [1])._replace(counts=np.zeros(15, int))),
            "no examples",
        ),
    ],
)
def test_bad_arguments(call, message):
    with pytest.raises(ValueError, match=message):
        call()
