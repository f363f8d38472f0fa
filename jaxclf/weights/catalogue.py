"""Weights by name: the best known ImageNet-1k weights of each architecture, for `--weights auto`; those that come with
the package, for where no hub can be reached; and what is written about weights beside them.

Names, top-1 accuracies and test sizes of the table are timm's own, from `results/results-imagenet.csv` in its
repository (commit 0173a139); resnet50d's, which are younger, from the release notes in timm's README. Origins and
licences are from the weights' entries in `timm/models/resnet.py` (commit 00c5be76, where only other people's weights
name a licence) and from model cards on the hub. Looked up in November 2026 in stored copies of these pages; nothing was
measured anew.

"Best" is the highest top-1 among weights whose licence allows any use. Facebook's semi-weakly supervised ones
(fb_swsl) score 0.1 to 1.5 points more for resnet18, resnext50_32x4d and resnext101_32x8d but are CC-BY-NC-4.0; they can
still be named, for example `--weights timm/resnet18.fb_swsl_ig1b_ft_in1k`.
"""

import json
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from jaxclf.config import PretrainedConfig, from_dict, from_json
from jaxclf.models import get_config
from jaxclf.weights.files import file_sha256, read_state_dict

_APACHE, _BSD = "Apache-2.0", "BSD-3-Clause"


@dataclass(frozen=True)
class KnownWeights:
    """One set of ImageNet-1k weights on the hub.

    Attributes:
      arch: the architecture.
      hub_id: repository on the hub, for `load_weights`.
      licence: SPDX identifier.
      top1: published ImageNet-1k validation top-1, in percent.
      test_size: side in pixels of the images that `top1` was measured with.
      origin: who trained them, and how.
    """

    arch: str
    hub_id: str
    licence: str
    top1: float
    test_size: int
    origin: str


def _row(name: str, top1: float, test_size: int, origin: str, licence: str = _APACHE) -> KnownWeights:
    return KnownWeights(name.partition(".")[0], f"timm/{name}", licence, top1, test_size, origin)


_RSB_A1 = "timm, 'ResNet strikes back' recipe A1 (arXiv:2110.00476)"
_RSB_A1H = "timm, 'ResNet strikes back' recipe A1 with stronger regularisation (arXiv:2110.00476)"
_RSB_C = "timm, after 'ResNet strikes back' recipe C (arXiv:2110.00476)"
_RA2 = "timm, RandAugment recipe RA2"
_TV2 = "torchvision, IMAGENET1K_V2 weights"

_ROWS = (
    _row("resnet18.a1_in1k", 73.158, 288, _RSB_A1),
    _row("resnet34.a1_in1k", 77.918, 288, _RSB_A1),
    _row("resnet50.a1_in1k", 81.214, 288, _RSB_A1),
    _row("resnet101.a1h_in1k", 82.778, 288, _RSB_A1H),
    _row("resnet152.a1h_in1k", 83.450, 288, _RSB_A1H),
    _row("resnext50_32x4d.a1h_in1k", 82.014, 288, _RSB_A1H),
    _row("resnext101_32x8d.tv2_in1k", 82.832, 224, _TV2, _BSD),
    _row("resnext101_64x4d.c1_in1k", 83.156, 288, _RSB_C),
    _row("wide_resnet50_2.racm_in1k", 82.280, 288, "timm, RandAugment recipe RACM"),
    _row("wide_resnet101_2.tv2_in1k", 82.498, 224, _TV2, _BSD),
    _row("resnet10t.c3_in1k", 68.358, 224, _RSB_C),
    _row("resnet14t.c3_in1k", 72.254, 224, _RSB_C),
    _row("resnet18d.ra2_in1k", 73.794, 288, _RA2),
    _row("resnet26d.bt_in1k", 77.408, 288, "timm, 'bag of tricks' recipe"),
    _row("resnet26t.ra2_in1k", 78.332, 320, _RA2),
    _row("resnet34d.ra2_in1k", 78.436, 288, _RA2),
    _row("resnet50d.ra4_e3600_r224_in1k", 81.838, 288, "timm, MobileNetV4's recipe"),
    _row("resnet101d.ra2_in1k", 83.016, 320, _RA2),
    _row("seresnet50.ra2_in1k", 81.284, 288, _RA2),
)


def known_weights(arch: str | None = None) -> tuple[KnownWeights, ...]:
    """The table, or its rows for one architecture; a ValueError for an unknown one.

    >>> known_weights("resnet34")[0].hub_id
    'timm/resnet34.a1_in1k'
    """
    if arch is not None:
        arch = get_config(arch).arch
    return tuple(row for row in _ROWS if arch in (None, row.arch))


def best_weights(arch: str) -> KnownWeights:
    """The weights that `--weights auto` takes: the highest published top-1.

    Raises:
      ValueError: for an unknown architecture, or one without known weights, naming what to do instead.
    """
    rows = known_weights(arch)
    if not rows:
        raise ValueError(
            f"no ImageNet weights are known for arch={arch!r}: name a file or a hub id, train from scratch "
            f"(--weights none), or choose one of {', '.join(row.arch for row in _ROWS)}"
        )
    return max(rows, key=lambda row: row.top1)


