import jax
import numpy as np
import pytest

from jaxclf.augment import normalize, to_float
from jaxclf.config import Preprocess
from jaxclf.inference.gradcam import LAYERS, grad_cam
from jaxclf.models import create_classifier

SIZE = 96
PREPROCESS = Preprocess(image_size=SIZE)
IMAGES = np.random.default_rng(0).integers(0, 256, (4, SIZE, SIZE, 3), np.uint8)
NORMALISED = np.asarray(normalize(to_float(IMAGES), PREPROCESS.mean, PREPROCESS.std))
CLASSES = np.array([0, 1, 2, 0])


def enlarge(small, size):
    """Bilinear, pixel centres at (i + .5) / n, the border held: [b, h, w] -> [b, size, size], by matrices."""

    def matrix(n):
        place = np.clip((np.arange(size) + 0.5) * n / size - 0.5, 0, n - 1)
        return np.maximum(0.0, 1.0 - np.abs(place[:, None] - np.arange(n)))

    return np.einsum("ih,bhw,jw->bij", matrix(small.shape[1]), small, matrix(small.shape[2]))


def heat(weights, activations):
    """[b, c] and [b, h, w, c] -> the map as described."""
    maps = enlarge(np.maximum(np.einsum("bc,bhwc->bhw", weights, activations), 0.0), SIZE)
    largest = maps.max((1, 2), keepdims=True)
    return np.where(largest > 0, maps / np.where(largest > 0, largest, 1), 0)


@pytest.fixture(scope="module")
def at_stage4(tiny):
    model, variables = tiny
    return np.asarray(jax.jit(lambda x: model.apply(variables, x, stop="stage4"))(NORMALISED), np.float64)


def test_with_a_linear_head_it_is_the_class_activation_map(tiny, at_stage4):
    model, variables = tiny
    kernel = np.asarray(variables["params"]["head"]["fc"]["kernel"], np.float64)
    expected = heat(kernel[:, CLASSES].T, at_stage4)
    found = grad_cam(model, variables, IMAGES, CLASSES, preprocess=PREPROCESS)
    assert found.dtype == np.float32 and at_stage4.shape[1:3] == (3, 3)
    np.testing.assert_allclose(found, expected, atol=2e-5)
    assert found.min() >= 0.0 and set(found.max((1, 2))) <= {0.0, 1.0} and found.max() == 1.0
    np.testing.assert_allclose(grad_cam(model, variables, NORMALISED, CLASSES), found, atol=2e-5)
    one = grad_cam(model, variables, IMAGES, 2, preprocess=PREPROCESS)
    np.testing.assert_allclose(one[2], found[2], atol=2e-5)
    assert np.abs(one[0] - found[0]).max() > 0.1, "the map depends on the class"


def test_weights_at_an_earlier_layer_are_those_of_finite_differences(tiny):
    """The mean of a channel's gradient is what the logit gains when the whole channel is raised a little."""
    model, variables = tiny
    image, label, step = NORMALISED[:1], 1, 1e-3
    activation = np.asarray(jax.jit(lambda x: model.apply(variables, x, stop="stage3"))(image))
    channels = activation.shape[-1]
    bumps = step * np.concatenate([np.eye(channels), -np.eye(channels)])[:, None, None, :].astype(np.float32)
    logits = np.asarray(jax.jit(lambda a: model.apply(variables, a, start="stage3"))(activation + bumps))[:, label]
    weights = (logits[:channels] - logits[channels:])[None]
    found = grad_cam(model, variables, image, label, layer="stage3")
    np.testing.assert_allclose(found, heat(weights, activation.astype(np.float64)), atol=0.03)


def test_where_nothing_speaks_for_a_class_the_map_stays_dark(tiny, at_stage4):
    model, variables = tiny
    assert at_stage4.min() >= 0.0 and at_stage4.max() > 0.0
    head = variables["params"]["head"]["fc"]
    against = {**variables["params"], "head": {"fc": {**head, "kernel": -np.abs(head["kernel"]) - 0.1}}}
    found = grad_cam(model, {**variables, "params": against}, IMAGES, CLASSES, preprocess=PREPROCESS)
    np.testing.assert_array_equal(found, np.zeros((4, SIZE, SIZE), np.float32))


def test_pictures_do_not_see_each_other(tiny):
    model, variables = tiny
    whole = grad_cam(model, variables, IMAGES, CLASSES, preprocess=PREPROCESS)
    shuffled = np.array([2, 0, 3, 1])
    other = grad_cam(model, variables, IMAGES[shuffled], CLASSES[shuffled], preprocess=PREPROCESS)
    np.testing.assert_allclose(other, whole[shuffled], atol=2e-5)


def test_no_pictures_have_no_maps(tiny):
    assert grad_cam(*tiny, IMAGES[:0], [], preprocess=PREPROCESS).shape == (0, SIZE, SIZE)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layer": "pooled"}, f"layer='pooled' .* {LAYERS[-1]}"),
        ({"classes": [0, 1]}, "one for each of the 4"),
        ({"classes": np.zeros(4)}, "float64"),
        ({"classes": 3}, "classes are 0 to 2"),
        ({"classes": -1}, "classes holds -1"),
        ({"images": IMAGES[0]}, "must be \\[b, s, s, 3\\]"),
        ({"preprocess": None}, "need preprocess"),
        ({"images": IMAGES.astype(np.int32)}, "floating point"),
    ],
)
def test_bad_arguments(tiny, change, message):
    arguments = {"images": IMAGES, "classes": 0, "preprocess": PREPROCESS, **change}
    images, classes = arguments.pop("images"), arguments.pop("classes")
    with pytest.raises(ValueError, match=message):
        grad_cam(*tiny, images, classes, **arguments)


def test_a_headless_network_is_refused(tiny):
    model, variables = tiny
    with pytest.raises(ValueError, match="headless"):
        grad_cam(create_classifier(model.config, None), variables, IMAGES, 0, preprocess=PREPROCESS)
