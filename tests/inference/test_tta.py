import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import logsumexp

from jaxclf.augment import make_augment, normalize
from jaxclf.config import Preprocess
from jaxclf.data import loader as loader_module
from jaxclf.data.activations import ActivationDataset, ActivationLoader
from jaxclf.data.loader import Loader
from jaxclf.data.sources import ArrayDataset, ImageFolder
from jaxclf.inference import tta
from jaxclf.inference.predict import make_predict_step, predict
from jaxclf.inference.tta import Views, combine_views, make_view_step, predict_tta, predict_views
from jaxclf.metrics import Predictions, accuracy, label_probabilities, log_probabilities, probabilities
from jaxclf.models import ResNetConfig, create_classifier

SIZE, N = 32, 10
PIXELS = np.random.default_rng(0).integers(0, 256, (N, 48, 40, 3), np.uint8)
DATASET = ArrayDataset(PIXELS, np.arange(N) % 3, classes=("a", "b", "c"))


def make_loader(dataset=DATASET, batch_size=4, **options):
    return Loader(dataset, batch_size=batch_size, image_size=SIZE, train=False, **options)


class Linear:
    """In place of a network: a weighted sum of all pixels for each class, which sees any change of any of them."""

    def apply(self, variables, images, start=None):
        return images.reshape(len(images), -1) @ variables


MODEL = Linear()
VARIABLES = np.random.default_rng(2).normal(0, 0.02, (SIZE * SIZE * 3, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def views():
    return predict_views(MODEL, VARIABLES, make_loader(), num_views=3)


def test_progress_is_counted_in_views_and_changes_nothing(views):
    seen = []
    watched = predict_views(MODEL, VARIABLES, make_loader(), num_views=3, on_progress=lambda *at: seen.append(at))
    np.testing.assert_array_equal(watched.logits, views.logits)
    assert seen == [(4, 40), (8, 40), (10, 40), (22, 40), (34, 40), (40, 40)]
    seen.clear()
    predict_tta(MODEL, VARIABLES, make_loader(), num_views=0, on_progress=lambda *at: seen.append(at))
    assert seen == [(4, 10), (8, 10), (10, 10)]


def test_the_plain_view_is_what_predict_says(views):
    plain = predict(MODEL, VARIABLES, make_loader())
    np.testing.assert_array_equal(views.logits[0], plain.logits)
    np.testing.assert_array_equal(views.labels, plain.labels)
    np.testing.assert_array_equal(views.index, np.arange(N))
    none, seen = predict_tta(MODEL, VARIABLES, make_loader(), num_views=0, return_views=True)
    np.testing.assert_allclose(probabilities(none.logits), probabilities(plain.logits), rtol=1e-5)
    np.testing.assert_array_equal(seen, probabilities(plain.logits)[None])


def test_an_augmented_view_is_the_presized_picture_drawn_with_its_own_key(views):
    loader = make_loader(presized=True)
    assert loader.preprocess.shown < 1
    augment = jax.jit(make_augment("side_on", SIZE, shown=loader.preprocess.shown))
    for view, index in ((1, 0), (1, 1), (3, 9)):
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(0), view), index)
        drawn = normalize(
            augment(key, loader.prepared[index].image[None]), loader.preprocess.mean, loader.preprocess.std
        )
        np.testing.assert_allclose(views.logits[view, index], MODEL.apply(VARIABLES, drawn)[0], atol=1e-4)


def test_views_do_not_depend_on_batches_or_on_other_pictures(views):
    def logits(loader, num_views, **options):
        found = predict_views(MODEL, VARIABLES, loader, num_views=num_views, **options)
        return found.index, found.logits

    assert np.abs(views.logits[1] - views.logits[2]).min(0).max() > 0.01, "views differ"
    for loader, num_views, expected in (
        (make_loader(batch_size=3), 3, np.arange(N)),
        (make_loader().without([0, 5]), 2, np.setdiff1d(np.arange(N), [0, 5])),
        (make_loader(batch_size=8).part(1, 2), 1, np.arange(4, 8)),
    ):
        index, found = logits(loader, num_views)
        np.testing.assert_array_equal(index, expected)
        np.testing.assert_allclose(found, views.logits[: num_views + 1, expected], atol=1e-4)
    _, other = logits(make_loader(), 1, seed=1)
    assert np.abs(other[1] - views.logits[1]).max() > 0.01, "views depend on the seed"


