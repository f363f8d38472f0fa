"""Makes curves.json: learning-rate curves, and what fastai 2.8's rules say about them. Run by hand, in two steps:

  python tests/training/lr_curves/make.py record     # with jaxclf: draws the synthetic curves, records the real ones
  python tests/training/lr_curves/make.py fastai     # with fastai 2.8 (needs torch): adds its smoothing and rates

fastai's numbers come from its own `Learner.lr_find`, which is handed the recorded curve in place of a training.
"""

import contextlib
import json
import math
import sys
import types
from pathlib import Path

import numpy as np

FILE = Path(__file__).with_name("curves.json")
LOW, HIGH = 1e-6, 10.0
RULES = ("valley", "minimum", "steep", "slide")


def synthetic_curves():
    """Raw losses by name; x runs from 0 at the lowest rate to 1 at the highest."""
    x = np.linspace(0, 1, 100)
    noise = np.random.default_rng(0).normal(size=(8, 100))

    def fall(at, width=0.04):
        return 1 / (1 + np.exp((x - at) / width))

    valley = 0.4 + 1.6 * fall(0.5) + 30 * np.exp((x - 1.02) / 0.05)
    blown_up = 0.4 + 1.6 * fall(0.5) + np.where(x > 0.7, (x - 0.7) * 400, 0)
    return {
        "valley": valley,
        "noisy valley": valley * np.exp(0.15 * noise[0]),
        "very noisy valley": valley * np.exp(0.5 * noise[1]),
        "falling": 3 - 2.5 * x,
        "rising": 0.5 + 1.2 * x,
        "flat": np.full(100, math.log(3)),
        "flat with noise": 1.1 + 0.1 * noise[2],
        "two valleys": 0.5 + fall(0.25) + 0.7 * fall(0.7) + 0.6 * np.exp(-(((x - 0.45) / 0.06) ** 2)) * (x > 0.3),
        "cliff": blown_up,
        "early divergence": np.where(x < 0.035, 1.0, 1e4 * x),
        "not a number at the end": np.where(x > 0.75, np.nan, 0.4 + 1.6 * fall(0.5) + np.where(x > 0.7, 60 * x, 0)),
        "infinite at once": np.full(100, np.inf),
        "short": (0.4 + 1.6 * fall(0.5) + 30 * np.exp((x - 1.02) / 0.05))[::5],
        "short and early": np.linspace(2.0, 1.0, 20) ** 2 + np.where(np.arange(20) > 14, 100.0, 0.0),
    }


def real_curves():
    """Raw losses by name, recorded by `find_lr` on drawings of cats and dogs."""
    import jax

    from jaxclf.config import frozen_prefix
    from jaxclf.data.demo.drawing import KINDS, draw_face
    from jaxclf.data.loader import Loader
    from jaxclf.data.sources import ArrayDataset
    from jaxclf.models import create_classifier, init_variables
    from jaxclf.training.lr_finder import find_lr
    from jaxclf.weights import load_weights, merge_variables

    model = create_classifier("resnet10t", 2)
    fresh = init_variables(model, jax.random.key(0), image_size=48)
    pretrained = merge_variables(fresh, load_weights("tiny-imagenet", "resnet10t").variables)
    faces = np.stack([np.asarray(draw_face(KINDS[number % 2], number, size=56)) for number in range(200)])
    loader = Loader(ArrayDataset(faces, np.arange(200) % 2), batch_size=16, image_size=48, train=True)
    options = {"lrs": (0.01, 0.1, 1.0), "low": LOW, "high": HIGH}
    return {
        "drawings, from scratch": find_lr(model, fresh, loader, low=LOW, high=HIGH).losses,
        "drawings, pretrained": find_lr(model, pretrained, loader, **options).losses,
        "drawings, head only": find_lr(model, pretrained, loader, frozen=frozen_prefix("stage4"), **options).losses,
        "drawings, 40 steps": find_lr(model, pretrained, loader, num_steps=40, **options).losses,
    }


def record():
    from jaxclf.training.lr_curve import growing_lrs, smooth_losses, stopping_point

    curves = {}
    for name, losses in {**synthetic_curves(), **real_curves()}.items():
        num_steps = 40 if "40 steps" in name else 20 if "short" in name else 100
        losses = np.asarray(losses, np.float32).astype(np.float64)  # what fastai gets, to the bit
        smoothed = smooth_losses(losses).astype(np.float32).astype(np.float64)
        stop = stopping_point(losses, smoothed)
        curves[name] = {
            "num_steps": num_steps,
            "lrs": growing_lrs(LOW, HIGH, num_steps)[: len(losses)].tolist(),
            "losses": plain(losses),
            "smoothed": plain(smoothed),
            "end": len(losses) if stop is None else stop[0],
        }
    write(curves)


def fastai():
    import torch
    from fastai.callback import schedule
    from fastai.callback.schedule import LRFinder  # noqa: F401  # brings `lr_find` to Learner
    from fastai.learner import AvgSmoothLoss, Learner

    functions = {name: getattr(schedule, name) for name in RULES}

    def suggest(curve, end):
        """What `lr_find` returns for the first `end` points, or the error it ends with, by rule."""
        recorder = types.SimpleNamespace(lrs=curve["lrs"][:end], losses=numbers(curve["smoothed"][:end]))
        learner = types.SimpleNamespace(
            dls=types.SimpleNamespace(train=[0] * 10), recorder=recorder, no_logging=contextlib.nullcontext,
            fit=lambda *args, **kwargs: None,
        )  # fmt: skip
        answers = {}
        for name, function in functions.items():
            try:
                found = Learner.lr_find(learner, num_it=curve["num_steps"], show_plot=False, suggest_funcs=function)
                answers[name] = float(found[0])
            except (IndexError, RuntimeError, ValueError) as error:
                answers[name] = type(error).__name__
        return answers

    curves = json.loads(FILE.read_text())
    for curve in curves.values():
        curve["fastai"] = suggest(curve, curve["end"])
        if None in curve["losses"]:  # fastai goes on
            curve["fastai, not ended"] = suggest(curve, len(curve["lrs"]))
        average = AvgSmoothLoss()
        average.reset()
        values = []
        for loss in numbers(curve["losses"]):
            average.accumulate(types.SimpleNamespace(loss=torch.tensor(loss), yb=(torch.zeros(1),)))
            values.append(float(average.value))
        curve["fastai smoothed"] = plain(values)
    write(curves)


def plain(values):
    """As JSON: null for what is not finite, nine digits, which bring float32 back to the bit."""
    return [float(f"{value:.9g}") if math.isfinite(value) else None for value in values]


def numbers(values):
    return [math.nan if value is None else value for value in values]


def write(curves):
    lines = (f"{json.dumps(name)}: {json.dumps(curve, allow_nan=False)}" for name, curve in curves.items())
    FILE.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    {"record": record, "fastai": fastai}[sys.argv[1]]()
