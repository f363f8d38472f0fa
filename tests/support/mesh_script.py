"""What tests/data/test_devices.py compares: the same work on one device and on eight, in a process of its own.

    XLA_FLAGS=--xla_force_host_platform_device_count=8 JAX_PLATFORMS=cpu python tests/support/mesh_script.py FOLDER

Prints one JSON object. FOLDER takes checkpoints.
"""

import collections
import copy
import json
import logging
import math
import re
import sys
import time
from pathlib import Path
from unittest import mock

import jax
import numpy as np

from jaxclf._jax import enable_compilation_cache
from jaxclf.config import MODULES, Phase, Settings
from jaxclf.data.activations import ActivationDataset, ActivationLoader
from jaxclf.data.devices import data_mesh, replicate
from jaxclf.data.loader import Loader
from jaxclf.data.sources import ArrayDataset
from jaxclf.inference.features import extract_features
from jaxclf.inference.predict import evaluate, predict, to_device
from jaxclf.inference.tta import predict_views
from jaxclf.models import ResNetConfig, create_classifier, init_variables, norm
from jaxclf.run.checkpoint_file import restore_checkpoint, save_checkpoint
from jaxclf.training import fit as loop
from jaxclf.training.lr_finder import find_lr
from jaxclf.training.program import make_program
from jaxclf.training.shared import shared_step
from jaxclf.training.sweep import HeadTraining, SweepGrid, sweep_heads

enable_compilation_cache()
IMAGE_SIZE = 32
MODEL = create_classifier(ResNetConfig("tiny", "basic", (1, 1, 1, 1), stem_width=8, stage_widths=(8, 8, 16, 16)), 3)
VARIABLES = init_variables(MODEL, jax.random.key(0), image_size=IMAGE_SIZE)
MESH = data_mesh()
NUM_DEVICES = MESH.size
#: 50 steps on augmented pictures. Trained are the head and a stage with its BatchNorm: all layers take long to compile.
PHASE = Phase("last", lrs=(0.03,) * 3, num_cycles=10, frozen=MODULES[:4], augment="side_on")
#: BatchNorm trains.
SCRATCH = Settings(weights="none")
HEAD = Phase("head", lrs=(0.1,) * 3, num_cycles=4, frozen=MODULES[:5], augment="none")


def coloured(count, seed=0):
    """Three classes told apart by colour, faintly."""
    labels = np.arange(count) % 3
    noise = np.random.default_rng(seed).normal(0, 60, (count, 40, 40, 3))
    return ArrayDataset(np.clip(np.eye(3)[labels][:, None, None] * 40 + 100 + noise, 0, 255).astype(np.uint8), labels)


TRAIN = Loader(coloured(80), batch_size=16, image_size=IMAGE_SIZE, train=True)
VALID = Loader(coloured(13, seed=1), batch_size=8, image_size=IMAGE_SIZE, train=False)


def on(loader, mesh):
    """The same loader for other devices."""
    other = copy.copy(loader)
    other.mesh = mesh
    return other


def difference(a, b):
    """The largest difference between two trees of arrays, relative to the largest number of each array."""
    pairs = zip(jax.tree.leaves(jax.device_get(a)), jax.tree.leaves(jax.device_get(b)), strict=True)
    return max(float(np.abs(np.subtract(x, y, dtype=np.float64)).max() / max(np.abs(x).max(), 1e-6)) for x, y in pairs)


