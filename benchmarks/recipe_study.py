"""What does each step of the recipe bring, over several seeds, judged pairwise?

    python benchmarks/recipe_study.py DATA --out runs/study [--seeds 5] [jaxclf fit's own flags]

Runs `jaxclf fit` once per seed, in a process of its own, and compares what the steps' checkpoints say of the same
validation pictures: mean difference of the per-image loss and its standard error, within a seed, and the mean and
spread over seeds. Seconds are the steps' own, compiling and validation included.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import numpy as np

from jaxclf import load_run
from jaxclf.data.loader import Loader
from jaxclf.data.splits import open_data
from jaxclf.inference.predict import predict
from jaxclf.inference.tta import predict_tta
from jaxclf.metrics import Predictions, compare_predictions
from jaxclf.run.checkpoint_file import load_variables


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
            predict_step=run.predict_step,
        )
        for number, phase in enumerate(run.recipe.phases, 1)
    }
    augment = next((phase.augment for phase in reversed(run.recipe.phases) if phase.augment != "none"), "side_on")
    views = recipe.tta_views
    found["test-time augmentation"] = predict_tta(
        run.model, run.variables, loader, num_views=views, augment=augment, seed=recipe.seed
    )
    return found


def difference(before: Predictions, after: Predictions) -> tuple[float, float]:
    """Mean and standard error of the per-image loss, after - before."""
    loss = compare_predictions(before, after).loss
    return float(loss.mean), float(loss.standard_error)


def spread(values: list[float]) -> str:
    """Mean, and standard deviation over the seeds."""
    return f"{np.mean(values):8.4f} +- {np.std(values, ddof=1) if len(values) > 1 else 0.0:.4f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=5)
    args, flags = parser.parse_known_args()
    steps: dict[str, dict[str, list[float]]] = {}
    versus: dict[str, list[tuple[float, float]]] = {}
    for seed in range(args.seeds):
        run = args.out / f"seed{seed}"
        if not (run / "summary.json").exists():
            command = [sys.executable, "-m", "jaxclf", "fit", args.data, "--out", str(run), "--seed", str(seed)]
            subprocess.run([*command, "--overwrite", *flags], check=True, stdout=subprocess.DEVNULL)
        summary = json.loads((run / "summary.json").read_text())
        for step in summary["steps"]:
            columns = steps.setdefault(step["name"], {"loss": [], "accuracy": [], "seconds": []})
            for name, values in columns.items():
                values.append(step[name])
        found = step_predictions(run, args.data)
        first, *rest = list(found)
        pairs = [(first, name) for name in rest] + [(rest[-2], rest[-1])] * (len(rest) > 1)
        for before, after in pairs:
            versus.setdefault(f"{after} - {before}", []).append(difference(found[before], found[after]))
        rates = ", ".join(f"{rate['phase']} {rate['lr']:.2g} ({rate['rule']})" for rate in summary["rates"])
        print(f"seed {seed}: {summary['seconds']:.0f} s; rates {rates}", flush=True)
        for step in summary["steps"]:
            print(f"  {step['name']:24s} loss {step['loss']:.4f}  accuracy {step['accuracy']:.4f}", flush=True)
    print(
        f"\nmean and standard deviation over {args.seeds} seeds\n"
        f"{'step':26s} loss               accuracy           seconds"
    )
    for name, columns in steps.items():
        print(f"{name:24s} {'  '.join(spread(values) for values in columns.values())}")
    print("\npaired per-image loss difference: mean over seeds; each seed's (standard error)")
    for name, seeds in versus.items():
        each = "  ".join(f"{mean:+.4f} ({error:.4f})" for mean, error in seeds)
        print(f"{name}\n  {np.mean([mean for mean, _ in seeds]):+.4f}; {each}")


if __name__ == "__main__":
    main()
