"""Pipelines: geometry composed into one matrix per image, sampled once, then colours; and presets by name."""

import functools
from collections.abc import Callable, Sequence

import jax

from jaxclf.augment.colour import Colour, random_lighting
from jaxclf.augment.geometry import (
    Geometry,
    identity,
    piece,
    product,
    random_dihedral,
    random_flip,
    random_piece,
    random_resized_crop,
    random_rotate,
    random_zoom,
)
from jaxclf.augment.sampling import center_crop, sample, to_float

#: (key, uint8 [b, h, w, c]) -> float32 [b, size, size, c] in [0, 1].
Augment = Callable[[jax.Array, jax.typing.ArrayLike], jax.Array]

#: What each preset draws, in the order of application; "none" is beside them, as it draws nothing.
PRESETS: dict[str, tuple[tuple[Geometry, ...], tuple[Colour, ...]]] = {
    "side_on": ((random_flip, random_rotate, random_zoom), (random_lighting,)),
    "top_down": ((random_dihedral, random_rotate, random_zoom), (random_lighting,)),
    "random_resized_crop": ((random_resized_crop, random_flip), ()),
}


def make_pipeline(image_size: int, *, geometry: Sequence[Geometry] = (), colour: Sequence[Colour] = ()) -> Augment:
    """A pipeline of your own: `(key, images) -> float32 images`; the same key gives the same pixels.

    The geometry is multiplied into one matrix per image and sampled once, so a picture is blurred once however many
    operations took part; with none, the whole picture is scaled. Each operation's key depends on the key given and on
    its place in the list, so one appended at the end leaves the draws of the others as they were.

    Args:
      image_size: output side in pixels.
      geometry: operations `(key, num) -> [num, 3, 3]`, applied in this order; see `augment.geometry`.
      colour: operations `(key, images) -> images` in [0, 1], after the sampling, in this order; see `augment.colour`.

    Returns:
      `(key, images)`, uint8 [b, h, w, c] (or float in [0, 1]) -> float32 [b, image_size, image_size, c].

    Raises:
      ValueError: for an image size below 1.

    >>> augment = make_pipeline(8, geometry=(random_flip, random_zoom), colour=(random_lighting,))
    >>> jax.eval_shape(augment, jax.random.key(0), jax.numpy.zeros((2, 9, 9, 3), "uint8")).shape
    (2, 8, 8, 3)
    """
    if image_size < 1:
        raise ValueError(f"image_size={image_size} must be at least 1")
    geometry, colour = tuple(geometry), tuple(colour)

    def augment(key: jax.Array, images: jax.typing.ArrayLike) -> jax.Array:
        geometry_key, colour_key = jax.random.split(key)
        num = jax.numpy.shape(images)[0]
        drawn = [draw(jax.random.fold_in(geometry_key, place), num) for place, draw in enumerate(geometry)]
        pictures = sample(images, product(*drawn) if drawn else identity(num), image_size)
        for place, change in enumerate(colour):
            pictures = change(jax.random.fold_in(colour_key, place), pictures)
        return pictures

    return augment


def make_augment(name: str, image_size: int, *, shown: float = 1.0) -> Augment:
    """The preset `name` as a function `(key, uint8 images) -> float32 images` in [0, 1].

    Args:
      name: "side_on" (flip, rotation by up to 10 degrees, zoom up to 1.1, lighting by up to .05: photos taken from the
        side), "top_down" (the same with one of the square's eight symmetries in place of the flip: satellite and
        microscope pictures), "random_resized_crop" (35 to 100 % of the area, and flip) or "none" (the middle).
      image_size: output side in pixels.
      shown: share of the picture's side that evaluation shows, the middle of it (`Preprocess.shown`). "side_on" and
        "top_down" show as much, from anywhere in the picture and before they zoom, so that things are as large in
        training as in evaluation.

    Raises:
      ValueError: for another name, or a share outside (0, 1].
    """
    if not 0.0 < shown <= 1.0:
        raise ValueError(f"shown={shown!r} must lie in (0, 1]")
    if name == "none":
        return functools.partial(_middle, image_size, shown)
    if name not in PRESETS:
        raise ValueError(f"augment={name!r} is not a preset; choose one of {', '.join(map(repr, ('none', *PRESETS)))}")
    geometry, colour = PRESETS[name]
    if name != "random_resized_crop" and shown != 1.0:
        geometry = (*geometry, functools.partial(random_piece, side=shown))
    return make_pipeline(image_size, geometry=geometry, colour=colour)


def _middle(image_size: int, shown: float, key: jax.Array, images: jax.typing.ArrayLike) -> jax.Array:
    """What evaluation shows of presized pictures; pictures of its own size are there already."""
    num, side = jax.numpy.shape(images)[:2]
    if side == image_size or round(side * shown) == image_size:
        return to_float(center_crop(images, image_size))  # pixel for pixel
    return sample(images, piece(num, shown), image_size)
