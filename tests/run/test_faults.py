"""What can go wrong under a run: each ends with one message, and the last good checkpoint is as it was.

The faults are real: limits, mounts and missing files, and nothing of jaxclf is replaced.
"""

import contextlib
import dataclasses
import os
import resource
import subprocess
import sys

import pytest
from same_run import SHORT, WHOLE, assert_same_run

from jaxclf.config import Recipe, to_json
from jaxclf.run.checkpoint_file import load_part
from jaxclf.run.observer import Observer
from jaxclf.run.run import run_recipe


class At(Observer):
    """Calls `fault` after the first epoch."""

    def __init__(self, fault):
        self.fault = fault

    def epoch(self, row):
        if row["epoch"] == 0:
            self.fault()


def fails(photos, out, recipe, fault, *words):
    """Runs into the fault; returns the message, which says where to go on."""
    with pytest.raises((ValueError, OSError)) as error:
        run_recipe(photos, out, recipe, observer=At(fault), checkpoint_every=0)
    message = str(error.value)
    for word in (*words, "--resume"):
        assert word in message, message
    assert "\n" not in message
    return message


@contextlib.contextmanager
def file_limit(most):
    """No file of this process may grow beyond `most` bytes: writing fails with the system's own error."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        yield lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (most, before[1]))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_file_that_cannot_grow(photos, tmp_path):
    """The next checkpoint cannot be written; the last one is whole, and the run goes on from it."""
    run_recipe(photos, tmp_path / "undisturbed", SHORT)
    with file_limit(20_000) as fault:
        fails(photos, tmp_path / "run", SHORT, fault, "cannot be written", "File too large")
    run_recipe(photos, tmp_path / "run", SHORT, resume=True)
    assert_same_run(tmp_path / "undisturbed", tmp_path / "run")


@pytest.fixture
def small_disk(tmp_path):
    """A file system of its own of 100 MB, where this process may mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=100m", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(command, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        mounted = False
    if not mounted:
        pytest.skip("needs the right to mount a file system")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk(photos, small_disk, tmp_path):
    filler = small_disk / "filler"

    def fill():
        with contextlib.suppress(OSError), open(filler, "wb", buffering=0) as file:
            while True:
                file.write(bytes(1 << 16))

    message = fails(photos, small_disk / "run", SHORT, fill, "No space left on device")
    assert "phase1-epoch1" in message or "No checkpoint" in message
    filler.unlink()
    run_recipe(photos, small_disk / "run", SHORT, resume=True)
    run_recipe(photos, tmp_path / "undisturbed", SHORT)
    assert_same_run(tmp_path / "undisturbed", small_disk / "run")


def test_a_run_folder_that_turns_read_only(photos, small_disk, tmp_path):
    def remount(mode="ro"):
        subprocess.run(["mount", "-o", f"remount,{mode}", str(small_disk)], check=True)

    fails(photos, small_disk / "run", SHORT, remount, "Read-only file system")
    with pytest.raises(ValueError, match="cannot be written"):
        run_recipe(photos, small_disk / "run", SHORT, resume=True)
    remount("rw")
    run_recipe(photos, small_disk / "run", SHORT, resume=True)
    run_recipe(photos, tmp_path / "undisturbed", SHORT)
    assert_same_run(tmp_path / "undisturbed", small_disk / "run")


def test_a_picture_that_vanishes(photos, tmp_path):
    """Pictures are read anew in every epoch here; the one that is gone is named, and what was learnt is kept."""
    import shutil

    data = shutil.copytree(photos, tmp_path / "photos")
    phase = dataclasses.replace(WHOLE.phases[0], cut=None, augment="none", lr_from="given")
    settings = dataclasses.replace(WHOLE.settings, cache="none", weights="none", tta_views=0)
    recipe = Recipe(settings, (phase,))
    victim = data / "train" / "red" / "003.png"
    content = victim.read_bytes()
    message = fails(data, tmp_path / "run", recipe, victim.unlink, str(victim), "phase1-epoch1")
    assert load_part(tmp_path / "run" / "checkpoints" / "phase1-epoch1", "variables") is not None
    with pytest.raises(ValueError, match="1 pictures have other contents|are gone"):
        run_recipe(data, tmp_path / "run", recipe, resume=True)
    victim.write_bytes(content)
    run_recipe(data, tmp_path / "run", recipe, resume=True)
    assert "--resume" in message


def test_out_of_memory(photos, tmp_path):
    """The address space of the process is limited, and the batch is far too large for it."""
    path = tmp_path / "recipe.json"
    path.write_text(to_json(Recipe(dataclasses.replace(SHORT.settings, image_size=512, batch_size=512), SHORT.phases)))
    program = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30)); "
        "from jaxclf.cli import main; main(sys.argv[1:])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "fit", str(photos), "--out", str(tmp_path / "run"), "--recipe", str(path)],
        capture_output=True, text=True, timeout=300, env=os.environ,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert "out of memory with batch_size=512 at image_size=512" in last and "--accumulate 2" in last
