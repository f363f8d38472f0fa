"""What do cached activations save? A head's epochs beside torch and scikit-learn, and epochs of a real data set.

    python benchmarks/precompute.py [DATA] [--torch PYTHON] [--torch-threads 2] [--repeats 7] [--image-size 128]

DATA is a folder of photos with a train part; without it only the first question is asked. PYTHON is an interpreter that
has torch (default: this one). Contestants take turns, so a noisy machine hits them alike, and ratios are taken turn by
turn; every time ends when the loss is on the host. Both sides keep float32 features in memory, plain SGD with Nesterov
momentum, the same shuffled batches of 64, the incomplete last one left out.
"""

import argparse
import functools
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from machine import describe, spread

from jaxclf.config import Phase, Settings, cut_prefix, frozen_prefix
from jaxclf.data.activations import ActivationDataset, ActivationLoader, AnyLoader
from jaxclf.data.cache import default_num_threads
from jaxclf.data.loader import Loader
from jaxclf.data.splits import open_data
from jaxclf.inference.features import extract_features
from jaxclf.inference.predict import evaluate, to_device
from jaxclf.models import create_classifier, init_variables
from jaxclf.training.fit import fit
from jaxclf.training.program import make_phase_program

NUM, WIDTH, BATCH = 20_000, 512, 64
EPOCHS = 5
LR = 0.01

TORCH = """
import sys, time
import numpy as np
import torch
from torch.utils.data import DataLoader, TensorDataset
from torch.nn.functional import cross_entropy

batch, lr, threads = int(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4])
torch.set_num_threads(threads)
data = np.load(sys.argv[1])
features, labels = torch.from_numpy(data["features"]), torch.from_numpy(data["labels"]).long()
kinds = {}
for kind in ("indexed", "DataLoader"):
    torch.manual_seed(0)
    head = torch.nn.Linear(features.shape[1], 2)
    kinds[kind] = head, torch.optim.SGD(head.parameters(), lr=lr, momentum=0.9, nesterov=True)
loader = DataLoader(TensorDataset(features, labels), batch_size=batch, shuffle=True, drop_last=True)

def batches(kind):
    if kind == "DataLoader":
        yield from loader
        return
    order = torch.randperm(len(features))
    for start in range(0, len(features) - batch + 1, batch):
        rows = order[start : start + batch]
        yield features[rows], labels[rows]

print(torch.__version__, flush=True)
for line in sys.stdin:
    kind, epochs = line.split()
    head, optimizer = kinds[kind]
    started, used = time.perf_counter(), time.process_time()
    for _ in range(int(epochs)):
        for x, y in batches(kind):
            loss = cross_entropy(head(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    value = float(loss.detach())
    print(time.perf_counter() - started, time.process_time() - used, value, flush=True)
"""


def made_up_features() -> tuple[np.ndarray, np.ndarray]:
    """Two overlapping classes: float32 [n, 512] and labels."""
    generator = np.random.default_rng(0)
    direction = generator.normal(0, 1, WIDTH) / WIDTH**0.5
    features = generator.normal(0, 1, (NUM, WIDTH)).astype(np.float32)
    labels = (features @ direction + generator.normal(0, 0.5, NUM) > 0).astype(np.int32)
    return features, labels


def phase(epochs: int, frozen: tuple[str, ...], lr: float = LR) -> Phase:
    return Phase("measured", lrs=(lr,), frozen=frozen, cycle_epochs=epochs, augment="none")


def timed(work: Callable[[], Any]) -> tuple[float, float]:
    """Seconds by the clock and of this process's processors."""
    started, used = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - started, time.process_time() - used


class Epochs:
    """Epochs of one compiled program, one after the other."""

    def __init__(self, model: Any, variables: Any, train: AnyLoader, frozen: tuple[str, ...]):
        settings = Settings()
        described = phase(1000, frozen)
        self.program = make_phase_program(model, variables, described, train, settings)
        self.state = self.program.create_state(variables, described, settings)
        self.train, self.number = train, 0

    def __call__(self, epochs: int = 1) -> None:
        for _ in range(epochs):
            *_, (self.state, metrics) = self.program.epoch(self.state, self.train, self.number)
            float(metrics["loss"])
            self.number += 1


