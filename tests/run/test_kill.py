"""kill -9 at random moments of a run; resumed, it ends with the same bits."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from same_run import SHORT, WHOLE, assert_same_run

from jaxclf.config import Recipe, to_json
from jaxclf.run.folder import SUMMARY
from jaxclf.run.run import run_recipe

KILLS = 20


def start(data: Path, out: Path, recipe: Path) -> subprocess.Popen:
    """`jaxclf fit ... --resume` as a process of its own, with a checkpoint at every boundary."""
    command = [sys.executable, "-m", "jaxclf", "fit", str(data), "--out", str(out), "--recipe", str(recipe)]
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    return subprocess.Popen(
        [*command, "--resume", "--checkpoint-every", "0"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        env=environment, text=True,
    )  # fmt: skip


def finish(process: subprocess.Popen) -> str:
    said, _ = process.communicate(timeout=600)
    assert process.returncode == 0, said
    return said


def kill_after(process: subprocess.Popen, seconds: float) -> str:
    """Kills it then, unless it has ended; returns what it said until then."""
    try:
        said, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        said, _ = process.communicate()
        assert process.returncode == -signal.SIGKILL
    return said


def undisturbed(photos: Path, folder: Path, recipe: Recipe) -> tuple[Path, Path, float]:
    """The recipe's file, the run that nobody killed, and how long one takes."""
    path = folder / "recipe.json"
    path.write_text(to_json(recipe))
    finish(start(photos, folder / "warm", path))  # compiles
    started = time.perf_counter()
    finish(start(photos, folder / "undisturbed", path))
    return path, folder / "undisturbed", time.perf_counter() - started


def test_killed_in_the_middle(photos, tmp_path):
    """Once, of a short run, when its first checkpoint is there: the parent's figures are those of its own process."""
    path = tmp_path / "recipe.json"
    path.write_text(to_json(SHORT))
    run_recipe(photos, tmp_path / "undisturbed", SHORT)
    process = start(photos, tmp_path / "run", path)
    deadline = time.monotonic() + 300
    while not (tmp_path / "run" / "checkpoints" / "phase1-epoch1").exists() and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    kill_after(process, 0)
    if not (tmp_path / "run" / SUMMARY).exists():
        finish(start(photos, tmp_path / "run", path))
    assert_same_run(tmp_path / "undisturbed", tmp_path / "run")


@pytest.mark.slow
def test_killed_at_random_moments(photos, tmp_path):
    """From start-up to the report; the seed is printed, and where each kill fell."""
    path, baseline, seconds = undisturbed(photos, tmp_path, WHOLE)
    seed = int(os.environ.get("JAXCLF_KILL_SEED", time.time_ns() % 10**6))
    print(f"JAXCLF_KILL_SEED={seed}; a run takes {seconds:.1f} s", flush=True)
    moments = random.Random(seed)
    for number in range(KILLS):
        out = tmp_path / f"run{number}"
        # One in each twentieth of the time a run takes, so that every stage has its turn.
        moment = seconds * (number + moments.random()) / KILLS
        said = kill_after(start(photos, out, path), moment).strip().splitlines()
        files = (
            sorted(entry.name for entry in (out / "checkpoints").iterdir()) if (out / "checkpoints").exists() else []
        )
        again = finish(start(photos, out, path))
        resumed = next(
            (line for line in again.splitlines() if line.startswith("resuming")), "begun anew, or finished already"
        )
        assert_same_run(baseline, out)
        last = said[-1] if said else "nothing"
        print(
            f"kill {number + 1:2d} after {moment:5.2f} s: {last!r}; {files}; {resumed.rpartition(': ')[2]}", flush=True
        )
        assert json.loads((out / SUMMARY).read_text())["num_classes"] == 2
