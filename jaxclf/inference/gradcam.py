"""Grad-CAM: where in a picture a class is seen."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from jaxclf.augment import normalize, to_float
from jaxclf.config import MODULES, Preprocess
from jaxclf.models.classifier import Classifier, Variables

#: Where activations still have a height and a width.
LAYERS = tuple(name for name in MODULES if name != "head")


def grad_cam(
    model: Classifier,
    variables: Variables,
    images: np.ndarray | jax.Array,
    classes: np.typing.ArrayLike,
    *,
    preprocess: Preprocess | None = None,
    layer: str = "stage4",
) -> np.ndarray:
    """Heat maps of what speaks for a class, in evaluation mode.

    With A the activations [h, w, c] at a layer and y the logit of the class:

      a_c = mean over (h, w) of dy / dA_c,  map = relu(sum_c a_c A_c),

    enlarged to the picture bilinearly and divided by its largest value. With the linear head at `stage4`, this is the
    class activation map: A weighted by the class's column of the Dense kernel.

    Args:
      model, variables: the classifier.
      images: uint8 [b, s, s, 3], as the evaluation loader has them; or normalised float [b, s, s, 3].
      classes: int [b], the class asked about for each picture, right or wrong; or one for all.
      preprocess: mean and std, needed for uint8 images.
      layer: "stem" or "stage1" .. "stage4". Later layers say more about the class, earlier ones more about the place.

    Returns:
      float32 [b, s, s] in [0, 1]; 1 at the largest place, and 0 everywhere where nothing speaks for the class.

    Raises:
      ValueError: for images, classes or a layer other than these, or a classifier without a head.

    References: Selvaraju et al., Grad-CAM, arXiv:1610.02391, 2017; Zhou et al., arXiv:1512.04150, 2016 (class
    activation maps).
    """
    num_classes = model.num_classes
    if not num_classes:
        raise ValueError("a headless classifier has no classes to ask about: create it with num_classes")
    if layer not in LAYERS:
        raise ValueError(f"layer={layer!r} has no height and width; choose one of {', '.join(LAYERS)}")
    if np.ndim(images) != 4:
        raise ValueError(f"images must be [b, s, s, 3]; found shape {list(np.shape(images))}")
    if images.dtype == np.uint8 and preprocess is None:
        raise ValueError("uint8 images need preprocess, which says how the classifier wants them normalised")
    if len(images) == 0:
        return np.zeros(np.shape(images)[:3], np.float32)
    chosen = np.asarray(classes)
    if chosen.dtype.kind not in "iu" or chosen.shape not in ((), (len(images),)):
        raise ValueError(
            f"classes of type {chosen.dtype} and shape {list(chosen.shape)} must be class numbers, one for all images "
            f"or one for each of the {len(images)}"
        )
    if not (chosen.min() >= 0 and chosen.max() < num_classes):
        raise ValueError(f"classes holds {chosen.min()} to {chosen.max()}; classes are 0 to {num_classes - 1}")
    chosen = np.broadcast_to(chosen.astype(np.int32), (len(images),))
    return np.asarray(_heat_maps(model, preprocess, layer, variables, images, chosen))


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _heat_maps(
    model: Classifier,
    preprocess: Preprocess | None,
    layer: str,
    variables: Variables,
    images: jax.Array,
    classes: jax.Array,
) -> jax.Array:
    if images.dtype == jnp.uint8:
        assert preprocess is not None
        images = normalize(to_float(images), preprocess.mean, preprocess.std)
    activations = model.apply(variables, images, stop=layer)
    assert isinstance(activations, jax.Array)  # nothing is mutable, so there is nothing beside the activations

    def logit(activations: jax.Array) -> jax.Array:
        logits = model.apply(variables, activations, start=layer)
        assert isinstance(logits, jax.Array)
        return jnp.take_along_axis(logits, classes[:, None], axis=-1).sum()  # rows do not see each other

    gradient = jax.grad(logit)(activations).astype(jnp.float32)
    weights = gradient.mean((1, 2), keepdims=True)  # [b, 1, 1, c]
    small = jax.nn.relu((weights * activations.astype(jnp.float32)).sum(-1))  # [b, h, w]
    maps = jax.image.resize(small, images.shape[:3], "bilinear")
    largest = maps.max((1, 2), keepdims=True)
    return jnp.where(largest > 0.0, maps / jnp.where(largest > 0.0, largest, 1.0), 0.0)