def heads(python: str, threads: int, repeats: int, folder: Path) -> None:
    """A linear head on features in memory: jaxclf beside two torch loops and scikit-learn."""
    features, labels = made_up_features()
    path = folder / "precompute-features.npz"
    np.savez(path, features=features, labels=labels)
    command = [python, "-c", TORCH, str(path), str(BATCH), str(LR), str(threads)]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert child.stdin is not None and child.stdout is not None
    torch_version = child.stdout.readline().strip()

    def torch_epochs(kind: str, epochs: int) -> tuple[float, float]:
        assert child.stdin is not None and child.stdout is not None
        child.stdin.write(f"{kind} {epochs}\n")
        child.stdin.flush()
        wall, used, _ = map(float, child.stdout.readline().split())
        return wall, used

    # The linear head reads the average half of [maximum, average].
    pooled = jax.device_put(np.concatenate([np.zeros_like(features), features], 1))
    dataset = ActivationDataset(pooled, labels, classes=("no", "yes"), cut="pooled")
    model = create_classifier("resnet18", 2)
    variables = init_variables(model, jax.random.key(0))
    own = Epochs(model, variables, ActivationLoader(dataset, batch_size=BATCH, train=True), frozen_prefix("stage4"))
    own()
    for kind in ("indexed", "DataLoader"):
        torch_epochs(kind, 1)
    times: dict[str, list[tuple[float, float]]] = {"jaxclf": [], "torch indexed": [], "torch DataLoader": []}
    for _ in range(repeats):
        times["jaxclf"].append(timed(functools.partial(own, EPOCHS)))
        times["torch indexed"].append(torch_epochs("indexed", EPOCHS))
        times["torch DataLoader"].append(torch_epochs("DataLoader", 1))
    child.stdin.close()
    child.wait()
    path.unlink()
    print(f"\nlinear head, 2 classes, {NUM} x {WIDTH} float32, batch {BATCH}; torch {torch_version}, {threads} threads")
    per_epoch = {name: [t / (1 if "Loader" in name else EPOCHS) for t, _ in rows] for name, rows in times.items()}
    processor = {name: [t / (1 if "Loader" in name else EPOCHS) for _, t in rows] for name, rows in times.items()}
    for name in times:
        rate = 1 / float(np.median(per_epoch[name]))
        clock, used = (spread(values[name], digits=4) for values in (per_epoch, processor))
        print(f"{name:17s} epoch {clock}  {rate:6.1f} epochs/s  processor {used}")
    for name, wanted in (("torch indexed", 4), ("torch DataLoader", 8)):
        for what, values in (("clock", per_epoch), ("processor", processor)):
            ratios = [other / ours for other, ours in zip(values[name], values["jaxclf"], strict=True)]
            print(f"{name} / jaxclf, {what}: {spread(ratios, 'x', 2)}; wanted {wanted} x")
    to_the_same_loss(model, variables, dataset, features, labels)


def to_the_same_loss(model: Any, variables: Any, dataset: ActivationDataset, features: Any, labels: Any) -> None:
    """scikit-learn's LogisticRegression without penalty, and jaxclf until its mean loss is within 1 % of that."""
    from sklearn.linear_model import LogisticRegression

    started = time.perf_counter()
    fitted = LogisticRegression(C=np.inf, max_iter=200).fit(features, labels)
    seconds = time.perf_counter() - started
    logits = fitted.decision_function(features)
    best = float(np.mean(np.logaddexp(0, np.where(labels > 0, -logits, logits))))
    print(f"scikit-learn LogisticRegression: {seconds:.2f} s to loss {best:.4f}")
    train = ActivationLoader(dataset, batch_size=1024, train=True)
    whole = ActivationLoader(dataset, batch_size=4096, train=False)
    for epochs in (2, 4, 8, 16):
        begun = time.perf_counter()
        result = fit(model, variables, phase(epochs, frozen_prefix("stage4"), lr=0.3), train)
        seconds = time.perf_counter() - begun
        loss = evaluate(model, result.state.variables, whole)["loss"]
        if loss <= 1.01 * best:
            break
    print(f"jaxclf, batch 1024, {epochs} epochs with compilation: {seconds:.2f} s to loss {loss:.4f}")


