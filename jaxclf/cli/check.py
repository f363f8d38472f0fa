"""`jaxclf check DATA`: what is wrong with a data set, on the terminal and as JSON."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from jaxclf._words import count
from jaxclf.cli.arguments import DataArgument, UsageError, command

if TYPE_CHECKING:
    from jaxclf.cli.terminal import Terminal
    from jaxclf.data.check.listing import Finding
    from jaxclf.data.check.report import Report

#: Classes in the table; of more, the largest and the smallest ones are shown.
MAX_ROWS = 40


@command
class Check:
    """Look at every photo of a data set and report what is wrong with it. Nothing is changed or deleted.

    Errors, with exit code 1: unreadable files, empty or missing classes, the same image in two splits, the same image
    under two labels. Warnings: files that are not pictures or that nothing reads, odd pixel formats, tiny pictures,
    duplicates and near duplicates, classes beyond 10 to 1.

    Example: jaxclf check photos --json report.json

    Attributes:
      data: folder of photos, as for fit.
      json: file for the whole report, every path included.
      show: how many findings of a kind, and how many paths of a finding, to print.
    """

    data: DataArgument
    json: str | None = None
    show: int = 5

    def __call__(self) -> int:
        from jaxclf._files import write_atomic
        from jaxclf.cli.terminal import Terminal
        from jaxclf.data.check.listing import list_data
        from jaxclf.data.check.report import check_listing

        if self.show < 1:
            raise UsageError(f"show={self.show} must be at least 1")
        if self.json is not None and (Path(self.json).is_dir() or not Path(self.json).absolute().parent.is_dir()):
            raise ValueError(f"json={self.json} cannot be written: give a file in a folder that exists")
        terminal = Terminal()
        listing = list_data(self.data)
        with terminal.task("checking", len(listing.records)) as progress:
            report = check_listing(listing, data=self.data, on_progress=progress)
        show_report(terminal, report, self.show)
        if self.json is not None:
            terminal.note(f"wrote {write_atomic(self.json, json.dumps(report.to_dict(), indent=1) + chr(10))}")
        return 1 if report.errors else 0


def show_report(terminal: "Terminal", report: "Report", show: int) -> None:
    """Prints a report: counts, sizes, findings with at most `show` of each kind and `show` paths each, a last line."""
    if report.num_images:
        terminal.console.print(_counts_table(report))
        terminal.console.print(_sizes_table(report))
        terminal.note("pixel formats: " + ", ".join(f"{mode}: {count}" for mode, count in report.modes.items()))
    for title, findings in (("error", report.errors), ("warning", report.warnings)):
        for kind in dict.fromkeys(finding.kind for finding in findings):
            terminal.note("")
            for line in _describe(f"{title}, {kind}", [finding for finding in findings if finding.kind == kind], show):
                terminal.note(line)
    terminal.note("")
    errors, warnings = len(report.errors), len(report.warnings)
    verdict = f"{count(errors, 'error')}, {count(warnings, 'warning')}" if errors + warnings else "nothing wrong"
    terminal.note(f"{count(report.num_images, 'picture')} in {report.data}: {verdict}")


def _describe(heading: str, findings: list["Finding"], show: int) -> Iterable[str]:
    number = f" ({len(findings)})" if len(findings) > 1 else ""
    yield f"{heading}{number}:"
    for finding in findings[:show]:
        yield f"  {finding.message}"
        # A message that names its only path need not be followed by it.
        if not (len(finding.paths) == 1 and finding.paths[0] in finding.message):
            yield from (f"    {path}" for path in finding.paths[:show])
            if len(finding.paths) > show:
                yield f"    .. {len(finding.paths)} in all"
    if len(findings) > show:
        yield f"  .. {len(findings)} in all"


def _counts_table(report: "Report") -> Table:
    splits = list(report.counts)
    table = Table("class", *splits, title="pictures per class")
    for column in table.columns[1:]:
        column.justify = "right"
    names = sorted({name for of_split in report.counts.values() for name in of_split})

    def row(name: str) -> None:
        table.add_row(Text(name), *(str(report.counts[split].get(name, "")) for split in splits))

    by_size = sorted(names, key=lambda name: -report.counts[splits[0]].get(name, 0))
    few = len(names) <= MAX_ROWS
    for name in names if few else by_size[: MAX_ROWS // 2]:
        row(name)
    if not few:
        table.add_row(f".. {len(names)} classes in all ..")
        for name in by_size[-MAX_ROWS // 2 :]:
            row(name)
    if len(names) > 1:
        table.add_section()
        table.add_row("all", *(str(sum(report.counts[split].values())) for split in splits))
    return table


def _sizes_table(report: "Report") -> Table:
    table = Table("pixels", "pictures", "", title="shorter side")
    table.columns[1].justify = "right"
    filled = [number for number, count in enumerate(report.sizes.values()) if count]
    if filled:
        most = max(report.sizes.values())
        for name, count in list(report.sizes.items())[filled[0] : filled[-1] + 1]:
            # At least one mark where there is one picture.
            table.add_row(name, str(count), "#" * -(-30 * count // most))
    return table
