"""What do cached activations save? Epochs on real photos, from a cache, beside epochs that compute the prefix.

float32, batch 32. Extraction is timed apart: with compilation, and images/s once that is done. Wanted: 50 times the
speed from pooled, and .80 of what the FLOPs of the steps allow from stage3.

    python benchmarks/run.py precompute --set data=PHOTOS
"""

import dataclasses
import functools
import time
from typing import Any

import jax
from harness import Run, find_folder
from steps import Program

from jaxclf.config import cut_prefix
from jaxclf.data.activations import ActivationLoader
from jaxclf.data.loader import Loader
from jaxclf.data.splits import open_data
from jaxclf.inference.features import extract_features
from jaxclf.models import create_classifier, init_variables

TURNS = 7
SMOKE = {"cut": "pooled", "arch": "resnet10t", "image_size": 32}


@dataclasses.dataclass(frozen=True)
class Case:
    cut: str = "stage3"
    arch: str = "resnet18"
    image_size: int = 128
    data: str = ""


def cases() -> list[Case]:
    return [Case("stage3"), Case("pooled")]


@functools.lru_cache(1)
def _setting(arch: str, size: int, data: str) -> tuple[Any, Any, Loader]:
    train = open_data(str(find_folder(data)), valid_fraction=0.2, seed=0).train
    loader = Loader(train, batch_size=32, image_size=size, train=True, presized=False)
    loader.fill_cache()
    model = create_classifier(arch, len(loader.classes))
    return model, init_variables(model, jax.random.key(0)), loader


def ours(case: Case) -> Run:
    model, variables, loader = _setting(case.arch, case.image_size, case.data)
    times = [time.perf_counter()]
    dataset = extract_features(
        model,
        variables,
        loader,
        cut=case.cut,
        on_progress=lambda done, total: times.append(time.perf_counter()),
    )
    notes = {"extraction with compilation s": times[-1] - times[0], "activations MiB": dataset.nbytes / 2**20}
    if len(times) > 4:
        notes["extraction then images/s"] = (len(loader.dataset) - 2 * loader.batch_size) / (times[-1] - times[2])
    train = ActivationLoader(dataset, batch_size=32, train=True)
    repeat = 20 if case.cut == "pooled" else 1
    own = Program(model, variables, train, frozen=cut_prefix(case.cut), augment="none")
    notes |= own.notes
    return Run("from the cache", own.epoch, items=1, unit="epochs", repeat=repeat, notes=notes)


def peer(case: Case) -> Run:
    model, variables, loader = _setting(case.arch, case.image_size, case.data)
    own = Program(model, variables, loader, frozen=cut_prefix(case.cut), augment="none")
    return Run("prefix recomputed", own.epoch, items=1, unit="epochs", notes=own.notes)
