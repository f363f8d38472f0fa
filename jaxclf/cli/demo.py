"""`jaxclf demo`: the main job on drawings that the library makes itself."""

from pathlib import Path

import numpy as np

from jaxclf.analysis import confusion_matrix
from jaxclf.cli.terminal import Terminal
from jaxclf.config import Settings
from jaxclf.data.drawn import write_drawings
from jaxclf.metrics import Predictions
from jaxclf.recipe import run_recipe, two_phase
from jaxclf.runs import PREDICTIONS, check_out

#: What the demo trains: chosen so that it ends within two minutes on two cores.
NUM_TRAIN, NUM_VALID = 1000, 200
SETTINGS = Settings(arch="resnet10t", weights="tiny-imagenet", image_size=64, batch_size=32)


def run_demo(out: Path, seed: int) -> int:
    """Draws, trains, prints; everything it writes is below `out`. Returns the exit code."""
    terminal = Terminal()
    run = out / "run"
    check_out(run, overwrite=True)
    with terminal.task("drawing", NUM_TRAIN + NUM_VALID) as progress:
        data = write_drawings(
            out / "drawings", num_train=NUM_TRAIN, num_valid=NUM_VALID, seed=seed, on_progress=progress
        )
    terminal.note(f"drawings of cats and dogs: {data}")
    settings = Settings(**{**SETTINGS.__dict__, "seed": seed})
    summary = run_recipe(data, run, two_phase(settings, lr=0.05), overwrite=True, observer=terminal)
    with np.load(run / PREDICTIONS, allow_pickle=False) as saved:
        predictions = Predictions(saved["logits"], saved["labels"], saved["index"])
    terminal.show_summary(summary)
    terminal.show_confusion(confusion_matrix(predictions), tuple(summary["classes"]))
    terminal.show_files(run)
    example = data / "valid" / "cat"
    terminal.note(f"try it: jaxclf predict {run} {example}")
    return 0
