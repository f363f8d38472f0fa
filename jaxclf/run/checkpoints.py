"""A run's checkpoints: at the end of each phase and cycle, every so many minutes, and when the run is asked to stop."""

import contextlib
import shutil
import signal
import time
from pathlib import Path
from typing import Any, NoReturn

import jax

from jaxclf.run.checkpoint_file import PendingCheckpoint, start_checkpoint
from jaxclf.run.folder import CHECKPOINTS, metrics_size
from jaxclf.run.observer import Interrupted, StopSignals
from jaxclf.run.processes import any_process, is_writer
from jaxclf.run.run_state import RunState
from jaxclf.run.snapshots import snapshot_parts
from jaxclf.training.events import ZERO, Best, Epoch, Event, Snapshot, Step
from jaxclf.training.state import TrainState

#: Checkpoints from within phases that a run keeps, beside the one with the lowest validation loss of each phase.
MAX_SNAPSHOTS = 3
#: Several processes ask each other every so many steps whether to stop or to write a checkpoint.
AGREE_EVERY = 10
#: Ends the name of a checkpoint that is being removed.
REMOVED = ".partial"


def phase_path(folder: Path, number: int) -> Path:
    """The checkpoint of what phase `number`, counted from 0, ended with."""
    return folder / CHECKPOINTS / f"phase{number + 1}"


class Keeper:
    """Writes a run's checkpoints in the background, one at a time, and removes old ones when a newer one is complete.

    Args:
      folder: the RUN folder.
      metadata: what every checkpoint says: `classifier` and `data`.
      every: minutes after which a checkpoint is due, inside a phase; 0 makes one after every step.
      stop: asked at every boundary whether to end.
    """

    def __init__(self, folder: Path, metadata: dict[str, Any], *, every: float, stop: StopSignals | None = None):
        self.folder, self.metadata, self.every = folder, metadata, every
        self.stop = stop
        self.latest: Path | None = None
        self._pending: PendingCheckpoint | None = None
        self._snapshots: list[tuple[int, float | None, Path]] = []  # phase, validation loss, where
        self._time = time.monotonic()

    def adopt(self, path: Path, snapshots: list[tuple[int, float | None, Path]]) -> None:
        """Goes on from a checkpoint `path` that an earlier process wrote, with the `snapshots` that it left."""
        self.latest, self._snapshots = path, snapshots

    def at(self, run: RunState, event: Event) -> None:
        """Writes a checkpoint if one is due after this event of the phase under way; its end is not for `at` to keep.

        Raises:
          Interrupted: after writing one, if the run is asked to stop.
        """
        if event.ends_epoch if isinstance(event, Step) else event.last:
            return
        asked, due = self._wanted(event)
        if not asked and not due:
            return
        place = f"epoch{event.epoch + 1}" if isinstance(event, Epoch) else f"step{event.step}"
        path = self.folder / CHECKPOINTS / f"phase{run.number + 1}-{place}"
        loss = event.figures.get("valid_loss") if isinstance(event, Epoch) else None
        self._write(path, run, run.number, event.snapshot(), valid_loss=loss)
        self._snapshots.append((run.number, loss, path))
        if asked:
            self._stop(f"stopped at step {event.step} of phase {run.phase.name!r}")

    def _wanted(self, event: Event) -> tuple[bool, bool]:
        """Whether the run is asked to stop, and whether a checkpoint is due; several processes agree, now and then."""
        asked = self.stop is not None and self.stop.requested is not None
        due = time.monotonic() - self._time >= 60.0 * self.every
        if jax.process_count() > 1:
            if isinstance(event, Step) and event.step % AGREE_EVERY:
                return False, False
            asked, due = any_process(asked), any_process(due)
        return asked, due or (isinstance(event, Epoch) and event.figures["cycle_end"])

    def phase_end(self, run: RunState, number: int, phase_epoch: int, state: TrainState) -> None:
        """Keeps what phase `number` ended with, which `run` has gone past."""
        path = phase_path(self.folder, number)
        self._write(path, run, number, Snapshot(state, phase_epoch, 0, ZERO, Best()), ended=True)

    def stop_if_asked(self, message: str) -> None:
        """Waits for the last checkpoint and raises Interrupted, with this message, if the run is asked to stop."""
        if any_process(self.stop is not None and self.stop.requested is not None):
            self._stop(message)

    def _stop(self, message: str) -> NoReturn:
        self.wait()
        number = (self.stop and self.stop.requested) or signal.SIGTERM  # it may have come to another process
        raise Interrupted(number, message)

    def last_good(self) -> str:
        """A sentence about the newest checkpoint."""
        with contextlib.suppress(OSError):
            self.wait()
        return "No checkpoint was written yet" if self.latest is None else f"The last good checkpoint is {self.latest}"

    def wait(self) -> None:
        """Returns when the last checkpoint is there whole. Raises OSError, naming it, if it could not be written."""
        pending, self._pending = self._pending, None
        if pending is not None:
            self.latest = pending.result()
            self._prune()

    def _write(
        self,
        path: Path,
        run: RunState,
        number: int,
        snapshot: Snapshot,
        *,
        valid_loss: float | None = None,
        ended: bool = False,
    ) -> None:
        self.wait()
        phases = run.recipe.phases
        progress = {
            "phase_number": number,
            "phase": phases[number].name,
            "phase_epoch": snapshot.epoch,
            "epoch": sum(phase.num_epochs for phase in phases[:number]) + snapshot.epoch,
            "step": int(snapshot.state.step),
            "seed": run.recipe.settings.seed,
        }
        place, extra = ({"snapshot": None}, {}) if ended else snapshot_parts(snapshot)
        record = run.to_dict() | {"metrics_size": metrics_size(self.folder), "valid_loss": valid_loss}
        if run.latest is not None:
            extra["latest_predictions"] = run.latest.arrays()
        metadata = {**self.metadata, **place, "progress": progress, "run": record}
        self._pending = start_checkpoint(path, snapshot.state, metadata, extra=extra)
        self._time = time.monotonic()

    def _prune(self) -> None:
        """Removes all but the last few snapshots and the best of each phase."""
        best: dict[int, float] = {}
        for number, loss, _ in self._snapshots:
            if loss is not None:
                best[number] = min(loss, best.get(number, loss))
        for entry in self._snapshots[:-MAX_SNAPSHOTS]:
            number, loss, path = entry
            if loss is None or loss != best[number]:
                if is_writer():
                    remove_checkpoint(path)
                self._snapshots.remove(entry)


def remove_checkpoint(path: Path) -> None:
    """Removes a checkpoint; a process that dies meanwhile leaves nothing that looks like one."""
    if path.exists():
        gone = path.with_name(path.name + REMOVED)
        shutil.rmtree(gone, ignore_errors=True)
        path.rename(gone)
        shutil.rmtree(gone)
