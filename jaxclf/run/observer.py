"""Ctrl-C and SIGTERM, at a moment that suits the work."""

import contextlib
import signal
import sys
import threading
import types
from collections.abc import Iterator

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
