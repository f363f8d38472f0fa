"""The eight steps of fast.ai's lesson 2, in one flat file and with the public functions only.

    python scripts/eight_steps.py DATA [--arch resnet34] [--weights auto] [--image-size 224] [--out eight_steps]

DATA holds train/CLASS/* and valid/CLASS/*, or just CLASS/*. `jaxclf fit` runs the same phases, and keeps a record.
"""

import argparse
from pathlib import Path
from typing import Any

import jax

import jaxclf
from jaxclf import Phase, plots

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("data")
parser.add_argument("--arch", default="resnet34")
parser.add_argument("--weights", default="auto")
parser.add_argument("--image-size", type=int, default=224)
parser.add_argument("--batch-size", type=int, default=64)
parser.add_argument("--finder-steps", type=int, default=100)
parser.add_argument("--out", type=Path, default=Path("eight_steps"), help="folder for the plots")
args = parser.parse_args()
args.out.mkdir(parents=True, exist_ok=True)
jaxclf.enable_compilation_cache()

# The data, a pretrained body, and a new head.
data = jaxclf.open_data(args.data)
pretrained = jaxclf.load_weights(args.weights, args.arch)
model = jaxclf.create_classifier(args.arch, len(data.train.classes))
variables: Any = jaxclf.init_variables(model, jax.random.key(0), image_size=args.image_size)
variables = jaxclf.merge_variables(variables, pretrained.variables)
body = jaxclf.frozen_prefix("stage4")
ratios = (0.01, 0.1, 1.0)  # earlier layer groups learn slower; for satellites or microscopes 1/9, 1/3, 1

# 1. Augmentation on; and precompute: what the frozen body makes of the plain pictures, computed once.
common = {"batch_size": args.batch_size, "image_size": args.image_size, "preprocess": pretrained.config.preprocess}
augmented = jaxclf.Loader(data.train, train=True, **common)
plain = jaxclf.Loader(data.train, train=True, presized=False, **common)
valid = jaxclf.Loader(data.valid, train=False, **common)
features, valid_features = (jaxclf.extract_features(model, variables, loader) for loader in (plain, valid))
pooled = jaxclf.ActivationLoader(features, batch_size=args.batch_size, train=True)
pooled_valid = jaxclf.ActivationLoader(valid_features, batch_size=args.batch_size, train=False)


def find_rates(step: str, loader: Any, frozen: tuple[str, ...] = ()) -> tuple[float, ...]:
    """The layer groups' rates, of which the last is where the loss still falls clearly; draws the curve, too."""
    curve = jaxclf.find_lr(model, variables, loader, lrs=ratios, frozen=frozen, num_steps=args.finder_steps)
    valley = jaxclf.suggest_lr(curve)
    ax: Any = plots.plot_lr_curve(curve, suggestions={"valley": valley.lr})
    plots.save_figure(ax.figure, args.out / f"{step}.png")
    print(f"{step}: {valley.reason}; going on with {valley.lr or 0.01:.2g}")
    return tuple((valley.lr or 0.01) * ratio for ratio in ratios)


def fit(phase: Phase, train: Any, valid: Any, number: int, first_epoch: int) -> jaxclf.FitResult:
    """Trains a phase from the variables so far, and prints its epochs."""
    result = jaxclf.fit(model, variables, phase, train, valid, phase_number=number, first_epoch=first_epoch)
    for row in result.epochs:
        figures = f"loss {row['valid_loss']:.4f}, accuracy {row['valid_accuracy']:.3f}"
        print(f"{phase.name}: epoch {row['epoch'] + 1}, {figures}")
    return result


# 2. A learning rate for the new head. 3. The head on what was precomputed, 4. and on augmented pictures.
lrs = find_rates("2 find_lr", pooled, frozen=body)
phase = Phase("head, precomputed", lrs, frozen=body, augment="none", cut="pooled", num_cycles=2)
variables = fit(phase, pooled, pooled_valid, number=0, first_epoch=0).state.variables
phase = Phase("head, augmented", lrs, frozen=body, num_cycles=3)
variables = fit(phase, augmented, valid, number=1, first_epoch=2).state.variables

# 5. From here on all layers are trained, 6. the earlier ones at lower rates (`ratios`). 7. A rate for that.
lrs = find_rates("7 find_lr", augmented)

# 8. Cycles of 1, 2 and 4 epochs until over-fitting, and of all their epochs the best.
phase = Phase("all layers", lrs, num_cycles=3, cycle_mult=2, keep_best=True, patience=1)
result = fit(phase, augmented, valid, number=2, first_epoch=5)

# Test-time augmentation: the mean of the plain picture's probabilities and those of four augmented views.
views = jaxclf.predict_tta(model, result.state.variables, valid)
for name, predictions in (("plain", result.predictions), ("test-time augmentation", views)):
    print("{}: accuracy {accuracy:.3f}, loss {loss:.4f}".format(name, **jaxclf.summarize(predictions)))

# What is taken for what.
matrix = jaxclf.confusion_matrix(result.predictions)
confusion: Any = plots.plot_confusion(matrix, data.valid.classes)
plots.save_figure(confusion.figure, args.out / "confusion.png")
for actual, predicted, count in jaxclf.most_confused(matrix, data.valid.classes)[:5]:
    print(f"{actual} was taken for {predicted} {count} times")
