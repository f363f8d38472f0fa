"""Makes the files in this folder with PyTorch; the tests only read them. They were made with PyTorch 2.13.0.

    python tests/weights/torch_files/make.py

Every tensor counts up in steps of an eighth, so that the tests know the values without PyTorch.
"""

import argparse
from collections import OrderedDict
from pathlib import Path

import numpy as np
import torch

FOLDER = Path(__file__).parent


def counting(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """0, 1/8, 2/8, .. in the given shape."""
    return (torch.arange(int(np.prod(shape)), dtype=torch.float64) / 8).reshape(shape).to(dtype)


def small_model() -> OrderedDict[str, torch.Tensor]:
    """What `state_dict()` of a convolution and a BatchNorm gives, with its `_metadata`."""
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    model.load_state_dict({k: counting(*v.shape, dtype=v.dtype) for k, v in model.state_dict().items()})
    return model.state_dict()


def views() -> dict[str, torch.Tensor]:
    """Every way a tensor can lie in its storage."""
    whole = counting(4, 6)
    return {
        "whole": whole,
        "transposed": whole.t(),
        "row": whole[2],
        "every_other": whole[:, 1::2],
        "channels_last": counting(2, 3, 4, 5).contiguous(memory_format=torch.channels_last),
        "scalar": torch.tensor(2.5),
        "empty": torch.zeros(0, 3),
        "bfloat16": counting(3, 5, dtype=torch.bfloat16).t(),
        "half": counting(7, dtype=torch.float16),
        "double": counting(7, dtype=torch.float64),
        "int32": torch.arange(5, dtype=torch.int32),
        "uint8": torch.arange(5, dtype=torch.uint8),
        "bool": torch.tensor([True, False, True]),
        "parameter": torch.nn.Parameter(counting(3)),
    }


def training_checkpoint() -> dict[str, object]:
    """What a training script leaves: wrapped, prefixed, with an averaged copy, an optimizer and its arguments."""
    weight = torch.nn.Parameter(counting(2, 3))
    optimizer = torch.optim.SGD([weight], lr=0.1, momentum=0.9)
    weight.sum().backward()
    optimizer.step()
    return {
        "epoch": 3,
        "arch": "small",
        "args": argparse.Namespace(lr=0.1, output=Path("runs")),
        "best": np.float64(0.5),
        "optimizer": optimizer.state_dict(),
        "state_dict": OrderedDict({"module.weight": counting(2, 3), "module.bias": counting(2)}),
    }


if __name__ == "__main__":
    torch.save(small_model(), FOLDER / "zip.pth")
    torch.save(small_model(), FOLDER / "legacy.pth", _use_new_zipfile_serialization=False)
    torch.save(views(), FOLDER / "views_zip.pth")
    torch.save(views(), FOLDER / "views_legacy.pth", _use_new_zipfile_serialization=False)
    torch.save(training_checkpoint(), FOLDER / "training.pth")
    torch.save(views(), FOLDER / "views_protocol4.pth", pickle_protocol=4)
    for path in sorted(FOLDER.glob("*.pth")):
        print(f"{path.name}: {path.stat().st_size} bytes")
