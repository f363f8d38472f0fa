"""Did a change of the code change what it computes? Three runs before it and after it, compared to the bit.

    python scripts/same_bits.py record BEFORE --package CHECKOUT     # of another checkout (git worktree add)
    python scripts/same_bits.py record AFTER
    python scripts/same_bits.py compare BEFORE AFTER

The runs: `jaxclf demo`; a `jaxclf fit` on photos (--data; the demo's drawings where there are none); and the same one
killed by SIGKILL in its last phase, then resumed. Compared are metrics.jsonl, predictions.npz and every parameter.
Only records of the same machine and versions can be equal.
"""

import argparse
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np

REPOSITORY = Path(__file__).resolve().parent.parent
PHOTOS = REPOSITORY.parent / "shared" / "data" / "dogscats"
FIT = ("--arch", "resnet10t", "--weights", "tiny-imagenet", "--image-size", "64", "--epochs", "3", "--batch-size", "32")
#: Run with the package that is recorded: every parameter of a run by its path.
PARAMETERS = """
import sys, jax, numpy, jaxclf
leaves, _ = jax.tree_util.tree_flatten_with_path(jaxclf.load_run(sys.argv[1]).variables)
numpy.savez(sys.argv[2], **{jax.tree_util.keystr(path): numpy.asarray(leaf) for path, leaf in leaves})
"""


def jaxclf(package: Path, *arguments: str, kill_at: Path | None = None) -> None:
    """Runs the command line of that checkout; kills it when `kill_at` appears."""
    environment = os.environ | {"PYTHONPATH": str(package), "PYTHONSAFEPATH": "1"}
    process = subprocess.Popen([sys.executable, "-m", "jaxclf", *arguments], env=environment, cwd="/")
    while kill_at is not None and process.poll() is None:
        if kill_at.exists():
            process.kill()
        time.sleep(0.02)
    code = process.wait()
    if kill_at is not None and code == 0:
        sys.exit(f"the run ended before {kill_at} was there to kill it")
    if kill_at is None and code != 0:
        sys.exit(f"jaxclf {' '.join(arguments)} failed with {code}")


def keep(package: Path, run: Path, to: Path) -> None:
    """What is compared of a run."""
    to.mkdir(parents=True)
    environment = os.environ | {"PYTHONPATH": str(package), "PYTHONSAFEPATH": "1"}
    command = [sys.executable, "-c", PARAMETERS, str(run), str(to / "parameters.npz")]
    subprocess.run(command, env=environment, check=True, cwd="/")
    for name in ("metrics.jsonl", "predictions.npz", "summary.json"):
        shutil.copy(run / name, to / name)


def record(folder: Path, package: Path, data: Path) -> None:
    """The three runs, below `folder`."""
    if folder.exists():
        sys.exit(f"{folder} exists already; remove it or give another folder")
    work = folder / "work"
    work.mkdir(parents=True)
    jaxclf(package, "demo", "--out", str(work / "demo"))
    keep(package, work / "demo" / "run", folder / "demo")
    photos = data if data.is_dir() else next((work / "demo").glob("drawings-*"))
    whole, killed = work / "whole", work / "killed"
    jaxclf(package, "fit", str(photos), "--out", str(whole), *FIT)
    keep(package, whole, folder / "fit")
    resumable = ("fit", str(photos), "--out", str(killed), *FIT, "--checkpoint-every", "0", "--resume")
    jaxclf(package, *resumable, kill_at=killed / "checkpoints" / "phase3-step7")
    jaxclf(package, *resumable)
    keep(package, killed, folder / "killed")
    shutil.rmtree(work)
    machine = {name: version(name) for name in ("jax", "jaxlib", "flax", "optax", "numpy", "pillow")}
    machine |= {"python": platform.python_version(), "machine": platform.machine()}
    (folder / "machine.json").write_text(json.dumps(machine, indent=1) + "\n")


def digest(path: Path) -> dict[str, str]:
    """Of each array of an .npz, or of a file."""
    if path.suffix != ".npz":
        return {"bytes": hashlib.sha256(path.read_bytes()).hexdigest()}
    with np.load(path, allow_pickle=False) as arrays:
        return {
            name: f"{value.dtype} {value.shape} {hashlib.sha256(value.tobytes()).hexdigest()}"
            for name, value in arrays.items()
        }


def compare(before: Path, after: Path) -> bool:
    """Prints a line for each run and file; True where all are equal."""
    machines = [json.loads((folder / "machine.json").read_text()) for folder in (before, after)]
    if machines[0] != machines[1]:
        print(f"the records are of different machines or versions: {machines[0]} and {machines[1]}")
    equal = True
    for run in ("demo", "fit", "killed"):
        for name in ("metrics.jsonl", "predictions.npz", "parameters.npz"):
            one, other = digest(before / run / name), digest(after / run / name)
            wrong = sorted(key for key in one.keys() | other.keys() if one.get(key) != other.get(key))
            equal = equal and not wrong
            verdict = f"{len(wrong)} of {len(one)} differ: {', '.join(wrong[:3])}" if wrong else f"{len(one)} equal"
            print(f"{run:8s} {name:16s} {verdict}")
    same = digest(after / "fit" / "parameters.npz") == digest(after / "killed" / "parameters.npz")
    print(f"killed and resumed ends like the run that was left alone: {'yes' if same else 'NO'}")
    return equal and same


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    recording = commands.add_parser("record")
    recording.add_argument("folder", type=Path)
    recording.add_argument("--package", type=Path, default=REPOSITORY, help="the checkout to record")
    recording.add_argument("--data", type=Path, default=PHOTOS)
    comparing = commands.add_parser("compare")
    comparing.add_argument("before", type=Path)
    comparing.add_argument("after", type=Path)
    args = parser.parse_args()
    if args.command == "record":
        record(args.folder.absolute(), args.package.absolute(), args.data.absolute())
    elif not compare(args.before, args.after):
        sys.exit(1)


if __name__ == "__main__":
    main()
