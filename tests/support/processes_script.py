"""One process of those that tests/run/test_processes.py starts.

    python tests/support/processes_script.py FOLDER PROCESS_ID PORT VICTIM MODE

Two processes work together; with the PORT "none" this one does the same alone, on two virtual devices. Prints what it
found as one line of JSON. Then process VICTIM kills itself in the middle of a fit. MODE "full" trains a stage with its
BatchNorm and goes through everything; "short" trains a head.
"""

import json
import os
import signal
import sys
from pathlib import Path

import jax
import numpy as np

from jaxclf._jax import enable_compilation_cache
from jaxclf.config import MODULES, Phase, Settings
from jaxclf.data.activations import ActivationDataset, ActivationLoader
from jaxclf.data.devices import data_mesh, fetch, replicate
from jaxclf.data.loader import Loader
from jaxclf.data.sources import ArrayDataset
from jaxclf.inference.features import extract_features
from jaxclf.inference.predict import predict
from jaxclf.inference.tta import predict_views
from jaxclf.models import ResNetConfig, create_classifier, init_variables
from jaxclf.run import processes as distributed
from jaxclf.run.checkpoint_file import restore_checkpoint, save_checkpoint
from jaxclf.training import fit as loop
from jaxclf.training.lr_finder import find_lr
from jaxclf.training.sweep import HeadTraining, SweepGrid, sweep_heads

IMAGE_SIZE = 32
PHASE = Phase("last", lrs=(0.1,) * 3, num_cycles=3, frozen=MODULES[:4], augment="side_on")
#: BatchNorm trains.
SCRATCH = Settings(weights="none")
HEAD = Phase("head", lrs=(0.1,) * 3, num_cycles=3, frozen=MODULES[:5], augment="none")


def pictures(count, seed=0):
    labels = np.arange(count) % 3
    noise = np.random.default_rng(seed).normal(0, 60, (count, 40, 40, 3))
    return ArrayDataset(np.clip(np.eye(3)[labels][:, None, None] * 40 + 100 + noise, 0, 255).astype(np.uint8), labels)


def loader(count, seed=0, train=True):
    whole = Loader(pictures(count, seed), batch_size=4, image_size=IMAGE_SIZE, train=train, mesh=data_mesh())
    return whole.part(jax.process_index(), jax.process_count())


def rounded(tree):
    """Every array as the sums of its values and of their squares."""
    leaves = [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(fetch(tree))]
    return [[float(leaf.sum()), float(np.square(leaf).sum())] for leaf in leaves]


def work(model, variables, mesh, folder, full):
    train, valid = loader(18), loader(5, seed=1, train=False)
    fitted = loop.fit(model, variables, PHASE if full else HEAD, train, valid, settings=SCRATCH, log_every=1)
    found = {
        "losses": [row["loss"] for row in fitted.steps],
        "variables": rounded(fitted.state.variables),
        "predictions": [array.tolist() for array in fitted.predictions[:3]],
    }
    found["any"] = [
        distributed.any_process(flag) for flag in (False, jax.process_index() == jax.process_count() - 1, True)
    ]
    found["writer"] = distributed.is_writer()
    saved = save_checkpoint(folder / f"of{jax.process_count()}", fetch(fitted.state), {})
    back = replicate(restore_checkpoint(saved, fitted.state), mesh)
    found["restored"] = rounded(back.variables)
    if not full:
        return found

    views = predict_views(model, variables, valid, num_views=1)
    found["views"] = [array.tolist() for array in views]
    features = extract_features(model, variables, valid, cache_dir=folder / "features")
    activations = ActivationLoader(features, batch_size=4, train=True)
    found["features"] = fetch(features.activations).tolist()
    found["head"] = rounded(loop.fit(model, variables, HEAD, activations).state.params["head"])
    found["curve"] = find_lr(model, variables, activations, frozen=MODULES[:5], num_steps=20).losses.tolist()
    held_back = ActivationLoader(features, batch_size=4, train=False)
    found["from_features"] = predict(model, variables, held_back).logits.tolist()
    x = np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32)
    pooled = ActivationDataset(x, (x[:, 0] > 0).astype(int), classes="ab", cut="pooled", mesh=mesh)
    grid = SweepGrid(lrs=(0.1, 0.3), weight_decays=(0.0,), num_folds=2)
    sweep = sweep_heads(pooled, grid, HeadTraining(epochs=2))
    found["sweep"] = [sweep.losses.tolist(), rounded(sweep.best_variables)]
    return found


def main(folder, process_id, port, victim, mode):
    enable_compilation_cache()
    if port != "none":
        distributed.initialize(f"127.0.0.1:{port}", 2, process_id)
    mesh = data_mesh()
    config = ResNetConfig("tiny", "basic", (1, 1, 1, 1), stem_width=8, stage_widths=(8, 8, 16, 16))
    model = create_classifier(config, 3)
    variables = init_variables(model, jax.random.key(0), image_size=IMAGE_SIZE)
    print(json.dumps(work(model, variables, mesh, folder, mode == "full")), flush=True)
    if port == "none":
        return

    try:
        pictures_again = loader(22)
        program = loop.make_program(model, HEAD, pictures_again)
        for event in loop.train(program, program.init(variables), pictures_again):
            if event.step == 2 and process_id == victim:
                os.kill(os.getpid(), signal.SIGKILL)
    except Exception as error:
        lost = distributed.lost_process(error)
        if not lost:
            sys.stderr.write(f"jaxclf: error: {error}\n")
        distributed.leave(1, lost=lost)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3], int(sys.argv[4]), sys.argv[5])
