"""`jaxclf demo`: the main job on drawings that the library makes itself."""

import dataclasses
from pathlib import Path

import numpy as np

from jaxclf.cli.report import make_report
from jaxclf.cli.terminal import Terminal
from jaxclf.config import Recipe, Settings
from jaxclf.data.demo.folder import write_drawings
from jaxclf.metrics import Predictions, confusion_matrix
from jaxclf.run.folder import PREDICTIONS, check_out
from jaxclf.run.recipes import eight_steps
from jaxclf.run.run import run_recipe

NUM_TRAIN, NUM_VALID = 1000, 200


def demo_recipe(seed: int) -> Recipe:
    """What the demo trains: the eight steps, on small pictures and from the bundled weights, within three minutes.

    Drawings look little like the photos of the weights, so all layers learn at one rate, a bold one, in one cycle of 7
    epochs.
    """
    settings = Settings(
        arch="resnet10t", weights="tiny-imagenet", image_size=64, batch_size=32, seed=seed, lr_rule="minimum"
    )
    recipe = eight_steps(settings, epochs=7)
    phases = tuple(dataclasses.replace(phase, lrs=(1.0, 1.0, 1.0)) for phase in recipe.phases)
    return dataclasses.replace(recipe, phases=phases)


def run_demo(out: Path, seed: int) -> int:
    """Draws, trains, prints; everything it writes is below `out`. Returns the exit code."""
    terminal = Terminal()
    run = out / "run"
    check_out(run, overwrite=True)
    with terminal.task("drawing", NUM_TRAIN + NUM_VALID) as progress:
        data = out / f"drawings-{seed}"
        write_drawings(data, num_train=NUM_TRAIN, num_valid=NUM_VALID, seed=seed, on_progress=progress)
    terminal.note(f"drawings of cats and dogs: {data}")
    summary = run_recipe(data, run, demo_recipe(seed), overwrite=True, observer=terminal)
    with np.load(run / PREDICTIONS, allow_pickle=False) as saved:
        predictions = Predictions(saved["logits"], saved["labels"], saved["index"])
    terminal.show_summary(summary)
    make_report(run, data, terminal)
    terminal.show_confusion(confusion_matrix(predictions), tuple(summary["classes"]))
    terminal.show_files(run)
    example = data / "valid" / "cat"
    terminal.note(f"look at it: {run / 'report.html'} opens in any browser")
    terminal.note(f"try it: jaxclf predict {run} {example}")
    return 0