def photos(data: str, arch: str, size: int, repeats: int) -> None:
    """Epochs on real photos: from the pictures, from stage3, from pooled."""
    splits = open_data(data, valid_fraction=0.2, seed=0)
    options: dict[str, Any] = {"batch_size": 32, "image_size": size, "train": True}
    loader = Loader(splits.train, presized=False, **options)
    loader.fill_cache()
    model = create_classifier(arch, len(loader.classes))
    variables = init_variables(model, jax.random.key(0))
    print(f"\n{arch}, {size} px, {len(splits.train)} photos, batch 32, float32")
    runs = {}
    for cut in ("stage3", "pooled"):
        seconds: list[float] = []
        started = time.perf_counter()
        dataset = extract_features(
            model, variables, loader, cut=cut, on_progress=functools.partial(_note_time, seconds)
        )
        steady = (len(loader.dataset) - 2 * loader.batch_size) / (seconds[-1] - seconds[1])
        whole, megabytes = time.perf_counter() - started, dataset.nbytes / 2**20
        print(f"extraction to {cut}: {whole:.1f} s with compilation, then {steady:.0f} images/s; {megabytes:.1f} MiB")
        own = ActivationLoader(dataset, batch_size=32, train=True)
        runs[cut, "cached"] = Epochs(model, variables, own, cut_prefix(cut))
        runs[cut, "recomputed"] = Epochs(model, variables, loader, cut_prefix(cut))
    for run in runs.values():
        run()
    times: dict[Any, list[tuple[float, float]]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            epochs = 20 if name == ("pooled", "cached") else 1
            clock, used = timed(functools.partial(run, epochs))
            times[name].append((clock / epochs, used / epochs))
    for (cut, how), rows in times.items():
        clock_times, used_times = zip(*rows, strict=True)
        print(f"{cut:7s} {how:10s} epoch {spread(clock_times, digits=4)}  processor {spread(used_times, digits=4)}")
    flops = {how: step_flops(runs["stage3", how]) for how in ("cached", "recomputed")}
    allowed = flops["recomputed"] / flops["cached"]
    for cut in ("stage3", "pooled"):
        for number, what in enumerate(("clock", "processor")):
            pairs = zip(times[cut, "recomputed"], times[cut, "cached"], strict=True)
            ratios = [slow[number] / fast[number] for slow, fast in pairs]
            wanted = "wanted 50 x"
            if cut == "stage3":
                share = spread([ratio / allowed for ratio in ratios], "of it", 2)
                wanted = f"FLOPs of the steps allow {allowed:.2f} x, reached {share}; wanted .80"
            print(f"{cut}: prefix recomputed / from the cache, {what}: {spread(ratios, 'x', 2)}; {wanted}")


def _note_time(seconds: list[float], done: int, total: int) -> None:
    seconds.append(time.perf_counter())


def step_flops(run: Epochs) -> float:
    """XLA's count for one train step."""
    batch = next(to_device(run.train.epoch(0)))
    step: Any = run.program.train_step
    return float(step.lower(run.state, batch, run.program.key).compile().cost_analysis()["flops"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="?")
    parser.add_argument("--torch", default=sys.executable)
    # Two threads gain torch a tenth on batches this small, and wait for each other where other work runs.
    parser.add_argument("--torch-threads", type=int, default=default_num_threads())
    parser.add_argument("--arch", default="resnet18")
    parser.add_argument("--image-size", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=7)
    args = parser.parse_args()
    print(describe("optax", "scikit-learn"))
    print("load average before:", " ".join(f"{value:.1f}" for value in os.getloadavg()))
    with tempfile.TemporaryDirectory() as folder:
        heads(args.torch, args.torch_threads, args.repeats, Path(folder))
    if args.data:
        photos(args.data, args.arch, args.image_size, args.repeats)
    print("load average after:", " ".join(f"{value:.1f}" for value in os.getloadavg()))


if __name__ == "__main__":
    main()
