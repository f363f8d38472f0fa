"""How long does a train step take, beside PyTorch where it is installed?

Trained are the full network, its last stage and head, or its head alone; the rest is frozen, its BatchNorm on running
statistics. A step goes from uint8 pictures on the device to new parameters: normalisation, forward, cross-entropy,
backward, Nesterov momentum with weight decay, no augmentation. jaxclf computes the body in float32 or bfloat16; torch
in float32 or under autocast to bfloat16, in channels_last, eager or with `torch.compile` around forward and loss (it
then compiles the backward pass too), which is compared for the full network only, as that takes torch long on CPU:
`--only eager` leaves it out.

On a CPU malloc keeps what a step frees, as the command line has it, for both sides: torch gains by that too.
jaxclf's step is compiled apart; torch's first turn holds whatever it compiles. Both go without caches on disk.
JAX's "default" matmul precision is TF32 on GPUs that have it, which torch is allowed too.
To compare: pip install torch torchvision, beside jaxclf.
"""

import dataclasses
import importlib
import os
from typing import Any

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # torch needs memory on the same GPU
os.environ.setdefault("TORCHINDUCTOR_FORCE_DISABLE_CACHES", "1")

import jax
import numpy as np
from harness import Run, import_torch, pictures
from steps import NUM_CLASSES, PARTS, RATE, SETTINGS, step_run

from jaxclf._memory import keep_freed_memory
from jaxclf.config import Preprocess, frozen_prefix

SMOKE = {"arch": "resnet18", "part": "head", "image_size": 32, "batch_size": 2}


@dataclasses.dataclass(frozen=True)
class Case:
    arch: str = "resnet18"
    part: str = "full"
    dtype: str = "float32"
    torch: str = "eager"
    batch_size: int = 32
    image_size: int = 96


def prepare() -> None:
    keep_freed_memory()


def cases() -> list[Case]:
    size = 96 if jax.default_backend() == "cpu" else 224
    dtypes = ("float32", "bfloat16")
    found = [Case(arch, part, dtype) for arch in ("resnet18", "resnet50") for part in PARTS for dtype in dtypes]
    found += [dataclasses.replace(case, torch="compiled") for case in found if case.part == "full" and import_torch()]
    return [dataclasses.replace(case, image_size=size) for case in found]


def ours(case: Case) -> Run:
    return step_run(f"jaxclf {case.dtype}", case, through=PARTS[case.part], dtype=case.dtype)


def peer(case: Case) -> Run | None:
    torch = import_torch()
    if torch is None:
        return None
    models: Any = importlib.import_module("torchvision.models")
    images, labels = pictures(case.batch_size, case.image_size), np.arange(case.batch_size) % NUM_CLASSES
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    net = getattr(models, case.arch)(num_classes=NUM_CLASSES).to(device, memory_format=torch.channels_last).train()
    modules = {"stem": [net.conv1, net.bn1], "head": [net.fc]}
    modules |= {f"stage{number}": [getattr(net, f"layer{number}")] for number in range(1, 5)}
    for name in frozen_prefix(PARTS[case.part]):
        for module in modules[name]:
            module.requires_grad_(False).eval()
    trained = [parameter for parameter in net.parameters() if parameter.requires_grad]
    groups = [
        {"params": [parameter for parameter in trained if parameter.ndim > 1], "weight_decay": SETTINGS.weight_decay},
        {"params": [parameter for parameter in trained if parameter.ndim == 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.SGD(groups, lr=RATE, momentum=SETTINGS.momentum, nesterov=True)
    pixels = torch.from_numpy(images).to(device).permute(0, 3, 1, 2)  # channels_last, as it lies
    targets = torch.from_numpy(labels).long().to(device)
    mean, std = (
        torch.tensor(values, device=device).view(1, 3, 1, 1) for values in (Preprocess().mean, Preprocess().std)
    )

    def loss_of(pixels: Any, targets: Any) -> Any:
        inputs = (pixels.float() / 255.0 - mean) / std
        with torch.autocast(device.type, torch.bfloat16, enabled=case.dtype == "bfloat16"):
            logits = net(inputs)
        return torch.nn.functional.cross_entropy(logits.float(), targets)

    loss_fn = torch.compile(loss_of) if case.torch == "compiled" else loss_of

    def turn(number: int) -> None:
        optimizer.zero_grad()
        loss = loss_fn(pixels, targets)
        loss.backward()
        optimizer.step()
        loss.item()
        if device.type == "cuda":
            torch.cuda.synchronize()

    return Run(f"torch {case.torch} {case.dtype}", turn, items=len(images))
