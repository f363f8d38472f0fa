"""What does each step of the recipe bring, over several seeds, judged pairwise?

A turn is one seed: `jaxclf fit` in a process of its own, with the flags of `--set flags="--arch resnet18"`, unless the
run is in `out` already. Its figures are what the steps' checkpoints say of the same validation pictures: loss, accuracy
and the steps' own seconds, compiling and validation included; and mean difference of the per-image loss between steps
with its standard error, within the seed.

    python benchmarks/run.py recipe_study --set data=DATA --set out=runs/study
"""

import dataclasses
import itertools
import json
import shlex
import subprocess
import sys
from pathlib import Path

from harness import Run, find_folder

from jaxclf import load_run
from jaxclf.data.loader import Loader
from jaxclf.data.splits import open_data
from jaxclf.inference.predict import predict
from jaxclf.inference.tta import predict_tta
from jaxclf.metrics import Predictions, compare_predictions
from jaxclf.run.checkpoint_file import load_variables

WARM_UP = 0
peer = None
SMOKE = {"flags": "--arch resnet10t --weights tiny-imagenet --image-size 32 --batch-size 8 --recipe head-only"}


@dataclasses.dataclass(frozen=True)
class Case:
    data: str = ""
    out: str = "runs/study"
    flags: str = ""


def cases() -> list[Case]:
    return [Case()]


def ours(case: Case) -> Run:
    data, out = str(find_folder(case.data)), Path(case.out)

    def turn(seed: int) -> dict[str, float]:
        run = out / f"seed{seed}"
        if not (run / "summary.json").exists():
            command = [sys.executable, "-m", "jaxclf", "fit", data, "--out", str(run), "--seed", str(seed)]
            command += ["--overwrite", *shlex.split(case.flags)]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        summary = json.loads((run / "summary.json").read_text())
        figures = {"seconds": summary["seconds"]}
        for step in summary["steps"]:
            figures |= {f"{step['name']}: {what}": step[what] for what in ("loss", "accuracy", "seconds")}
        figures |= {f"{rate['phase']}: rate": rate["lr"] for rate in summary["rates"]}
        found = step_predictions(run, data)
        first, *rest = found
        pairs = [(first, name) for name in rest] + list(itertools.pairwise(rest[-2:]))
        for before, after in pairs:
            loss = compare_predictions(found[before], found[after]).loss
            figures[f"loss of {after} - {before}"] = float(loss.mean)
            figures[f"its standard error, {after} - {before}"] = float(loss.standard_error)
        return figures

    return Run("jaxclf fit, a seed each turn", turn)


def step_predictions(run_folder: Path, data: str) -> dict[str, Predictions]:
    """What the end of each phase, and test-time augmentation, say of the validation pictures."""
    run = load_run(run_folder)
    recipe = run.recipe.settings
    source = open_data(data, valid_fraction=recipe.valid_fraction, seed=recipe.seed, classes=run.classes).valid
    loader = Loader(
        source,
        batch_size=recipe.batch_size,
        image_size=recipe.image_size,
        train=False,
        preprocess=run.spec.preprocess,
    )
    found = {
        phase.name: predict(
            run.model,
            load_variables(run_folder / "checkpoints" / f"phase{number}"),
            loader,
        )
        for number, phase in enumerate(run.recipe.phases, 1)
    }
    augment = next((phase.augment for phase in reversed(run.recipe.phases) if phase.augment != "none"), "side_on")
    views = recipe.tta_views
    found["test-time augmentation"] = predict_tta(
        run.model, run.variables, loader, num_views=views, augment=augment, seed=recipe.seed
    )
    return found