def test_one_compilation_serves_all_views_and_every_file_is_read_once_more(tiny, photos, monkeypatch):
    model, variables = tiny
    calls = []
    for name in ("presized_pixels", "evaluation_pixels"):
        original = getattr(loader_module, name)
        monkeypatch.setattr(
            loader_module,
            name,
            lambda image, preprocess, f=original, name=name: (calls.append(name), f(image, preprocess))[1],
        )
    source = ImageFolder(photos / "valid")
    loader = make_loader(source, cache="memory")
    tta._view_step.cache_clear()
    found = predict_tta(model, variables, loader, num_views=4)
    step = make_view_step(model, preprocess=loader.preprocess)
    assert step._cache_size() == 1
    assert calls.count("presized_pixels") == calls.count("evaluation_pixels") == len(source) == len(found.index)
    assert 0.0 <= accuracy(found) <= 1.0


def test_tta_is_the_combination_of_its_views(views):
    found, seen = predict_tta(MODEL, VARIABLES, make_loader(), num_views=3, beta=0.25, return_views=True)
    assert isinstance(found, Predictions) and found.logits.dtype == np.float32
    np.testing.assert_array_equal(seen, probabilities(views.logits))
    expected = 0.25 * seen[0] + 0.75 * seen[1:].mean(0)
    np.testing.assert_allclose(np.exp(found.logits), expected, rtol=1e-5)


def test_views_of_several_labels(views):
    labels = np.random.default_rng(1).integers(0, 2, (N, 3)).astype(np.float32)
    source = ArrayDataset(PIXELS, labels, classes=("a", "b", "c"))
    found, seen = predict_tta(MODEL, VARIABLES, make_loader(source), num_views=3, threshold=0.2, return_views=True)
    assert found.multi_label and found.threshold == 0.2
    np.testing.assert_array_equal(found.labels, labels)
    np.testing.assert_array_equal(seen, label_probabilities(views.logits))
    np.testing.assert_allclose(label_probabilities(found.logits), seen.mean(0), rtol=1e-5)


# Combining, without a network

V, C = 4, 3
SEEDS = st.integers(0, 10**6)


def random_views(seed, scale=3.0, num=20):
    generator = np.random.default_rng(seed)
    logits = generator.normal(0, scale, (V, num, C)).astype(np.float32)
    return Views(logits, generator.integers(0, C, num), np.arange(num))


@settings(max_examples=20, deadline=None)
@given(SEEDS, st.one_of(st.none(), st.floats(0, 1)))
def test_combinations_by_their_formulas(seed, beta):
    views = random_views(seed)
    weights = np.full(V, 1 / V) if beta is None else np.array([beta] + [(1 - beta) / (V - 1)] * (V - 1))
    weights = weights[:, None, None]
    p, s = probabilities(views.logits), label_probabilities(views.logits)
    geometric, yes, no = ((p**weights).prod(0), (s**weights).prod(0), ((1 - s) ** weights).prod(0))
    expected = {
        ("mean", False): (weights * p).sum(0),
        ("log_mean", False): geometric / geometric.sum(-1, keepdims=True),
        ("mean", True): (weights * s).sum(0),
        ("log_mean", True): yes / (yes + no),
    }
    if beta is None:
        expected["max", False] = p.max(0) / p.max(0).sum(-1, keepdims=True)
        expected["max", True] = s.max(0)
    for (combine, multi_label), probability in expected.items():
        logits = combine_views(views._replace(multi_label=multi_label), combine=combine, beta=beta).logits
        found = label_probabilities(logits) if multi_label else np.exp(logits.astype(np.float64))
        np.testing.assert_allclose(found, probability, rtol=2e-5, err_msg=f"{combine} {multi_label}")


