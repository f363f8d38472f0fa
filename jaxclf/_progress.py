"""How far something has come: one callable for everything that takes a while, `on_progress(done, total)`."""

from collections.abc import Callable

#: Called with (done, in all), from the thread that does the work.
OnProgress = Callable[[int, int], None]


def silent(done: int, total: int) -> None:
    """For whoever does not want to know."""


def within(on_progress: OnProgress | None, before: int, total: int) -> OnProgress:
    """The progress of a part, told as that of a whole: `before` are done when the part begins, `total` are all.

    >>> within(lambda done, total: print(f"{done} of {total}"), 10, 30)(5, 20)
    15 of 30
    """
    if on_progress is None:
        return silent
    return lambda done, _: on_progress(before + done, total)
