"""The sides that train, in processes of their own: `jaxclf fit` and fastai's steps. What they say of valid/ is kept."""

import json
import os
import re
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from harness import commit

from jaxclf import load_run
from jaxclf.data.loader import loader_for
from jaxclf.data.splits import open_data
from jaxclf.inference.tta import combine_views, predict_views
from jaxclf.metrics import log_probabilities
from jaxclf.run.checkpoint_file import load_variables
from jaxclf.run.checkpoints import phase_path
from jaxclf.run.selection import view_preset
from study.processes import finished, keep, run_process
from study.said import Said, file_name, write_said


def fit_turn(folder: Path, data: Path, flags: Sequence[str], seed: int, threads: int) -> dict[str, Any]:
    """`jaxclf fit` with nothing compiled beforehand, unless the turn has ended already; its record.

    The phases' ends are judged after the clock has stopped, and the checkpoints then removed.
    """
    asked = [*flags, "--seed", str(seed)]
    if record := finished(folder, asked):
        return record
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    run, cache = folder / "run", folder / "cache"
    command = [sys.executable, "-m", "jaxclf", "fit", str(data), "--out", str(run), *asked]
    downloads = os.environ.get("HF_HOME", str(Path.home() / ".cache" / "huggingface"))
    own = {"XDG_CACHE_HOME": str(cache.resolve()), "HF_HOME": downloads, "JAX_COMPILATION_CACHE_DIR": None}
    measured = run_process(command, folder / "log.txt", own, threads)
    write_said(folder, judge_states(run, data))
    summary = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    for kept in ("summary.json", "recipe.json", "metrics.jsonl"):
        shutil.copy2(run / kept, folder / kept)
    for made in (run, cache):
        shutil.rmtree(made, ignore_errors=True)
    steps = [{name: step[name] for name in ("name", "loss", "accuracy", "seconds")} for step in summary["steps"]]
    record = {"asked": asked, **measured, "commit": commit(), "steps": steps, "rates": summary.get("rates", [])}
    keep(folder, record)
    return record


def judge_states(run_folder: Path, data: Path) -> Said:
    """What each phase of a run ended with says of the validation pictures, plain and with test-time augmentation."""
    run = load_run(run_folder)
    settings = run.recipe.settings
    splits = open_data(data, valid_fraction=settings.valid_fraction, seed=settings.seed, classes=run.classes)
    loader = loader_for(splits.valid, settings, run.spec.preprocess, train=False, cache="memory")
    names, plain, augmented = [], [], []
    for name, path in phase_ends(run_folder, [phase.name for phase in run.recipe.phases]):
        views = predict_views(
            run.model,
            load_variables(path),
            loader,
            num_views=settings.tta_views,
            augment=view_preset(run.recipe),
            seed=settings.seed,
        )
        names.append(name)
        plain.append(log_probabilities(views.logits[0]))
        augmented.append(log_probabilities(combine_views(views).logits))
    files = [file_name(str(splits.valid.name(int(index)))) for index in views.index]
    return Said(
        np.array(names),
        np.array(plain, np.float32),
        np.array(augmented, np.float32),
        np.asarray(views.labels),
        np.array(files),
    )


def phase_ends(run_folder: Path, phases: Sequence[str]) -> list[tuple[str, Path]]:
    """Name and checkpoint of what each phase ended with, in the order of training: the states a run may end with."""
    return [(name, phase_path(run_folder, number)) for number, name in enumerate(phases)]


def fastai_turn(
    folder: Path, command: Sequence[str], data: Path, options: Sequence[str], threads: int
) -> dict[str, Any]:
    """fastai's steps: `command DATA *options`, which prints a JSON line per step and keeps probabilities in $SAVE."""
    if record := finished(folder, options):
        return record
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    own = {"SAVE": str((folder / "saved.npz").resolve()), "PYTHONPATH": str(Path(command[-1]).resolve().parent)}
    measured = run_process([*command, str(data), *options], folder / "log.txt", own, threads)
    steps = fastai_steps((folder / "log.txt").read_text(encoding="utf-8"))
    with np.load(folder / "saved.npz", allow_pickle=False) as saved:
        # A probability that float32 rounds to 0 costs 87 nats.
        logs = np.log(np.maximum(saved["probabilities"], np.finfo(np.float32).tiny))[None]
        files = np.array([file_name(str(name)) for name in saved["files"]])
        write_said(folder, Said(np.array(["end"]), logs, logs, saved["labels"].astype(np.int32), files))
    total = next((step["total_seconds"] for step in steps if "total_seconds" in step), None)
    record = {"asked": list(options), **measured, "own_seconds": total, "steps": [s for s in steps if "step" in s]}
    keep(folder, record)
    return record


def fastai_steps(text: str) -> list[dict[str, Any]]:
    """The JSON lines among what a program has printed."""
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


def parse_ablations(text: str) -> dict[str, list[str]]:
    """ "name=flags;name=flags" -> the flags of each."""
    found = {}
    for part in filter(None, (part.strip() for part in text.split(";"))):
        name, equals, flags = part.partition("=")
        if not equals or not re.fullmatch(r"[\w.+-]+", name) or name in ("ours", "fastai", "logistic") or name in found:
            raise SystemExit(f"error: ablations: {part!r} is not NAME=FLAGS with a name of its own")
        found[name] = shlex.split(flags)
    return found
