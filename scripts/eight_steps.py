"""The eight steps of fast.ai's lesson 2, in one flat file and with the public functions only.

    python scripts/eight_steps.py DATA [--arch resnet34] [--weights auto] [--image-size 224] [--out eight_steps]

DATA holds train/CLASS/* and valid/CLASS/*, or just CLASS/*. `jaxclf fit` runs the same phases, and keeps a record.
"""

import argparse
import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

import jax

import jaxclf
from jaxclf import Phase, plots

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("data")
parser.add_argument("--arch", default="resnet34")
parser.add_argument("--weights", default="auto")
parser.add_argument("--image-size", type=int, default=224)
parser.add_argument("--batch-size", type=int, help="default: follows the number of photos, from 16 to 64")
parser.add_argument("--finder-steps", dest="steps", type=int, default=72)
parser.add_argument("--out", type=Path, default=Path("eight_steps"), help="folder for the plots")
args = parser.parse_args()
args.out.mkdir(parents=True, exist_ok=True)
jaxclf.enable_compilation_cache()

# The data, a pretrained body, and a new head. Batch size and BatchNorm follow the number of photos.
data = jaxclf.open_data(args.data)
settings = jaxclf.Settings(batch_size=args.batch_size or "auto").for_photos(len(data.train))
known = jaxclf.load_weights(args.weights, args.arch)
size, preprocess = args.image_size, known.config.preprocess  # of which at most .93 of the shorter side are shown
preprocess = dataclasses.replace(preprocess, crop_fraction=min(preprocess.crop_fraction, 0.93))
model = jaxclf.create_classifier(args.arch, len(data.train.classes), head=settings.head)
initial: Any = jaxclf.merge_variables(jaxclf.init_variables(model, jax.random.key(0), image_size=size), known.variables)


class Held(NamedTuple):
    """What a step ended with, judged on plain pictures or on augmented views."""

    name: str
    variables: Any
    predictions: jaxclf.Predictions
    loss: float


def judged(name: str, variables: Any, predictions: jaxclf.Predictions) -> Held:
    """Prints the figures of what it returns."""
    figures = jaxclf.summarize(predictions)
    print(f"{name}: loss {figures['loss']:.4f}, accuracy {figures['accuracy']:.3f}")
    return Held(name, variables, predictions, figures["loss"])


def better(*steps: Held) -> Held:
    """The one with the lowest loss; of equal ones the earliest."""
    return min(steps, key=lambda step: step.loss)


def solve(step: int, name: str, features: Any) -> Held:
    """The head at its optimum on these activations; draws the loss over the ridge, too."""
    solved = jaxclf.solve_head(model, initial, features, settings=settings)
    ax: Any = plots.plot_ridge(solved)
    plots.save_figure(ax.figure, args.out / f"{step} ridge.png")
    print(f"{step} ridge: {solved.ridge:.3g}, held-out loss {solved.loss:.4f}")
    return judged(name, solved.variables, jaxclf.predict(model, solved.variables, valid))


# 1. Augmentation on; and precompute: what the frozen body makes of the plain pictures, computed once.
common: dict[str, Any] = {"batch_size": settings.batch_size, "image_size": size, "preprocess": preprocess}
augmented = jaxclf.Loader(data.train, train=True, **common)
valid = jaxclf.Loader(data.valid, train=False, **common)
features = jaxclf.extract_features(model, initial, jaxclf.Loader(data.train, train=True, presized=False, **common))

# 2. In place of a rate, the head's ridge, by cross-validation. 3. The head at its optimum on what was precomputed,
# 4. and on three views of each picture: the plain one, and two augmented ones.
steps = [solve(2, "head, precomputed", features)]
bank = jaxclf.extract_features(model, initial, augmented, num_views=3, augment="side_on")
steps.append(solve(4, "head, augmented", bank))
held = better(*steps)

# 5. From here on all layers are trained, 6. the earlier ones at lower rates. 7. A rate: a twentieth of the one that
# breaks, and .003 where no rate up to .2 does.
ratios = (0.1, 1.0, 1.0)  # for satellites or microscopes 1/3, 1, 1
over: dict[str, Any] = {"low": 1e-5, "high": 0.2, "num_steps": args.steps, "settings": settings}
curve = jaxclf.find_lr(model, held.variables, augmented, lrs=ratios, **over)
edge = jaxclf.suggest_lr(curve, "edge")
found_ax: Any = plots.plot_lr_curve(curve, suggestions={"edge": edge.lr})
plots.save_figure(found_ax.figure, args.out / "7 find_lr.png")
lr = edge.lr or 0.003
print(f"7 find_lr: {edge.reason}; {held.name!r} goes on at {lr:.2g}")

# 8. Cycles of 1, 2 and 4 epochs.
phase = Phase("all layers", tuple(lr * ratio for ratio in ratios), num_cycles=3, cycle_mult=2)
result = jaxclf.fit(model, held.variables, phase, augmented, valid, settings=settings, phase_number=2)
steps.append(judged(phase.name, result.state.variables, result.predictions))
held = better(*steps)

# Test-time augmentation: the mean of the plain picture's probabilities and those of four augmented views. The run ends
# with the step that has the lowest loss of all, without or with it.
for step in steps:
    views = judged(f"{step.name}, by views", step.variables, jaxclf.predict_tta(model, step.variables, valid))
    held = better(held, views)
print(f"the lowest loss of all: {held.name!r}")

# What is taken for what.
matrix = jaxclf.confusion_matrix(held.predictions)
confusion: Any = plots.plot_confusion(matrix, data.valid.classes)
plots.save_figure(confusion.figure, args.out / "confusion.png")
for actual, predicted, count in jaxclf.most_confused(matrix, data.valid.classes)[:5]:
    print(f"{actual} was taken for {predicted} {count} times")
