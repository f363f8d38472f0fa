"""`jaxclf demo`: the main job on drawings that the library makes itself."""

import dataclasses
from pathlib import Path

import numpy as np

from jaxclf.cli.arguments import command
from jaxclf.cli.clock import STARTED
from jaxclf.config import Recipe, Settings

NUM_TRAIN, NUM_VALID = 1000, 200


def demo_recipe(seed: int) -> Recipe:
    """What the demo trains: the eight steps, on small pictures and from the bundled weights, within three minutes.

    Drawings look little like the photos of the weights, so all layers learn at one rate, a bold one, in one cycle of 7
    epochs.
    """
    from jaxclf.run.recipes import eight_steps

    settings = Settings(arch="resnet10t", weights="tiny-imagenet", image_size=64, seed=seed)
    recipe = eight_steps(settings, epochs=7)
    phases = tuple(dataclasses.replace(phase, lrs=(1.0, 1.0, 1.0)) for phase in recipe.phases)
    return dataclasses.replace(recipe, phases=phases)


@command
class Demo:
    """Draw cats and dogs, train a classifier on them, and show what it learned. Needs no data and no network.

    Example: jaxclf demo --out /tmp/demo

    Attributes:
      out: folder for the drawings and the run; an earlier demo in it is replaced.
      seed: of the drawings and of the training.
    """

    out: str = "jaxclf-demo"
    seed: int = 0

    def __call__(self) -> int:
        from jaxclf.cli.report import make_report
        from jaxclf.cli.terminal import Terminal
        from jaxclf.data.demo.folder import write_drawings
        from jaxclf.metrics import Predictions, confusion_matrix
        from jaxclf.run.folder import PREDICTIONS, check_out
        from jaxclf.run.run import run_recipe

        terminal = Terminal()
        run, data = Path(self.out) / "run", Path(self.out) / f"drawings-{self.seed}"
        check_out(run, overwrite=True)
        with terminal.task("drawing", NUM_TRAIN + NUM_VALID) as progress:
            write_drawings(data, num_train=NUM_TRAIN, num_valid=NUM_VALID, seed=self.seed, on_progress=progress)
        terminal.note(f"drawings of cats and dogs: {data}")
        summary = run_recipe(data, run, demo_recipe(self.seed), overwrite=True, observer=terminal, started=STARTED)
        with np.load(run / PREDICTIONS, allow_pickle=False) as saved:
            predictions = Predictions(saved["logits"], saved["labels"], saved["index"])
        terminal.show_summary(summary)
        make_report(run, data, terminal)
        terminal.show_confusion(confusion_matrix(predictions), tuple(summary["classes"]))
        terminal.show_files(run)
        terminal.note(f"look at it: {run / 'report.html'} opens in any browser")
        terminal.note(f"try it: jaxclf predict {run} {data / 'valid' / 'cat'}")
        return 0