def normalize_parts(x, scale, bias, mask, running, epsilon, dtype):
    """BatchNorm if each device took the moments of its own rows; the running ones follow their mean. All rows count."""
    parts = x.reshape(NUM_DEVICES, -1, *x.shape[1:])
    mean, variance = (of(parts, axis=(1, 2, 3), keepdims=True) for of in (jax.numpy.mean, jax.numpy.var))
    y = (parts - mean) * jax.lax.rsqrt(variance + epsilon) * scale + bias
    count = jax.numpy.float32(parts[0].size // x.shape[-1])
    averages = (jax.lax.stop_gradient(moment.mean((0, 1, 2, 3))) for moment in (mean, variance))
    return y.reshape(x.shape).astype(dtype), norm.Moments(*averages, count)


def train():
    """A fit on one device and on eight; and on one with BatchNorm's moments taken over eighths of the batch."""
    one = loop.fit(MODEL, VARIABLES, PHASE, TRAIN, VALID, settings=SCRATCH, log_every=1)
    records = logging.getLogger("jax")
    messages = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())
    records.addHandler(handler)
    with jax.log_compiles():
        many = loop.fit(MODEL, VARIABLES, PHASE, on(TRAIN, MESH), on(VALID, MESH), settings=SCRATCH, log_every=1)
    records.removeHandler(handler)
    with mock.patch.object(norm, "normalize_batch", normalize_parts):
        shared_step.cache_clear()  # what is compiled knows the moments
        parts = loop.fit(MODEL, VARIABLES, PHASE, TRAIN, settings=SCRATCH, log_every=1)
    shared_step.cache_clear()
    losses = [np.array([row["loss"] for row in result.steps]) for result in (one, many, parts)]
    compiled = collections.Counter(re.findall(r"Compiling jit\((train_step|predict_step)\)", "\n".join(messages)))
    return many.state, {
        "steps": len(losses[0]),
        "first_loss": losses[0][0],
        "last_loss": losses[0][-1],
        "loss": float(np.abs(losses[1] / losses[0] - 1).max()),
        "loss_of_parts": [float(x) for x in np.abs(losses[2] / losses[0] - 1)[[0, -1]]],
        "variables": difference(one.state.variables, many.state.variables),
        "variables_of_parts": difference(one.state.variables, parts.state.variables),
        "moved": difference(one.state.variables, VARIABLES),
        "optimizer": difference(one.state.opt_state, many.state.opt_state),
        "valid": [result.epochs[-1]["valid_accuracy"] for result in (one, many)],
        "logits": difference(one.predictions.logits, many.predictions.logits),
        "compiled": compiled,
        "replicated": all(leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(many.state)),
        "devices": sorted({len(leaf.sharding.device_set) for leaf in jax.tree.leaves(many.state)}),
    }


def program():
    """What the sharded train step is compiled to, and how its batch lies."""
    made = make_program(MODEL, PHASE, on(TRAIN, MESH), SCRATCH)
    state = made.init(VARIABLES)
    batch = next(to_device(TRAIN.epoch(0), mesh=MESH))
    text = made.shared_step.lower(state, batch, made.key, made.hyperparameters(0)).compile().as_text()
    reduced = re.findall(r"f32\[([\d,]*)\]", " ".join(re.findall(r" = (.*) all-reduce\(", text)))
    return {
        "convolutions": sorted(set(re.findall(r"f32\[(\d+),[\d,]+\]\S* convolution\(", text))),
        "reduced": max(math.prod(map(int, shape.split(",") if shape else ())) for shape in reduced),
        "moved": re.findall(r"\S+ = (\S+) (?:all-gather|all-to-all|collective-permute)\(", text),
        "shards": [list(shard.data.shape) for shard in batch.inputs.addressable_shards],
        "first_rows": [int(np.asarray(shard.data)[0]) for shard in batch.index.addressable_shards],
        "index": np.asarray(batch.index)[::2].tolist(),
    }


def evaluation():
    """13 examples, in batches of 8 or 9, on several numbers of devices."""
    found = {}
    for number, size in ((None, 8), (8, 8), (3, 9)):
        loader = Loader(coloured(13, seed=1), batch_size=size, image_size=IMAGE_SIZE, train=False)
        loader = on(loader, None if number is None else data_mesh(number))
        predictions = predict(MODEL, VARIABLES, loader)
        scores = evaluate(MODEL, VARIABLES, loader)
        found[str(number)] = [predictions.index.tolist(), predictions.logits.tolist(), scores]
    return found


