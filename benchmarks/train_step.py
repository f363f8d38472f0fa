"""How long does a train step take? Compile time, step time and images/s, beside PyTorch where it is installed.

    python benchmarks/train_step.py [--archs resnet18 resnet50] [--batch-size 32] [--image-size 96] [--turns 5]
                                    [--parts full stage4+head head] [--compile full] [--no-torch]

Trained are the full network, its last stage and head, or its head alone; the rest is frozen, its BatchNorm on running
statistics. A step goes from uint8 pictures on the device to new parameters: normalisation, forward, cross-entropy,
backward, Nesterov momentum with weight decay, no augmentation. jaxclf computes the body in float32 or bfloat16; torch
in float32 or under autocast to bfloat16, in channels_last, eager or with `torch.compile` around forward and loss (it
then compiles the backward pass too). `--compile full` compiles the full network only, as that takes torch long on CPU.

All of one arch and part take turns, step by step, in one process, and each is timed until its new parameters are
there, by the clock and in processor time, which other work on the machine disturbs less. "First" is the first step
and whatever is compiled in it, with torch's and JAX's caches on disk off. Ratios are taken turn by turn: above 1,
jaxclf is faster. To compare: pip install torch torchvision, beside jaxclf.
"""

import argparse
import functools
import importlib
import importlib.util
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # torch needs memory on the same GPU
os.environ.setdefault("TORCHINDUCTOR_FORCE_DISABLE_CACHES", "1")

import jax
import jax.numpy as jnp
import numpy as np
from machine import describe, spread

from jaxclf import schedules
from jaxclf.config import Preprocess, frozen_prefix
from jaxclf.data.batches import Batch
from jaxclf.data.cache import default_num_threads
from jaxclf.models import create_classifier, init_variables
from jaxclf.training.optimizer import make_optimizer
from jaxclf.training.state import create_train_state
from jaxclf.training.step import make_train_step

#: What is trained -> the last frozen module.
PARTS = {"full": None, "stage4+head": "stage3", "head": "stage4"}
DTYPES = ("float32", "bfloat16")
NUM_CLASSES = 10
RATE, MOMENTUM, DECAY = 1e-3, 0.9, 1e-4

#: Runs one step and waits for it.
Step = Callable[[], Any]


def ours(arch: str, part: str, dtype: str, images: np.ndarray, labels: np.ndarray) -> Step:
    model = create_classifier(arch, NUM_CLASSES, dtype=jnp.dtype(dtype))
    variables = init_variables(model, jax.random.key(0), image_size=images.shape[1])
    frozen = frozen_prefix(PARTS[part])
    options = {"frozen": frozen, "momentum": MOMENTUM, "weight_decay": DECAY}
    optimizer = make_optimizer(variables["params"], schedules.constant(), (RATE,), **options)  # type: ignore[arg-type]
    step = make_train_step(model, optimizer, preprocess=Preprocess(image_size=images.shape[1]), frozen=frozen)
    number = np.arange(len(images), dtype=np.int32)
    batch = jax.device_put(Batch(images, labels, np.ones(len(images), np.float32), number))
    key = jax.random.key(1)
    state = create_train_state(variables, optimizer, frozen=frozen)
    jax.block_until_ready((state, batch))

    def run() -> None:
        nonlocal state
        state, metrics = step(state, batch, key)
        jax.block_until_ready((state, metrics))

    return run


