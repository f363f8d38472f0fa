"""The eight steps of fast.ai's lesson 2, in one flat file and with the public functions only.

    python scripts/eight_steps.py DATA [--arch resnet34] [--weights auto] [--image-size 224] [--out eight_steps]

DATA holds train/CLASS/* and valid/CLASS/*, or just CLASS/*. `jaxclf fit` runs such steps too, and keeps a record.
"""

import argparse
import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np
from matplotlib.figure import Figure

import jaxclf
from jaxclf import Phase, plots

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("data")
parser.add_argument("--arch", default="resnet34")
parser.add_argument("--weights", default="auto")
parser.add_argument("--image-size", type=int, default=224)
parser.add_argument("--batch-size", type=int, default=64)
parser.add_argument("--finder-steps", type=int, default=100)
parser.add_argument("--cycles", type=int, default=3, help="of the last step: 1, 2, 4, .. epochs")
parser.add_argument("--out", type=Path, default=Path("eight_steps"), help="folder for the plots")
args = parser.parse_args()
jaxclf.enable_compilation_cache()
args.out.mkdir(parents=True, exist_ok=True)

# The data, the pretrained body, and a new head.
data = jaxclf.open_data(args.data)
pretrained = jaxclf.load_weights(args.weights, args.arch)
preprocess = dataclasses.replace(pretrained.config.preprocess, image_size=args.image_size)
model = jaxclf.create_classifier(args.arch, len(data.train.classes))
variables = jaxclf.init_variables(model, jax.random.key(0), image_size=args.image_size)
variables = jaxclf.merge_variables(variables, pretrained.variables)
fit = jaxclf.fit
body = jaxclf.frozen_prefix("stage4")
ratios = np.array([0.01, 0.1, 1.0])  # earlier layer groups learn slower; for satellites or microscopes 1/9, 1/3, 1


def read_rate(curve: jaxclf.LRCurve, name: str) -> float:
    """The last layer group's rate where the loss still falls clearly; draws the curve, too."""
    valley = jaxclf.suggest_lr(curve)
    figure = Figure(layout="constrained")
    plots.plot_lr_curve(curve, suggestions={"valley": valley.lr}, ax=figure.subplots())
    plots.save_figure(figure, args.out / f"{name}.png")
    lr = 0.01 if valley.lr is None else valley.lr
    print(f"{name}: {valley.reason}; going on with {lr:.2g}")
    return lr


def report(result: jaxclf.FitResult) -> Any:
    """Prints the epochs of a fit; returns the variables it ended with."""
    for row in result.epochs:
        loss, accuracy = row["valid_loss"], row["valid_accuracy"]
        print(f"{row['phase']}: epoch {row['epoch'] + 1}, loss {loss:.4f}, accuracy {accuracy:.3f}")
    return result.state.variables


# 1. Augmentation on; and precompute: what the frozen body makes of the plain pictures, computed once.
common = {"batch_size": args.batch_size, "image_size": args.image_size, "preprocess": preprocess}
augmented = jaxclf.Loader(data.train, train=True, **common)
plain = jaxclf.Loader(data.train, train=True, presized=False, **common)
valid = jaxclf.Loader(data.valid, train=False, **common)
features = [jaxclf.extract_features(model, variables, loader, cut="pooled") for loader in (plain, valid)]
pooled = jaxclf.ActivationLoader(features[0], batch_size=args.batch_size, train=True)
pooled_valid = jaxclf.ActivationLoader(features[1], batch_size=args.batch_size, train=False)

# 2. A learning rate for the new head.
finder = {"lrs": ratios, "num_steps": args.finder_steps}
curve = jaxclf.find_lr(model, variables, pooled, frozen=body, **finder)
lrs = tuple(read_rate(curve, "2 find_lr") * ratios)

# 3. The head on what was precomputed, 4. and on augmented pictures, in cycles of one epoch.
head = Phase("3 head, precomputed", lrs, frozen=body, augment="none")
variables = report(jaxclf.fit(model, variables, head, pooled, pooled_valid, phase_number=0))
head = Phase("4 head, augmented", lrs, frozen=body, num_cycles=2)
variables = report(fit(model, variables, head, augmented, valid, phase_number=1, first_epoch=1))

# 5. From here on all layers are trained, 6. the earlier ones at lower rates (`ratios`). 7. A rate for that.
curve = jaxclf.find_lr(model, variables, augmented, **finder)
lrs = tuple(read_rate(curve, "7 find_lr") * ratios)

# 8. Cycles of 1, 2 and 4 epochs, and of all their epochs the best.
everything = Phase("8 all layers", lrs, num_cycles=args.cycles, cycle_mult=2, keep_best=True)
result = fit(model, variables, everything, augmented, valid, phase_number=2, first_epoch=3)
variables = report(result)

# Test-time augmentation: the mean of the plain picture's probabilities and those of four augmented views.
views = jaxclf.predict_tta(model, variables, valid)
for name, predictions in (("plain", result.predictions), ("test-time augmentation", views)):
    scores = jaxclf.summarize(predictions)
    print(f"{name}: accuracy {scores['accuracy']:.3f}, loss {scores['loss']:.4f}")

# What is taken for what.
matrix = jaxclf.confusion_matrix(result.predictions)
figure = Figure(layout="constrained")
plots.plot_confusion(matrix, data.valid.classes, ax=figure.subplots())
plots.save_figure(figure, args.out / "confusion.png")
for actual, predicted, count in jaxclf.most_confused(matrix, data.valid.classes)[:5]:
    print(f"{actual} was taken for {predicted} {count} times")
