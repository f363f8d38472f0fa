"""`jaxclf report RUN [DATA]`: the page of a finished run, made anew."""

import functools
from typing import Annotated

import tyro

from jaxclf.cli.arguments import RunArgument, Work, positional


def report(
    run: RunArgument,
    data: Annotated[str | None, tyro.conf.Positional, positional("DATA")] = None,
    /,
    check: bool = False,
) -> Work:
    """Write report.html of a finished run: figures, curves, mistakes. It opens from disk and needs no network.

    Example: jaxclf report runs/photos photos

    Args:
      run: the RUN folder; its report.html is replaced.
      data: the photos that the run was trained on, as for fit; without them the report shows no pictures.
      check: also look at every photo of DATA, as `jaxclf check` does, and report what is wrong with it.
    """
    return functools.partial(_report, run, data, check)


def _report(run: str, data: str | None, check: bool) -> int:
    from jaxclf.cli.arguments import UsageError
    from jaxclf.cli.terminal import Terminal
    from jaxclf.data.check import check_listing
    from jaxclf.data.records import list_data
    from jaxclf.report import write_report

    if check and data is None:
        raise UsageError("--check needs DATA: name it after RUN")
    terminal, found = Terminal(), None
    if check and data is not None:
        listing = list_data(data)
        with terminal.task("checking", len(listing.records)) as progress:
            found = check_listing(listing, data=data, on_progress=progress)
    terminal.note(f"wrote {write_report(run, data=data, check=found)}")
    return 0
