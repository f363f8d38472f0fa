"""Augmentation on the device: `(key, uint8 images) -> float images`, batched, drawn per image, one interpolation.

A row's draws depend on the key and the row's number only. Geometry is composed into one matrix per image (`geometry`)
and sampled once (`sampling`); then come changes of colour (`colour`) and, with the targets, mixing (`mix`).
"""

from jaxclf.augment.colour import Colour, random_erasing, random_lighting
from jaxclf.augment.geometry import (
    Geometry,
    dihedral,
    identity,
    product,
    random_dihedral,
    random_flip,
    random_resized_crop,
    random_rotate,
    random_warp,
    random_zoom,
)
from jaxclf.augment.mix import Mix, cutmix, mixup
from jaxclf.augment.presets import PRESETS, Augment, make_augment, make_pipeline
from jaxclf.augment.sampling import center_crop, normalize, sample, to_float

__all__ = [
    "PRESETS",
    "Augment",
    "Colour",
    "Geometry",
    "Mix",
    "center_crop",
    "cutmix",
    "dihedral",
    "identity",
    "make_augment",
    "make_pipeline",
    "mixup",
    "normalize",
    "product",
    "random_dihedral",
    "random_erasing",
    "random_flip",
    "random_lighting",
    "random_resized_crop",
    "random_rotate",
    "random_warp",
    "random_zoom",
    "sample",
    "to_float",
]
