"""Packs weights for shipping: kernels in half precision, everything else as it is, and a description beside them.

    python scripts/pack_weights.py WEIGHTS.safetensors jaxclf/weights/bundled/NAME.safetensors \
        --origin "what they are" --licence "under which terms"

WEIGHTS.json beside the source says what pretraining used: arch, classes, image_size, mean, std, interpolation and
crop_fraction. Half precision keeps 11 bits of each kernel value; BatchNorm's parameters and statistics and the head's
bias stay float32, because small errors there shift whole channels.
"""

import argparse
import hashlib
import json
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from jaxclf.config import Preprocess, PretrainedConfig, to_json


def pack(source: Path, destination: Path, origin: str, licence: str) -> PretrainedConfig:
    """Writes `destination` and its .json; returns what the .json says."""
    described = json.loads(source.with_suffix(".json").read_text(encoding="utf-8"))
    tensors = load_file(source)
    packed = {
        name: array.astype(np.float16) if array.dtype == np.float32 and array.ndim > 1 else array
        for name, array in tensors.items()
        if not name.endswith("num_batches_tracked")
    }
    save_file(packed, destination, metadata={"format": "pt"})
    destination.chmod(0o644)  # safetensors leaves it readable by its owner only
    config = PretrainedConfig(
        arch=described["arch"],
        preprocess=Preprocess(
            image_size=described["image_size"],
            mean=tuple(described["mean"]),
            std=tuple(described["std"]),
            interpolation=described["interpolation"],
            crop_fraction=described["crop_fraction"],
        ),
        classes=tuple(described["classes"]),
        licence=licence,
        origin=origin,
        sha256=hashlib.sha256(destination.read_bytes()).hexdigest(),
    )
    destination.with_suffix(".json").write_text(to_json(config), encoding="utf-8")
    return config


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="float32 weights (.safetensors) with a .json of the same name beside")
    parser.add_argument("destination", type=Path, help="the .safetensors file to write; its .json goes beside it")
    parser.add_argument("--origin", required=True, help="one sentence: what was trained, on what, by whom")
    parser.add_argument("--licence", required=True, help="one sentence: the terms of use")
    args = parser.parse_args()
    config = pack(args.source, args.destination, args.origin, args.licence)
    megabytes = args.destination.stat().st_size / 1e6
    print(
        f"{args.destination}: {config.arch}, {len(config.classes)} classes, {megabytes:.1f} MB, sha256 {config.sha256}"
    )
