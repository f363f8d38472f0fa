"""What is written about weights beside them: jaxclf's own JSON, timm's config.json, or a pretraining's description."""

import json
from pathlib import Path
from typing import Any

from jaxclf.config import PretrainedConfig, from_dict, from_json


def read_config(path: Path) -> PretrainedConfig:
    """The description of weights in a JSON file, whichever of the three forms it has.

    Raises:
      ValueError: naming the file, if it is not JSON, of another form, or holds a value that makes no sense.
    """
    try:
        text = path.read_text(encoding="utf-8")
        data = json.loads(text)
        if not isinstance(data, dict):
            raise ValueError(f"holds a {type(data).__name__}, not a table")
        if "architecture" in data:
            return parse_timm_config(data)
        if "preprocess" in data:
            return from_json(PretrainedConfig, text)
        if {"arch", "image_size", "mean", "std"} <= data.keys():
            return _parse_description(data)
        raise ValueError("is neither jaxclf's nor timm's")
    except (OSError, UnicodeError, ValueError, RecursionError) as error:
        raise ValueError(
            f"config {path} describes the weights beside it but cannot be used: {error}. Mend it, or take it away to "
            "load them with ImageNet's preprocessing"
        ) from error


def parse_timm_config(data: dict[str, Any]) -> PretrainedConfig:
    """From timm's config.json: the size it was trained at, with the crop fraction for that size.

    Args:
      data: the parsed file: `architecture`, `num_classes`, perhaps `label_names`, and `pretrained_cfg` with
        `input_size` [3, h, w], `mean`, `std`, `interpolation`, `crop_pct`, perhaps `license`. Very old files have these
        at the top.

    Raises:
      ValueError: for a value of a wrong type or out of range, naming it.
    """
    pretrained = data.get("pretrained_cfg", data)
    if not isinstance(pretrained, dict):
        raise ValueError("pretrained_cfg is not a table")
    preprocess = {ours: pretrained[theirs] for ours, theirs in _TIMM_FIELDS.items() if theirs in pretrained}
    if "input_size" in pretrained:
        size = pretrained["input_size"]
        if not isinstance(size, list) or len(size) != 3 or size[1] != size[2]:
            raise ValueError(f"input_size={size!r} is not [channels, side, side]")
        preprocess["image_size"] = size[2]
    labels = data.get("label_names", pretrained.get("label_names"))
    classes = labels if isinstance(labels, list) else []
    num_classes = data.get("num_classes", pretrained.get("num_classes"))
    if classes and num_classes is not None and len(classes) != num_classes:
        raise ValueError(f"it names {len(classes)} labels for {num_classes} classes")
    licence = pretrained.get("license") or data.get("license") or "unknown"
    return from_dict(
        PretrainedConfig,
        {"arch": data["architecture"], "preprocess": preprocess, "classes": classes, "licence": licence},
    )


_TIMM_FIELDS = {"mean": "mean", "std": "std", "interpolation": "interpolation", "crop_fraction": "crop_pct"}


def _parse_description(data: dict[str, Any]) -> PretrainedConfig:
    """From what a pretraining script writes: the fields of `Preprocess` beside arch and classes."""
    names = ("image_size", "mean", "std", "interpolation", "crop_fraction")
    preprocess = {name: data[name] for name in names if name in data}
    rest: dict[str, Any] = {name: data[name] for name in ("arch", "classes", "licence", "origin") if name in data}
    return from_dict(PretrainedConfig, {**rest, "preprocess": preprocess})
