"""`jaxclf fit` on several devices and in several processes: the same figures, and runs that go on with fewer."""

import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
import same_run

from jaxclf.config import Phase, Recipe, to_json
from jaxclf.run.recipes import BODY
from jaxclf.run.run import run_recipe

SOLVED = Phase("solved", (0.0,), frozen=BODY, cut="pooled", num_views=2, solve=True)
#: With a batch that eight devices can share, and then a head that is solved on a bank.
SHORT = Recipe(dataclasses.replace(same_run.SETTINGS, batch_size=8), (*same_run.SHORT.phases, SOLVED))


@pytest.fixture(scope="module")
def recipe_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("recipe") / "recipe.json"
    path.write_text(to_json(SHORT))
    return path


@pytest.fixture(scope="module")
def on_one(photos, tmp_path_factory):
    """The run of one process on one device."""
    out = tmp_path_factory.mktemp("devices") / "one"
    run_recipe(photos, out, SHORT)
    return out


def start(photos, out, recipe_file, *flags, devices=1):
    xla = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    environment = os.environ | {"XLA_FLAGS": xla}
    command = [sys.executable, "-m", "jaxclf", "fit", str(photos), "--out", str(out), "--recipe", str(recipe_file)]
    return subprocess.Popen(
        [*command, "--checkpoint-every", "0", *flags], env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def start_two(photos, out, recipe_file):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    flags = ("--coordinator", f"127.0.0.1:{port}", "--num-processes", "2", "--process-id")
    return [start(photos, out, recipe_file, *flags, str(number)) for number in (0, 1)]


def wait_for(path, processes):
    deadline = time.monotonic() + 300
    while not path.exists():
        assert time.monotonic() < deadline and all(process.poll() is None for process in processes)
        time.sleep(0.01)


def assert_close(one, other):
    """The same loss, predictions and steps but for rounding."""
    first, second = (json.loads((run / "summary.json").read_text()) for run in (one, other))
    assert first["loss"] == pytest.approx(second["loss"], rel=1e-4)
    for one_step, other_step in zip(first["steps"], second["steps"], strict=True):
        assert (one_step["name"], one_step["kept"]) == (other_step["name"], other_step["kept"])
        assert one_step.get("solved", {}).get("ridge") == other_step.get("solved", {}).get("ridge")
        assert one_step["loss"] == pytest.approx(other_step["loss"], rel=1e-3)
    with np.load(one / "predictions.npz") as ours, np.load(other / "predictions.npz") as theirs:
        np.testing.assert_allclose(ours["logits"], theirs["logits"], rtol=1e-3, atol=1e-4)
        np.testing.assert_array_equal(ours["index"], theirs["index"])


def test_killed_on_eight_devices_it_ends_on_one(photos, tmp_path, recipe_file, on_one):
    """The kill comes after the first epoch; a run on one device goes on from what eight had learnt."""
    out = tmp_path / "run"
    process = start(photos, out, recipe_file, devices=8)
    wait_for(out / "checkpoints" / "phase1-epoch1", [process])
    process.kill()
    process.communicate()
    notes = []
    if not (out / "summary.json").exists():
        from jaxclf.run.observer import Observer

        observer = Observer()
        observer.note = notes.append
        run_recipe(photos, out, SHORT, resume=True, observer=observer)
        assert any("hardware was cpu x 8" in note for note in notes)
    assert_close(on_one, out)


def test_two_processes_make_one_run(photos, tmp_path, recipe_file, on_one):
    out = tmp_path / "run"
    processes = start_two(photos, out, recipe_file)
    said = [process.communicate(timeout=300) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    assert "epoch  2" in said[0][0] and "report.html" in said[0][0]
    assert "epoch" not in said[1][0]  # only process 0 tells; Gloo has a line of its own
    assert_close(on_one, out)
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows if row["kind"] == "epoch"] == [0, 1]  # each written once


@pytest.mark.parametrize("victim", [0, 1])
def test_one_process_dies_and_the_run_goes_on_in_one(photos, tmp_path, recipe_file, on_one, victim):
    """The other ends, and says so in one line."""
    out = tmp_path / "run"
    processes = start_two(photos, out, recipe_file)
    wait_for(out / "checkpoints" / "phase1-epoch1", processes)
    processes[victim].send_signal(signal.SIGKILL)
    _, errors = processes[1 - victim].communicate(timeout=300)  # until its witness has spoken too
    processes[victim].communicate()
    assert processes[1 - victim].returncode not in (0, None)
    assert "Go on from the last checkpoint with --resume" in errors, errors
    run_recipe(photos, out, SHORT, resume=True)
    assert_close(on_one, out)


def test_devices_that_cannot_share_a_batch_are_refused(photos, tmp_path):
    from commands import run

    process = start(photos, tmp_path / "run", "eight-steps", "--weights", "none", "--batch-size", "10", devices=8)
    _, error = process.communicate(timeout=300)
    assert process.returncode == 1 and "batch_size=10 cannot be divided evenly among 8 devices; take 8 or 16" in error
    assert run("fit", photos, "--out", tmp_path / "run", "--devices", "0") == 2
    assert run("fit", photos, "--out", tmp_path / "run", "--process-id", "0") == 2
    assert not (tmp_path / "run").exists()