def features():
    """Extraction, plain and augmented, and what is trained from it: a head in one dispatch, and step by step."""
    presized = Loader(coloured(29), batch_size=8, image_size=IMAGE_SIZE, train=True)
    banks = [
        extract_features(MODEL, VARIABLES, on(presized, mesh), num_views=3, augment="side_on") for mesh in (None, MESH)
    ]
    out = {"bank": difference(*(bank.activations for bank in banks)), "placement": banks[1].placement}
    fits, stepwise, curves, logits = [], [], [], []
    for bank in banks:
        plain = ActivationLoader(bank, batch_size=8, train=True, augmented=False)
        fits.append(loop.fit(MODEL, VARIABLES, HEAD, plain).state.params["head"])
        on_host = copy.copy(bank)
        on_host.activations = np.asarray(bank.activations)
        plain_on_host = ActivationLoader(on_host, batch_size=8, train=True, augmented=False)
        stepwise.append(loop.fit(MODEL, VARIABLES, HEAD, plain_on_host).state.params["head"])
        logits.append(predict(MODEL, VARIABLES, ActivationLoader(bank, batch_size=8, train=False)).logits)
        curves.append(find_lr(MODEL, VARIABLES, plain, frozen=MODULES[:5], num_steps=20))
    out |= {"head": difference(*fits), "scanned_curve": difference(curves[0].losses, curves[1].losses)}
    return (
        out
        | {"stepwise": difference(*stepwise), "one_by_one": difference(fits[0], stepwise[1])}
        | {"logits": difference(*logits)}
    )


def finder():
    curves = [
        find_lr(MODEL, VARIABLES, on(TRAIN, mesh), frozen=MODULES[:5], num_steps=20, high=0.1) for mesh in (None, MESH)
    ]
    return {"curve": difference(curves[0].losses, curves[1].losses), "steps": [len(c.losses) for c in curves]}


def views():
    found = [predict_views(MODEL, VARIABLES, on(VALID, mesh), num_views=2) for mesh in (None, MESH)]
    return {
        "logits": difference(found[0].logits, found[1].logits),
        "between_views": difference(found[0].logits[0], found[0].logits[1]),
        "index": [view.index.tolist() for view in found],
    }


def sweep():
    """Members divided (a linear head), and in chunks that do not come out even."""
    generator = np.random.default_rng(0)
    x = generator.normal(size=(60, 8)).astype(np.float32)
    y = (x[:, 4] + 0.5 * generator.normal(size=60) > 0).astype(int)
    grid = SweepGrid(lrs=(1e-2, 0.1, 0.3), weight_decays=(0.0, 1e-2), num_folds=3)
    found = [
        sweep_heads(ActivationDataset(x, y, classes="ab", cut="pooled", mesh=mesh), grid, HeadTraining(epochs=4))
        for mesh in (None, MESH)
    ]
    return {
        "losses": difference(found[0].losses, found[1].losses),
        "best": [one.best for one in found],
        "head": difference(found[0].best_variables["params"], found[1].best_variables["params"]),
    }


def checkpoints(state, folder):
    """Saved from eight devices, restored on one, saved again, and back on eight."""
    saved = save_checkpoint(folder / "many", state, {})
    on_one = restore_checkpoint(saved, jax.eval_shape(lambda: state))
    again = save_checkpoint(folder / "one", on_one, {})
    back = replicate(restore_checkpoint(again, state), MESH)
    devices = [
        sorted({len(leaf.sharding.device_set) for leaf in jax.tree.leaves(tree)}) for tree in (state, on_one, back)
    ]
    bits = [[np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)] for tree in (state, on_one, back)]
    return {"devices": devices, "same": bits[0] == bits[1] == bits[2]}


def main(folder):
    out, start = {}, time.perf_counter()

    def add(name, value):
        nonlocal start
        out[name] = value
        print(f"{name}: {time.perf_counter() - start:.1f} s", file=sys.stderr)
        start = time.perf_counter()

    state, fitted = train()
    add("train", fitted)
    add("checkpoints", checkpoints(state, folder))
    add("program", program())
    add("evaluation", evaluation())
    add("features", features())
    add("finder", finder())
    add("views", views())
    add("sweep", sweep())
    print(json.dumps(out))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
