"""Is the recipe better than fastai's, in less time, and what does each step bring, over several seeds?

A turn is a seed: `jaxclf fit` and fastai's steps, each a process of its own on `threads` cores, on the same photos,
with the same weights and size; nothing of ours is compiled beforehand, and seconds are the whole process's. Then
logistic regression on our pooled features (scikit-learn, which the test extra has), and the ablations. All are judged
after test-time augmentation and uncalibrated, ours by choices made on the other half of the pictures (study/judge.py).

    python benchmarks/run.py recipe_study --set data=SETS --set out=runs/study --set peer_python=PYTHON

SETS holds dogscats/ and clothing/, or what `--set name=FOLDER` says, each with train/ and valid/ (`name=.`: SETS
itself); `digits`, unlike photographs, is made of scikit-learn's handwritten digits. fastai's side wants a Python that
has it, and `peer_script`, called with DATA WEIGHTS SIZE SEED and `peer_flags`, which keeps its probabilities of valid/
in the file $SAVE; unless one is named, ../shared/bench/fastai_steps.py. Weights are a file, or the bundled ones.
A turn that has ended is kept in `out` and not run again: delete `out/CASE/SIDE` to have a side run anew; the tables say
which seconds were measured together. `--set ablations="NAME=FLAGS;.."` runs ours with further flags too.
"""

import dataclasses
import json
import shlex
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from harness import Run, find_folder
from study.data import check_split, digits, subset
from study.logistic import KINDS, logistic_turn
from study.processes import RECORD
from study.said import read_said
from study.sides import fastai_turn, fit_turn, parse_ablations
from study.tables import Turn, figures, judged_turn, lines

from jaxclf.config import Settings
from jaxclf.weights.catalogue import bundled_names, bundled_path

WARM_UP = 0
#: fastai's steps, unless others are named, where this checkout has them.
SCRIPT = Path(__file__).resolve().parent.parent.parent / "shared" / "bench" / "fastai_steps.py"
SMOKE = {"name": ".", "per_class": 0, "image_size": 32, "flags": "--batch-size 8 --recipe head-only --tta-views 1"}


@dataclasses.dataclass(frozen=True)
class Case:
    name: str = "dogscats"
    per_class: int = 0
    data: str = ""
    out: str = "runs/study"
    arch: str = "resnet10t"
    weights: str = "tiny-imagenet"
    image_size: int = 128
    flags: str = ""
    ablations: str = ""
    threads: int = 2
    peer_python: str = ""
    peer_script: str = ""
    peer_flags: str = ""

    @property
    def folder(self) -> Path:
        """Where the turns are kept."""
        name = Path(self.data).resolve().name if self.name == "." else self.name
        return Path(self.out) / (f"{name}-{self.per_class}" if self.per_class else name)

    @property
    def common(self) -> list[str]:
        """The flags of every side that is ours."""
        return ["--arch", self.arch, "--weights", self.weights, "--image-size", str(self.image_size)]


def cases() -> list[Case]:
    return [Case(), Case("clothing"), Case("clothing", 5), Case("clothing", 20), Case("digits")]


def photos(case: Case, seed: int) -> Path:
    """The folder that all sides of a seed read."""
    if case.name == "digits":
        whole = digits(Path(case.out) / "data" / "digits")
    else:
        whole = check_split(find_folder(case.data) / case.name)
    if not case.per_class:
        return whole
    return subset(whole, Path(case.out) / "data" / case.folder.name / f"seed{seed}", case.per_class, seed)


def ours(case: Case) -> Run:
    photos(case, 0)  # what is missing is said before anything runs

    def turn(seed: int) -> dict[str, float]:
        folder = case.folder / "ours" / f"seed{seed}"
        fit_turn(folder, photos(case, seed), [*case.common, *shlex.split(case.flags)], seed, case.threads)
        return _shown(folder)

    return Run("jaxclf fit", turn)


def peer(case: Case) -> Run | None:
    if why_no_peer(case):
        return None
    weights = bundled_path(case.weights) if case.weights in bundled_names() else Path(case.weights)
    command = [str(shutil.which(case.peer_python)), case.peer_script or str(SCRIPT)]

    def turn(seed: int) -> dict[str, float]:
        folder, options = case.folder / "fastai" / f"seed{seed}", [str(weights), str(case.image_size), str(seed)]
        fastai_turn(folder, command, photos(case, seed), [*options, *shlex.split(case.peer_flags)], case.threads)
        return _shown(folder)

    return Run("fastai", turn)


def why_no_peer(case: Case) -> str:
    """Why fastai's side cannot run; "" if it can."""
    if not case.peer_python:
        return "no --set peer_python=PYTHON"
    if not shutil.which(case.peer_python):
        return f"peer_python={case.peer_python!r} is no program"
    if not Path(case.peer_script or SCRIPT).is_file():
        return f"there is no peer_script={case.peer_script or '../shared/bench/' + SCRIPT.name}"
    if case.arch != "resnet10t":
        return f"its steps are those of resnet10t, not of arch={case.arch!r}"
    if case.weights not in bundled_names() and not Path(case.weights).is_file():
        return f"weights={case.weights!r} is no file, and not bundled"
    return ""


def conclude(case: Case, turns: int) -> tuple[dict[str, Any], Iterable[str]]:
    """What is left to run once both sides have had their turns; then all figures, and the tables."""
    for seed in range(turns) if case.per_class else range(1):  # of the same photos, the same
        settings = Settings(arch=case.arch, weights=case.weights, image_size=case.image_size, seed=seed)
        logistic_turn(case.folder / "logistic" / f"seed{seed}", photos(case, seed), settings)
    ablations = parse_ablations(case.ablations)
    for seed in range(turns):
        for name, flags in ablations.items():
            own = [*case.common, *shlex.split(case.flags), *flags]
            fit_turn(case.folder / name / f"seed{seed}", photos(case, seed), own, seed, case.threads)
    sides: dict[str, dict[int, Turn]] = {}
    for name in ("ours", "fastai", *ablations):
        folders = {seed: case.folder / name / f"seed{seed}" for seed in range(turns)}
        sides[name] = {seed: _judged(folder) for seed, folder in folders.items() if (folder / RECORD).is_file()}
    for kind in KINDS:
        place = {seed: case.folder / "logistic" / f"seed{seed if case.per_class else 0}" for seed in range(turns)}
        sides[f"logistic, {kind}"] = {seed: _judged(folder / kind) for seed, folder in place.items()}
    found = figures({name: side for name, side in sides.items() if side}, turns)
    why = why_no_peer(case)
    note = [f"  fastai does not run: {why}" + "; kept turns are shown" * bool(sides["fastai"])] if why else []
    return found, [*note, *lines(found)]


def _judged(folder: Path) -> Turn:
    return judged_turn(read_said(folder), json.loads((folder / RECORD).read_text(encoding="utf-8")))


def _shown(folder: Path) -> dict[str, float]:
    """The figures of a turn that the runner prints."""
    turn = _judged(folder)
    loss, accuracy = float(turn.final.losses.mean()), float(turn.final.right.mean())
    return {"seconds": float(turn.record["seconds"]), "loss": loss, "accuracy": accuracy}
