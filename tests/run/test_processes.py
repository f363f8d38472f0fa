"""Two processes and one with two devices give the same; where one dies, the other ends. See processes_script.py."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import pytest
from conftest import SUPPORT

import jaxclf
from jaxclf.run import processes as distributed
from jaxclf.run.checkpoint_file import load_variables

SCRIPT = SUPPORT / "processes_script.py"
#: Measured: the same to the bit, all of it. Elsewhere sums may be taken in another order.
TOLERANCE = 2e-6


class Ended(NamedTuple):
    """How a process ended: its exit code, what it wrote, and the seconds it lived on after the other."""

    code: int
    found: dict
    errors: str
    survived: float


class Run(NamedTuple):
    """Two processes, one that worked alone, which of the two died, and where their checkpoints are."""

    first: Ended
    second: Ended
    alone: Ended
    victim: int
    folder: Path


def start(folder, number, port, victim, mode):
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM", "JAX_"))}
    environment |= {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(Path(jaxclf.__file__).parents[1])}
    if port == "none":
        environment["XLA_FLAGS"] = f"{environment.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=2"
    command = [sys.executable, str(SCRIPT), str(folder), str(number), str(port), str(victim), mode]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def start_two(folder, victim, mode):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return [start(folder, number, port, victim, mode) for number in range(2)]


def end(processes, victim):
    """Waits for all, the victim first."""
    order = sorted(range(len(processes)), key=lambda number: number != victim)
    outputs, died = {}, 0.0
    try:
        for number in order:
            outputs[number] = processes[number].communicate(timeout=300)
            ended = time.monotonic()
            died = died or ended
            outputs[number] += (ended - died,)
    finally:
        for process in processes:
            process.kill()
    return [
        Ended(process.returncode, json.loads(lines[-1]) if (lines := _json(output)) else {}, errors, survived)
        for process, (output, errors, survived) in zip(processes, (outputs[n] for n in sorted(outputs)), strict=True)
    ]


def _json(output):
    return [line for line in output.splitlines() if line.startswith("{")]


@pytest.fixture(scope="module", params=["short", pytest.param("full", marks=pytest.mark.slow)])
def ended(request, tmp_path_factory):
    """Two that work until one dies, and one that did the same work by itself.

    In the short way process 0 dies, with which goes what JAX's processes meet at: then JAX itself aborts the others.
    """
    folder, victim = tmp_path_factory.mktemp("processes"), {"short": 0, "full": 1}[request.param]
    (alone,) = end([start(folder, 0, "none", -1, request.param)], 0)
    assert alone.code == 0, alone.errors
    return Run(*end(start_two(folder, victim, request.param), victim), alone, victim, folder)


def test_two_processes_do_what_one_with_two_devices_does(ended):
    """A fit, predictions, a checkpoint; if slow, also views, features, a head on them, a rate test, a sweep."""
    alone = ended.alone.found
    assert len(alone["losses"]) == 15
    for process in ended[:2]:
        assert process.found.keys() == alone.keys(), process.errors
        for name in alone.keys() - {"any", "writer"}:
            for got, wanted in zip(flat(process.found[name]), flat(alone[name]), strict=True):
                np.testing.assert_allclose(got, wanted, rtol=TOLERANCE, atol=TOLERANCE, err_msg=name)
        assert process.found["restored"] == process.found["variables"]


def flat(values):
    return [leaf for value in values for leaf in flat(value)] if isinstance(values, list) else [values]


def test_one_process_goes_on_from_the_checkpoint_of_two(ended):
    """Restored here, in this process, which is alone."""
    variables = load_variables(ended.folder / "of2")
    sums = [float(np.asarray(leaf, np.float64).sum()) for leaf in jax.tree.leaves(variables)]
    assert sums == [total for total, _ in ended.first.found["variables"]]


def test_every_process_has_all_predictions_in_the_sources_order(ended):
    for process in ended[:2]:
        assert process.found["predictions"][2] == [0, 1, 2, 3, 4]


def test_a_flag_of_one_is_known_to_all_and_one_process_writes(ended):
    assert [process.found["any"] for process in ended[:2]] == [[False, True, True]] * 2
    assert [process.found["writer"] for process in ended[:2]] == [True, False]


def last_line(process):
    return process.errors.strip().splitlines()[-1]


def test_where_one_process_dies_the_other_ends_with_a_line(ended):
    victim, survivor = ended[ended.victim], ended[1 - ended.victim]
    assert victim.code == -signal.SIGKILL and survivor.code not in (0, -signal.SIGKILL)
    assert survivor.survived < distributed.HEARTBEAT_SECONDS
    assert last_line(survivor).startswith("jaxclf: error:") and last_line(survivor).endswith(distributed.LOST)


def test_without_several_processes_nothing_happens(monkeypatch):
    for name in [name for name in os.environ if name.startswith(("SLURM", "OMPI", "JAX_COORD", "KUBERNETES"))]:
        monkeypatch.delenv(name)
    assert distributed.initialize(num_processes=1) is False
    assert distributed.any_process(True) is True and distributed.any_process(False) is False
    assert distributed.is_writer() and not distributed.lost_process(ValueError("gloo"))
    distributed.finish()
    with pytest.raises(SystemExit) as left:
        distributed.leave(3)
    assert left.value.code == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("host", 2, 0), "coordinator='host' must be HOST:PORT"),
        (("host:1", 0, 0), "num_processes=0"),
        (("host:1", 2, 2), r"process_id=2 must lie in 0 \.\. 1"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        distributed.initialize(*arguments)


def test_a_lost_process_is_seen_behind_what_failed_by_it(monkeypatch, capsys):
    """A checkpoint may be the first to notice, as an OSError: the witness has the last word then."""
    from jaxclf import cli

    try:
        try:
            raise RuntimeError("Barrier failed because: Task 1 heartbeat timeout")
        except RuntimeError as error:
            raise OSError("checkpoint a cannot be written: Barrier failed") from error
    except OSError as error:
        behind = error
    assert not distributed.lost_process(behind), "there is only one process"
    monkeypatch.setattr(distributed, "_witness", object())
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    assert distributed.lost_process(behind)
    assert not distributed.lost_process(OSError("checkpoint a cannot be written: No space left on device"))

    def leave(code, *, lost=False):
        raise SystemExit(f"{code} {lost}")

    def failing(*arguments):
        raise behind

    monkeypatch.setattr(distributed, "leave", leave)
    monkeypatch.setattr("jaxclf.cli.usage.parse", failing)
    with pytest.raises(SystemExit, match="1 True"):
        cli.main(["demo"])
    assert capsys.readouterr().err == ""
