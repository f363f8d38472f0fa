"""Who watches a run: what it tells while it goes, and the signals that ask it to end."""

import contextlib
import signal
import sys
import threading
import types
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # a signal must find its handler before JAX is imported
    from jaxclf.config import Phase
    from jaxclf.training.events import Event, Row

#: What asks a process to end: Ctrl-C; what schedulers send before they kill.
SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(BaseException):
    """The work was asked to end, by signal number `signum`. Like KeyboardInterrupt no `Exception`."""

    def __init__(self, signum: int, message: str = "interrupted"):
        super().__init__(message)
        self.signum = signum


class StopSignals:
    """While it is entered, the first of `SIGNALS` raises `Interrupted`; inside `deferred()` it is only remembered.

    A second signal raises in any case. Outside the main thread, where Python has no signals, nothing is changed.

    Attributes:
      requested: the signal that came inside `deferred()`, or None.
    """

    def __init__(self) -> None:
        self.requested: int | None = None
        self._deferred = False
        self._before: dict[int, object] = {}

    def __enter__(self) -> "StopSignals":
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._handle) for number in SIGNALS}
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]  # what signal.signal gave

    def _handle(self, signum: int, frame: types.FrameType | None) -> None:
        if not self._deferred or self.requested is not None:
            raise Interrupted(signum)
        self.requested = signum
        sys.stderr.write("\njaxclf: finishing this step and saving; once more to stop at once\n")

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        """Inside, whoever works looks at `requested` when it can stop; at the end it is raised if nobody did."""
        self._deferred = True
        try:
            yield
        finally:
            self._deferred = False
        if self.requested is not None:
            raise Interrupted(self.requested)


class Observer:
    """What a run tells while it goes. This one is silent; the command line has one that draws progress bars."""

    def note(self, text: str) -> None:
        """A line about what was decided."""

    @contextlib.contextmanager
    def task(self, description: str, total: int) -> Iterator[Callable[[int, int], None]]:
        """Something that takes a while; the yielded function is called with (done, total)."""
        yield lambda done, total: None

    @contextlib.contextmanager
    def phase(self, phase: "Phase", number: int, num_phases: int) -> "Iterator[Callable[[Event], None]]":
        """A phase of training; the yielded function is called with each of its events."""
        yield lambda event: None

    def epoch(self, row: "Row") -> None:
        """An epoch ended."""