# Weights that come with the package.

#: Name -> file in `bundled/`, which holds the .safetensors, a .json beside it, and NOTICE.md on origin and terms.
_FILES = {"tiny-imagenet": "resnet10t-tiny-imagenet.safetensors"}


def bundled_names() -> tuple[str, ...]:
    """The names of the weights that come with the package."""
    return tuple(_FILES)


def bundled_path(name: str) -> Path:
    """The file of bundled weights; a ValueError for an unknown name, or where the package is not plain files."""
    if name not in _FILES:
        raise ValueError(f"name={name!r} is not bundled; there is {', '.join(_FILES)}")
    path = files("jaxclf.weights").joinpath("bundled", _FILES[name])
    if not isinstance(path, Path) or not path.is_file():
        raise ValueError(f"the bundled weights {name!r} are not installed at {path}: install jaxclf as plain files")
    return path


def bundled_config(name: str) -> PretrainedConfig:
    """What is known about bundled weights: architecture, preprocessing, classes, licence, origin and SHA-256.

    >>> bundled_config("tiny-imagenet").arch
    'resnet10t'
    """
    return from_json(PretrainedConfig, bundled_path(name).with_suffix(".json").read_text(encoding="utf-8"))


def read_bundled(name: str) -> tuple[dict[str, np.ndarray], PretrainedConfig]:
    """The state dict (kernels float16, the rest float32) and what is known about it.

    Raises:
      ValueError: for an unknown name, or if the file is not the one that was packed.
    """
    path, config = bundled_path(name), bundled_config(name)
    found = file_sha256(path)
    if found != config.sha256:
        raise ValueError(
            f"the bundled weights {path} were changed after packaging (SHA-256 {found}, expected {config.sha256}): "
            "install jaxclf again"
        )
    return read_state_dict(path), config


# The description beside weights.

#: The fields of `Preprocess`, and what timm calls them; `input_size` is [channels, height, width].
_PREPROCESS = {
    "image_size": "input_size",
    "mean": "mean",
    "std": "std",
    "interpolation": "interpolation",
    "crop_fraction": "crop_pct",
}


def read_config(path: Path) -> PretrainedConfig:
    """The description of weights in a JSON file: jaxclf's own, timm's config.json, or what a pretraining wrote.

    Raises:
      ValueError: naming the file, if it is not JSON, of another form, or holds a value that makes no sense.
    """
    try:
        text = path.read_text(encoding="utf-8")
        data = json.loads(text)
        if not isinstance(data, dict):
            raise ValueError(f"holds a {type(data).__name__}, not a table")
        if "architecture" in data:
            return _from_timm(data)
        if "preprocess" in data:
            return from_json(PretrainedConfig, text)
        if {"arch", "image_size", "mean", "std"} <= data.keys():  # flat, the fields of `Preprocess` beside the others
            rest = {name: data[name] for name in ("arch", "classes", "licence", "origin") if name in data}
            preprocess = {name: data[name] for name in _PREPROCESS if name in data}
            return from_dict(PretrainedConfig, {**rest, "preprocess": preprocess})
        raise ValueError("is neither jaxclf's nor timm's")
    except (OSError, UnicodeError, ValueError, RecursionError) as error:
        raise ValueError(
            f"config {path} describes the weights beside it but cannot be used: {error}. Mend it, or take it away to "
            "load them with ImageNet's preprocessing"
        ) from error


def _from_timm(data: dict[str, Any]) -> PretrainedConfig:
    """From timm's config.json: the size it was trained at, with the crop fraction for that size.

    `data` has `architecture`, `num_classes`, perhaps `label_names`, and `pretrained_cfg` with the preprocessing and
    perhaps `license`. Very old files have these at the top.
    """
    pretrained = data.get("pretrained_cfg", data)
    if not isinstance(pretrained, dict):
        raise ValueError("pretrained_cfg is not a table")
    preprocess = {ours: pretrained[theirs] for ours, theirs in _PREPROCESS.items() if theirs in pretrained}
    if "image_size" in preprocess:
        size = preprocess["image_size"]
        if not isinstance(size, list) or len(size) != 3 or size[1] != size[2]:
            raise ValueError(f"input_size={size!r} is not [channels, side, side]")
        preprocess["image_size"] = size[2]
    labels = data.get("label_names", pretrained.get("label_names"))
    classes = labels if isinstance(labels, list) else []
    num_classes = data.get("num_classes", pretrained.get("num_classes"))
    if classes and num_classes is not None and len(classes) != num_classes:
        raise ValueError(f"it names {len(classes)} labels for {num_classes} classes")
    licence = pretrained.get("license") or data.get("license") or "unknown"
    about = {"arch": data["architecture"], "preprocess": preprocess, "classes": classes, "licence": licence}
    return from_dict(PretrainedConfig, about)
