"""Several processes in one run: each reads its part of every batch and computes on its own devices; process 0 writes.

A process that dies takes the others along: they wait for its numbers. What is left is one line that says so and the
last checkpoint, from which the run goes on with any number of processes.
"""

import os
import subprocess
import sys
from typing import Any, NoReturn

#: A process that has not been heard of for so long counts as dead, and the others end. One whose connection is closed
#: (killed, out of memory, machine gone down in good order) is missed at once where collectives run over TCP.
HEARTBEAT_SECONDS = 60
#: How long processes wait for each other to start, and at the end (for what process 0 still has to write).
START_SECONDS, END_SECONDS = 300, 3600
LOST = (
    "the run ended, as one of its processes died or cannot be reached: this one, or another, whose own last message or "
    "machine's log says why. Go on from the last checkpoint with --resume, with as many processes as you like"
)
#: Waits for its input to close. A process that ends in good order says so first; else the line is printed.
_WITNESS = "import sys; said = sys.stdin.buffer.read(); said or sys.stderr.write(sys.argv[1])"

_witness: subprocess.Popen[bytes] | None = None


def initialize(coordinator: str | None = None, num_processes: int | None = None, process_id: int | None = None) -> bool:
    """Joins the processes of this run, before anything is computed: the first call that touches JAX.

    Without arguments, the environment is asked in the ways that JAX knows: SLURM, Open MPI, a TPU pod, Kubernetes.
    Where it says nothing of several processes, nothing happens.

    JAX's own handler of SIGTERM is left out, so that the signal reaches whoever installs one; see `any_process`.

    Args:
      coordinator: HOST:PORT of process 0, on which that port is free. It sees all who come, so let it be a private
        network's.
      num_processes, process_id: how many there are, and which this is, from 0; both are needed with a coordinator
        unless the environment tells.

    Returns:
      Whether there are several processes.

    Raises:
      ValueError: for arguments that are incomplete, or other processes that do not come within five minutes.
    """
    import jax

    _check(coordinator, num_processes, process_id)
    if num_processes == 1:
        return False
    jax.config.update("jax_enable_preemption_service", False)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    try:
        jax.distributed.initialize(
            coordinator,
            num_processes,
            process_id,
            initialization_timeout=START_SECONDS,
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
            shutdown_timeout_seconds=END_SECONDS,
        )
    except (ValueError, RuntimeError) as error:
        if coordinator is None and "coordinator_address should be defined" in str(error):
            return False
        what = f"coordinator={coordinator!r}, num_processes={num_processes}, process_id={process_id}"
        raise ValueError(f"the processes of this run did not come together ({what}): {_first_line(error)}") from error
    if jax.process_count() == 1:
        return False
    _call_witness(f"process {jax.process_index()} of {jax.process_count()}")
    return True


def is_writer() -> bool:
    """Whether this process writes the run's files: process 0 does."""
    import jax

    return jax.process_index() == 0


def any_process(flag: bool) -> bool:
    """Whether the flag is set in any process. All have to call it, at the same point of the run; each waits for all."""
    import jax

    if jax.process_count() == 1:
        return flag
    import numpy as np
    from jax.experimental import multihost_utils

    return bool(np.asarray(multihost_utils.process_allgather(np.asarray(flag))).any())


def lost_process(error: BaseException) -> bool:
    """Whether an error that JAX raised, or one that it is the cause of, says that another process has gone."""
    if _witness is None:
        return False
    import jax

    while error.__cause__ is not None:  # a checkpoint that could not be written may be the first to notice
        error = error.__cause__
    signs = ("gloo", "nccl", "coordination", "connection reset", "connection closed", "heartbeat")
    return jax.process_count() > 1 and any(sign in str(error).lower() for sign in signs)


def finish() -> None:
    """Ends a run that went well: waits for all processes to get here. Without several, does nothing."""
    if _witness is not None:
        import jax

        jax.distributed.shutdown()
        _dismiss()


def leave(code: int, *, lost: bool = False) -> NoReturn:
    """Ends this process after an error, with this exit code.

    With several processes at once and without waiting for the others: these end because this one is gone. What went
    wrong has been printed; or another process was `lost`, and then the last line, which says so, appears by itself,
    whether Python or JAX's C++ was the first to notice.
    """
    several = _witness is not None
    if not lost:
        _dismiss()
    if several:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def _check(coordinator: str | None, num_processes: int | None, process_id: int | None) -> None:
    if coordinator is not None and not coordinator.rpartition(":")[2].isdigit():
        raise ValueError(f"coordinator={coordinator!r} must be HOST:PORT of process 0")
    if num_processes is not None and num_processes < 1:
        raise ValueError(f"num_processes={num_processes} must be at least 1")
    if process_id is not None and not 0 <= process_id < (num_processes or sys.maxsize):
        raise ValueError(f"process_id={process_id} must lie in 0 .. {(num_processes or sys.maxsize) - 1}")


def _call_witness(who: str) -> None:
    """Starts a process that prints the last line if this one is ended by the C++ of JAX, which cannot be caught."""
    global _witness
    line = f"jaxclf: error: {who}: {LOST}\n"
    _witness = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", _WITNESS, line], stdin=subprocess.PIPE, start_new_session=True
    )


def _dismiss() -> None:
    """Tells the witness that there is nothing to say."""
    global _witness
    witness, _witness = _witness, None
    if witness is not None:
        witness.communicate(b".")


def _first_line(error: Any) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
