"""`jaxclf report RUN [DATA]`: the page of a finished run, made anew."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from jaxclf.cli.arguments import RunArgument, UsageError, command

if TYPE_CHECKING:
    from jaxclf.cli.terminal import Terminal
    from jaxclf.data.check import report as check_report

#: A run's report checks its photos by itself up to so many: about 3 ms each and core, for photos of 500 pixels.
MAX_CHECKED = 5000


@command
class Report:
    """Write report.html of a finished run: figures, curves, mistakes. It opens from disk and needs no network.

    Example: jaxclf report runs/photos photos

    Attributes:
      run: the RUN folder; its report.html is replaced.
      data: the photos that the run was trained on, as for fit; without them the report shows no pictures.
      check: also look at every photo of DATA, as `jaxclf check` does, and report what is wrong with it.
    """

    run: RunArgument
    data: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="DATA")] = None
    check: bool = False

    def __call__(self) -> int:
        from jaxclf.cli.terminal import Terminal
        from jaxclf.report import write_report

        if self.check and self.data is None:
            raise UsageError("--check needs DATA: name it after RUN")
        terminal = Terminal()
        found = check_for_report(self.run, self.data, terminal) if self.check and self.data is not None else None
        with terminal.task("writing the report", 1) as progress:
            path = write_report(self.run, data=self.data, check=found, on_progress=progress)
        terminal.note(f"wrote {path}")
        return 0


def make_report(
    out: str | os.PathLike[str], data: str | os.PathLike[str], terminal: "Terminal", *, apart: bool = False
) -> None:
    """The report at the end of a run, data check included. What fails here is a warning: the run is done and stays.

    Args:
      out: the finished RUN.
      data: DATA of the run. With more than `MAX_CHECKED` pictures the check is left out, and a line says so.
      terminal: where progress and warnings go.
      apart: in a process of its own, on the CPU: one of several processes cannot read a checkpoint by itself.
    """
    from jaxclf.report import write_report

    found, later = None, f"`jaxclf report {out} {data} --check` does it"
    try:
        found = check_for_report(out, data, terminal, limit=MAX_CHECKED)
        if found is None:
            terminal.note(f"the photos are not checked for duplicates and the like, there are many; {later}")
    except Exception as error:  # whatever it is, the report is still of use
        terminal.note(f"warning: the photos could not be checked: {error}; {later}")
    try:
        if apart:
            command = [sys.executable, "-m", "jaxclf", "report", str(out), str(data)]
            done = subprocess.run(
                command, capture_output=True, text=True, check=False, env=os.environ | {"JAX_PLATFORMS": "cpu"}
            )
            if done.returncode:
                raise ValueError(done.stderr.strip().rpartition("\n")[2])
        else:
            with terminal.task("writing the report", 1) as progress:
                write_report(out, data=data, check=found, on_progress=progress)
    except Exception as error:  # whatever it is, the run is done
        terminal.note(f"warning: the report could not be written: {error}; `jaxclf report {out} {data}` tries again")
    if found is not None and found.errors:
        terminal.note(f"something is wrong with the photos ({found.errors[0].message}); see the report's data section")


def check_for_report(
    out: str | os.PathLike[str], data: str | os.PathLike[str], terminal: "Terminal", *, limit: int | None = None
) -> "check_report.Report | None":
    """Checks the photos and keeps what was found in the RUN, for later reports; None for more than `limit` photos."""
    from jaxclf._files import write_atomic
    from jaxclf.data.check.listing import list_data
    from jaxclf.data.check.report import check_listing
    from jaxclf.report.from_run import CHECK

    listing = list_data(data)
    if limit is not None and len(listing.records) > limit:
        return None
    with terminal.task("checking the photos", len(listing.records)) as progress:
        found = check_listing(listing, data=str(data), on_progress=progress)
    write_atomic(Path(out) / CHECK, json.dumps(found.to_dict(), indent=1) + "\n")
    return found
