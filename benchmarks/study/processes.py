"""A training in a process of its own: its seconds, what else the machine did meanwhile, and a record that is kept.

A turn has a folder. The record is written last, so a turn that has one is finished and is not run again; its side's
folder is deleted to have it run anew.
"""

import contextlib
import datetime
import json
import os
import resource
import shlex
import subprocess
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness import load

from jaxclf._files import write_atomic

RECORD = "record.json"
#: Of this process: seconds of two turns can be compared where it is the same.
INVOCATION = uuid.uuid4().hex[:8]
#: Cores that others kept busy, above which a turn's seconds are not to be trusted.
DISTURBED = 0.15


def finished(folder: Path, asked: Sequence[str]) -> dict[str, Any] | None:
    """The record of a turn that has ended, if it was asked the same."""
    if not (folder / RECORD).is_file():
        return None
    record: dict[str, Any] = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    if record["asked"] != list(asked):
        raise SystemExit(
            f"error: {folder} was run with `{shlex.join(record['asked'])}`, not `{shlex.join(asked)}`: delete "
            f"{folder.parent}, or choose another --set out"
        )
    return record


def keep(folder: Path, record: Mapping[str, Any]) -> None:
    """Ends a turn."""
    write_atomic(folder / RECORD, json.dumps(record, indent=1) + "\n")


def run_process(
    command: Sequence[str], log: Path, environment: Mapping[str, str | None], threads: int
) -> dict[str, Any]:
    """Runs a program to its end on `threads` cores, its output in `log`; times and load, for the record.

    `environment` changes this process's own; None takes a variable away.

    Raises:
      RuntimeError: with the log's last line, if the program fails.
    """
    changed = {**os.environ, **environment}
    variables = {name: value for name, value in changed.items() if value is not None}
    before, started = load(), datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    busy, own, clock = _machine_seconds(), _child_seconds(), time.perf_counter()
    with open(log, "w", encoding="utf-8") as file, _cores(threads):
        status = subprocess.run(command, env=variables, stdout=file, stderr=subprocess.STDOUT, check=False).returncode
    seconds = time.perf_counter() - clock
    own, after = _child_seconds() - own, _machine_seconds()
    if status:
        last = log.read_text(encoding="utf-8", errors="replace").strip().rpartition("\n")[-1]
        raise RuntimeError(f"{Path(command[0]).name} ended with {status}, see {log}: {last}")
    return {
        "seconds": seconds,
        "processor": own,
        "other_cores": None if busy is None or after is None else max((after - busy - own) / seconds, 0.0),
        "load_before": before,
        "started": started,
        "invocation": INVOCATION,
    }


@contextlib.contextmanager
def _cores(number: int) -> Iterator[None]:
    """Programs started within see no more than so many cores, where the system can do that."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    all_cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(all_cores)[:number])
    try:
        yield
    finally:
        os.sched_setaffinity(0, all_cores)


def _child_seconds() -> float:
    """Processor seconds of this process's children that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _machine_seconds() -> float | None:
    """Processor seconds of everything on this machine; None where it does not say."""
    path = Path("/proc/stat")
    if not path.exists():
        return None
    user, nice, system, _, _, irq, soft, *_ = map(int, path.read_text().split("\n", 1)[0].split()[1:])
    return (user + nice + system + irq + soft) / os.sysconf("SC_CLK_TCK")