def theirs(arch: str, part: str, dtype: str, images: np.ndarray, labels: np.ndarray, *, compiled: bool) -> Step:
    torch: Any = importlib.import_module("torch")
    models: Any = importlib.import_module("torchvision.models")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    net = getattr(models, arch)(num_classes=NUM_CLASSES).to(device, memory_format=torch.channels_last).train()
    modules = {"stem": [net.conv1, net.bn1], "head": [net.fc]}
    modules |= {f"stage{number}": [getattr(net, f"layer{number}")] for number in range(1, 5)}
    for name in frozen_prefix(PARTS[part]):
        for module in modules[name]:
            module.requires_grad_(False).eval()
    trained = [parameter for parameter in net.parameters() if parameter.requires_grad]
    groups = [
        {"params": [parameter for parameter in trained if parameter.ndim > 1], "weight_decay": DECAY},
        {"params": [parameter for parameter in trained if parameter.ndim == 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.SGD(groups, lr=RATE, momentum=MOMENTUM, nesterov=True)
    pixels = torch.from_numpy(images).to(device).permute(0, 3, 1, 2)  # channels_last, as it lies
    targets = torch.from_numpy(labels).long().to(device)
    mean, std = (
        torch.tensor(values, device=device).view(1, 3, 1, 1) for values in (Preprocess().mean, Preprocess().std)
    )

    def loss_of(pixels: Any, targets: Any) -> Any:
        inputs = (pixels.float() / 255.0 - mean) / std
        with torch.autocast(device.type, torch.bfloat16, enabled=dtype == "bfloat16"):
            logits = net(inputs)
        return torch.nn.functional.cross_entropy(logits.float(), targets)

    loss_fn = torch.compile(loss_of) if compiled else loss_of

    def run() -> None:
        optimizer.zero_grad()
        loss = loss_fn(pixels, targets)
        loss.backward()
        optimizer.step()
        loss.item()
        if device.type == "cuda":
            torch.cuda.synchronize()

    return run


def find_torch() -> list[str]:
    """Sets torch up, on all cores and with TF32 as JAX has it, and says how; empty where it is not installed."""
    if not all(importlib.util.find_spec(name) for name in ("torch", "torchvision")):
        return []
    torch: Any = importlib.import_module("torch")
    if importlib.util.find_spec("torchvision_ops_stub"):  # for a torchvision without its compiled operators
        importlib.import_module("torchvision_ops_stub")
    torch.set_num_threads(default_num_threads())
    if torch.cuda.is_available():
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.benchmark = True
        return [f"torch on {torch.cuda.get_device_name()}: cudnn.benchmark, TF32 allowed in products and convolutions"]
    return [f"torch on CPU: {torch.get_num_threads()} threads"]


def timed(step: Step) -> tuple[float, float]:
    """Seconds of one step: by the clock, and of processor time in all threads."""
    clock, processor = time.perf_counter(), time.process_time()
    step()
    return time.perf_counter() - clock, time.process_time() - processor


def compare(makers: dict[str, Callable[[], Step]], turns: int, batch_size: int) -> None:
    """Times all of `makers` in turns and prints a line each, then each of theirs against ours."""
    steps, firsts = {}, {}
    for name, make in makers.items():
        step = make()
        try:
            firsts[name] = timed(step)
        except Exception as error:  # torch.compile fails in many ways, for want of a compiler for one
            print(f"  {name:23s} does not run: {type(error).__name__}: {str(error).strip().splitlines()[0]}")
            continue
        steps[name] = step
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in steps}
    for _ in range(turns + 1):
        for name, step in steps.items():
            times[name].append(timed(step))
    times = {name: values[1:] for name, values in times.items()}  # the first turn warms up
    for name, values in times.items():
        clock, processor = zip(*values, strict=True)
        first = f"first {firsts[name][0]:5.1f} s, processor {firsts[name][1]:5.1f} s"
        speed = f"{batch_size / statistics.median(clock):4.0f} images/s"
        print(f"  {name:23s} {first}  step {spread(clock)}  {speed}  processor {spread(processor)}")
    for name, values in times.items():
        own = times.get(f"jaxclf {name.split()[-1]}")
        if own is None or name.startswith("jaxclf"):
            continue
        pairs = list(zip(values, own, strict=True))
        by_clock, by_processor = ([other[i] / mine[i] for other, mine in pairs] for i in range(2))
        print(
            f"  {name} / jaxclf: {spread(by_clock, 'x', 2)}; processor time {spread(by_processor, 'x', 2)}", flush=True
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--archs", nargs="+", default=["resnet18", "resnet50"])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--image-size", type=int, default=None, help="96 on CPU, 224 elsewhere")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--no-torch", action="store_true")
    parser.add_argument("--compile", choices=("all", "full", "none"), default="full", help="what torch.compile gets")
    args = parser.parse_args()
    on_cpu = jax.default_backend() == "cpu"
    size = args.image_size or (96 if on_cpu else 224)
    number = args.batch_size
    peers = [] if args.no_torch else find_torch()
    print(describe("optax", *(("torch", "torchvision") if peers else ())))
    print(f"batch {number}, {size} px, {args.turns} turns of one step; load average before: {os.getloadavg()[0]:.1f}")
    precision = getattr(jax.config, "jax_default_matmul_precision", None) or "default (TF32 on GPUs that have it)"
    print(f"matmul precision in JAX: {'full float32' if on_cpu else precision}")
    print(*(peers or ["torch left out: jaxclf alone" if args.no_torch else "torch is not installed: jaxclf alone"]))

    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (number, size, size, 3)).astype(np.uint8)
    labels = generator.integers(0, NUM_CLASSES, number).astype(np.int32)
    started = time.perf_counter()
    for arch in args.archs:
        for part in args.parts:
            print(f"{arch}, trained: {part}", flush=True)
            makers: dict[str, Callable[[], Step]] = {}
            for dtype in DTYPES:
                case: dict[str, Any] = {"arch": arch, "part": part, "dtype": dtype, "images": images, "labels": labels}
                makers[f"jaxclf {dtype}"] = functools.partial(ours, **case)
                if peers:
                    makers[f"torch eager {dtype}"] = functools.partial(theirs, **case, compiled=False)
                if peers and (args.compile == "all" or part == args.compile):
                    makers[f"torch compiled {dtype}"] = functools.partial(theirs, **case, compiled=True)
            compare(makers, args.turns, number)
    print(f"{time.perf_counter() - started:.0f} s in all; load average after: {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