@settings(max_examples=20, deadline=None)
@given(SEEDS, st.permutations(range(1, V)), st.sampled_from(["mean", "log_mean", "max"]), st.booleans())
def test_the_order_of_the_augmented_views_does_not_matter(seed, order, combine, multi_label):
    views = random_views(seed)._replace(multi_label=multi_label)
    beta = None if combine == "max" else 0.3
    other = views._replace(logits=views.logits[[0, *order]])
    first, second = (combine_views(v, combine=combine, beta=beta) for v in (views, other))
    np.testing.assert_allclose(first.logits, second.logits, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize("combine", ["mean", "log_mean", "max"])
def test_equal_views_change_nothing_and_nothing_overflows(combine, multi_label):
    one = random_views(0).logits[0]
    sure = np.array([[3e3, 0.0, -3e3]], np.float32)
    logits = np.concatenate([one, sure])
    views = Views(np.stack([logits] * V), np.zeros(len(logits), int), np.arange(len(logits)), multi_label)
    found = combine_views(views, combine=combine).logits
    np.testing.assert_allclose(found, logits if multi_label else log_probabilities(logits), rtol=1e-5, atol=1e-5)


def test_beta_at_its_ends_leaves_out_views():
    logits = np.array([[[0.0, 2e3, 0.0]], [[2e3, 0.0, 0.0]], [[0.0, 0.0, 2e3]]])
    views = Views(logits, np.array([0]), np.array([0]))
    np.testing.assert_allclose(combine_views(views, beta=1.0).logits, [[-2e3, 0, -2e3]])
    augmented = logsumexp(log_probabilities(logits[1:]), axis=0) - np.log(2)
    np.testing.assert_allclose(combine_views(views, beta=0.0).logits, augmented, rtol=1e-6)
    several = combine_views(views._replace(multi_label=True), beta=1.0).logits
    np.testing.assert_allclose(several, logits[0], rtol=1e-6, atol=1e-6)


CACHED = ActivationLoader(
    ActivationDataset(np.zeros((4, 8), np.float32), np.zeros(4), classes=("a", "b"), cut="pooled"),
    batch_size=2,
    train=False,
)


@pytest.mark.parametrize(
    ("loader", "change", "message"),
    [
        (CACHED, {}, "cached activations .*'pooled'.* augmented bank"),
        (Loader(DATASET, batch_size=2, image_size=SIZE, train=True), {}, "train=False"),
        (make_loader(presized=True), {}, "presized=False"),
        (make_loader(), {"num_views": -1}, "num_views=-1"),
        (make_loader(), {"combine": "median"}, "'median'"),
        (make_loader(), {"beta": 1.5}, "beta=1.5"),
        (make_loader(), {"beta": 0.2, "combine": "max"}, "leave it None"),
        (make_loader(), {"augment": "none"}, "num_views=0"),
        (make_loader(), {"augment": "sideways"}, "'sideways'"),
    ],
)
def test_bad_arguments(loader, change, message):
    with pytest.raises(ValueError, match=message):
        predict_tta(MODEL, VARIABLES, loader, **change)


def test_a_pipeline_of_your_own():
    """The middle of the presized picture draws nothing: every view is the same."""
    found = predict_views(MODEL, VARIABLES, make_loader(), num_views=2, augment=make_augment("none", SIZE))
    np.testing.assert_allclose(found.logits[1], found.logits[2], rtol=1e-6)


def test_equal_arguments_give_the_same_step():
    """So what is compiled for one of them serves the others."""
    config = ResNetConfig("tiny", "basic", (1, 1, 1, 1), stem_width=8, stage_widths=(8, 8, 16, 16))
    for make in (make_predict_step, make_view_step):
        first, second = (make(create_classifier(config, 3), preprocess=Preprocess(image_size=32)) for _ in range(2))
        assert first is second
        mean = np.array(Preprocess().mean)
        assert make(create_classifier(config, 3), preprocess=Preprocess(32, mean, [*Preprocess().std])) is first
        others = (create_classifier(config, 4), Preprocess(32)), (create_classifier(config, 3), Preprocess(40))
        assert all(make(model, preprocess=preprocess) is not first for model, preprocess in others)
