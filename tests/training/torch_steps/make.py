"""Makes steps.npz: three training steps by PyTorch, of small ResNets under three rules. Run by hand.

    python tests/training/torch_steps/make.py

Needs torch and torchvision; made with PyTorch 2.13.0, torchvision 0.28.0.

The networks are torchvision's own class and blocks, with narrower layers. They start away from every special value:
BatchNorm's scales are not 1, its biases and running means not 0. Arithmetic is float64, so what jaxclf's float32
differs by is jaxclf's own error; inputs are normalised in float32, as jaxclf does.

For each of `RUNS` the file holds `gradients` and `statistics` (running means and variances) of every step, one
vector each in the order of `names`, the `losses`, and `params` after the last step.
"""

import importlib
import importlib.util
import json
import math
from pathlib import Path

import numpy as np
import torch

if importlib.util.find_spec("torchvision_ops_stub"):  # for a torchvision without its compiled operators
    importlib.import_module("torchvision_ops_stub")
from torchvision.models import resnet

FILE = Path(__file__).with_name("steps.npz")
NUM_CLASSES = 5
SIZES = (16, 11, 16)  # the test pads the second batch
WIDTHS = {"basic": (4, (4, 4, 8, 8)), "bottleneck": (4, (4, 4, 4, 8))}  # of the stem and of the stages
BLOCKS = {"basic": resnet.BasicBlock, "bottleneck": resnet.Bottleneck}
RATES = (0.02, 0.05, 0.1)  # of {stem, stages 1 and 2}, {stages 3 and 4}, {head}; AdamW takes a tenth of them
DECAY = 0.1
CYCLE = 10  # steps of the cosine that multiplies the rates
RUNS = (("bottleneck", "sgd"), ("basic", "adamw"), ("basic", "frozen"))


def network(name: str) -> resnet.ResNet:
    """torchvision's ResNet with one block per stage and other widths, in float64."""
    block, (stem, widths) = BLOCKS[name], WIDTHS[name]
    torch.manual_seed(7)
    net = resnet.ResNet(block, [1, 1, 1, 1], num_classes=NUM_CLASSES)
    net.conv1 = torch.nn.Conv2d(3, stem, 7, 2, 3, bias=False)
    net.bn1 = torch.nn.BatchNorm2d(stem)
    net.inplanes = stem
    for number, width in enumerate(widths, start=1):
        setattr(net, f"layer{number}", net._make_layer(block, width, 1, stride=1 if number == 1 else 2))
    net.fc = torch.nn.Linear(widths[-1] * block.expansion, NUM_CLASSES)
    for module in net.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias, std=0.3)
            module.running_mean.normal_(std=0.3)
            module.running_var.uniform_(0.5, 2.0)
    return net.double()


def group_of(name: str) -> int:
    first = name.split(".")[0]
    return 2 if first == "fc" else 1 if first in ("layer3", "layer4") else 0


def optimizer_of(net: resnet.ResNet, rule: str) -> torch.optim.Optimizer:
    """Three rates, and no weight decay for vectors: BatchNorm and biases."""
    scale = 0.1 if rule == "adamw" else 1.0
    groups = [
        {
            "params": [p for n, p in net.named_parameters() if group_of(n) == g and (p.ndim > 1) == decays],
            "lr": RATES[g] * scale,
            "weight_decay": DECAY if decays else 0.0,
        }
        for g in range(3)
        for decays in (True, False)
    ]
    if rule == "adamw":
        return torch.optim.AdamW(groups, betas=(0.9, 0.99), eps=1e-5)
    return torch.optim.SGD(groups, lr=1.0, momentum=0.9, nesterov=True)


def set_mode(net: resnet.ResNet, rule: str) -> None:
    """Training; frozen through stage 2, those layers neither learn nor move their statistics."""
    net.train()
    if rule == "frozen":
        for part in (net.conv1, net.bn1, net.layer1, net.layer2):
            part.requires_grad_(False)
            part.eval()


def flat(tensors: list[torch.Tensor]) -> np.ndarray:
    return np.concatenate([tensor.detach().numpy().ravel() for tensor in tensors]).astype(np.float32)


def train(name: str, rule: str, batches: list[tuple[np.ndarray, np.ndarray]]) -> dict[str, np.ndarray]:
    net = network(name)
    set_mode(net, rule)
    optimizer = optimizer_of(net, rule)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: (1 + math.cos(math.pi * step / CYCLE)) / 2)
    losses, gradients, statistics = [], [], []
    for images, labels in batches:
        pixels = images.astype(np.float32) / np.float32(255)
        inputs = (pixels - np.float32([0.485, 0.456, 0.406])) / np.float32([0.229, 0.224, 0.225])
        optimizer.zero_grad()
        logits = net(torch.from_numpy(inputs).double().permute(0, 3, 1, 2))
        loss = torch.nn.functional.cross_entropy(logits, torch.from_numpy(labels).long())
        loss.backward()
        gradients.append(flat([torch.zeros_like(p) if p.grad is None else p.grad for p in net.parameters()]))
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        statistics.append(flat([b for n, b in net.named_buffers() if "running" in n]))
    return {
        "losses": np.float64(losses),
        "gradients": np.stack(gradients),
        "statistics": np.stack(statistics),
        "params": flat(list(net.parameters())),
    }


def main() -> None:
    generator = np.random.default_rng(11)
    arrays: dict[str, np.ndarray] = {}
    batches = []
    for number, size in enumerate(SIZES):
        images = (generator.integers(0, 16, (size, 32, 32, 3)) * 17).astype(np.uint8)  # 0 to 255, in half the bytes
        labels = generator.integers(0, NUM_CLASSES, size).astype(np.int32)
        batches.append((images, labels))
        arrays |= {f"images{number}": images, f"labels{number}": labels}
    for name in BLOCKS:
        net = network(name)
        arrays[f"{name}/params"] = flat(list(net.parameters()))
        arrays[f"{name}/statistics"] = flat([b for n, b in net.named_buffers() if "running" in n])
        names = {
            "params": [(n, list(p.shape)) for n, p in net.named_parameters()],
            "statistics": [(n, list(b.shape)) for n, b in net.named_buffers() if "running" in n],
        }
        arrays[f"{name}/names"] = np.array(json.dumps(names))
    for name, rule in RUNS:
        arrays |= {f"{name}/{rule}/{what}": array for what, array in train(name, rule, batches).items()}
    np.savez_compressed(FILE, **arrays)
    print(f"{FILE.name}: {FILE.stat().st_size / 1000:.0f} kB; torch {torch.__version__}")
    for name, rule in RUNS:
        print(name, rule, arrays[f"{name}/{rule}/losses"].round(4))


if __name__ == "__main__":
    main()
