"""What is wrong with a data set, before a training run finds out. Reports only: nothing is changed or deleted.

Errors: "layout", "unreadable", "empty class", "missing class" (in training, absent from another split), "unknown class"
(absent from training), "too few" (a class with one picture, and a validation part still to be drawn), "leak" (the same
image in two splits), "two labels" (the same image under two classes).

Warnings: "unused", "not an image", "odd mode", "tiny", "duplicate" (the same image twice in a split), "near duplicate",
"imbalance".
"""

import os
import warnings
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from jaxclf._progress import OnProgress
from jaxclf.data.cache import default_num_threads
from jaxclf.data.check.listing import WHOLE, Finding, Listing, list_data
from jaxclf.data.check.pictures import Facts, inspect_image, near_groups

#: Shorter sides below this many pixels are reported.
TINY = 32
#: The largest class may hold this many times the pictures of the smallest.
IMBALANCE = 10
#: Lower ends of the size histogram's bins, in pixels of the shorter side.
SIZE_BINS = (0, 32, 64, 128, 256, 512, 1024)
#: What a picture without a label counts as.
NO_LABEL = "(no label)"


@dataclass(frozen=True)
class Report:
    """What a check found.

    Attributes:
      data: what was checked.
      num_images: pictures looked at, unreadable ones included.
      counts: split -> class -> number of pictures.
      sizes: size histogram of the readable ones, by the shorter side in pixels, lower ends included: "32-63" -> number.
      modes: Pillow mode -> number of readable pictures.
      errors, warnings: the findings; see `jaxclf.data.check.report` for their kinds.
    """

    data: str
    num_images: int
    counts: dict[str, dict[str, int]]
    sizes: dict[str, int]
    modes: dict[str, int]
    errors: tuple[Finding, ...]
    warnings: tuple[Finding, ...]

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        findings = {
            name: [finding._asdict() | {"paths": list(finding.paths)} for finding in found]
            for name, found in (("errors", self.errors), ("warnings", self.warnings))
        }
        return vars(self) | findings


def check_data(
    data: str | os.PathLike[str], *, num_threads: int | None = None, on_progress: OnProgress | None = None
) -> Report:
    """Looks at every picture of a data folder and reports what is wrong with it, also where `open_data` would refuse.

    Args:
      data: folder with `train/CLASS/*` and `valid/CLASS/*` [and `test/`], or just `CLASS/*`.
      num_threads: decoders at work; `None` takes one per core.
      on_progress: called with (done, total) after each picture.

    Raises:
      ValueError: if there is no such folder.
    """
    return check_listing(list_data(data), data=str(data), num_threads=num_threads, on_progress=on_progress)


def check_listing(
    listing: Listing, *, data: str, num_threads: int | None = None, on_progress: OnProgress | None = None
) -> Report:
    """`check_data` for pictures that come from elsewhere. Memory: about a kilobyte per picture."""
    facts: list[Facts] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's remarks about odd but readable files
        for fact in _in_threads((record.image for record in listing.records), num_threads or default_num_threads()):
            facts.append(fact)
            if on_progress is not None:
                on_progress(len(facts), len(listing.records))
    counts = class_counts(listing)
    unreadable, odd = find_odd_pictures(listing, facts)
    same_errors, same_warnings = find_duplicates(listing, facts)
    readable = [fact for fact in facts if fact.error is None]
    return Report(
        data=data,
        num_images=len(facts),
        counts=counts,
        sizes=_size_histogram(readable),
        modes=dict(Counter(fact.mode for fact in readable).most_common()),
        errors=(*listing.errors, *unreadable, *find_class_errors(counts), *same_errors),
        warnings=(*listing.warnings, *odd, *find_imbalance(counts), *same_warnings),
    )


def _in_threads(images: Iterable[Any], num_threads: int) -> Iterator[Facts]:
    """`inspect_image` of each, in order; never more than a few pictures at once in memory."""
    with ThreadPoolExecutor(num_threads) as pool:
        waiting: deque[Future[Facts]] = deque()
        try:
            for image in images:
                waiting.append(pool.submit(inspect_image, image))
                if len(waiting) >= 4 * num_threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for job in waiting:
                job.cancel()


def class_counts(listing: Listing) -> dict[str, dict[str, int]]:
    """Split -> class -> number of pictures, classes without any included."""
    counts: dict[str, dict[str, int]] = {split: dict.fromkeys(names, 0) for split, names in listing.classes.items()}
    for record in listing.records:
        of_split = counts.setdefault(record.split, {})
        for label in record.labels or (NO_LABEL,):
            of_split[label] = of_split.get(label, 0) + 1
    return counts


def find_class_errors(counts: dict[str, dict[str, int]]) -> list[Finding]:
    """Classes that are empty, missing from a split, or unknown to training."""
    errors = []
    known = {name for name, count in counts.get("train", {}).items() if name != NO_LABEL and count > 0}
    for split, of_split in counts.items():
        names = {name for name in of_split if name != NO_LABEL}
        empty = sorted(name for name in names if of_split[name] == 0)
        errors += [Finding("empty class", f"class {name!r} has no pictures in {split}") for name in empty]
        if split == WHOLE:
            single = sorted(name for name in names if of_split[name] == 1)
            text = "class {!r} has one picture only: it cannot be in training and in validation"
            errors += [Finding("too few", text.format(name)) for name in single]
        if "train" in counts and split != "train" and names:
            missing, unknown = sorted(known - names), sorted(names - known - set(empty))
            text = "class {!r} is in train but not in {}: no figure there would tell how well it is known"
            errors += [Finding("missing class", text.format(name, split)) for name in missing]
            text = "class {!r} is in {} but not in train: it cannot be learned"
            errors += [Finding("unknown class", text.format(name, split)) for name in unknown]
    return errors


def find_imbalance(counts: dict[str, dict[str, int]]) -> list[Finding]:
    """The training part's largest class against its smallest, where the ratio is beyond `IMBALANCE`."""
    of_split = counts.get("train") or counts.get(WHOLE) or {}
    sizes = {name: count for name, count in of_split.items() if name != NO_LABEL and count > 0}
    if not sizes:
        return []
    most, least = max(sizes, key=sizes.__getitem__), min(sizes, key=sizes.__getitem__)
    if sizes[most] <= IMBALANCE * sizes[least]:
        return []
    text = f"class {most!r} has {sizes[most]} pictures and class {least!r} {sizes[least]}"
    return [Finding("imbalance", f"{text}: {sizes[most] / sizes[least]:.0f} to 1; accuracy will hide the rare class")]


def find_odd_pictures(listing: Listing, facts: Sequence[Facts]) -> tuple[list[Finding], list[Finding]]:
    """What is wrong with single pictures, as (errors, warnings): unreadable ones; odd modes and tiny ones."""
    unreadable: list[Finding] = []
    modes: defaultdict[str, list[str]] = defaultdict(list)
    tiny: list[str] = []
    for record, fact in zip(listing.records, facts, strict=True):
        if fact.error is not None:
            message = f"{record.name} cannot be read: {fact.error}"
            unreadable.append(Finding("unreadable", message, (record.name,)))
            continue
        for oddity in fact.oddities:
            modes[oddity].append(record.name)
        if min(fact.size) < TINY:
            tiny.append(record.name)
    odd = [Finding("odd mode", oddity, tuple(names)) for oddity, names in sorted(modes.items())]
    if tiny:
        odd.append(Finding("tiny", f"shorter side below {TINY} pixels", tuple(tiny)))
    return unreadable, odd


def find_duplicates(listing: Listing, facts: Sequence[Facts]) -> tuple[list[Finding], list[Finding]]:
    """The same image more than once, as (errors, warnings): equal pixels once upright, or nearly equal ones."""
    groups: defaultdict[bytes, list[int]] = defaultdict(list)
    for index, fact in enumerate(facts):
        if fact.error is None:
            groups[fact.pixel_hash].append(index)
    contradictions, leaks, remarks = [], [], []
    for group in groups.values():
        if len(group) == 1:
            continue
        records = [listing.records[index] for index in group]
        copies = "file" if len({facts[index].file_hash for index in group} - {b""}) == 1 else "picture"
        paths = tuple(record.name for record in records)
        labels = sorted({label for record in records for label in record.labels})
        splits = list(dict.fromkeys(record.split for record in records))
        if len(labels) > 1 and not listing.multi_label:
            message = f"the same {copies} under {len(labels)} labels: {', '.join(labels)}"
            contradictions.append(Finding("two labels", message, paths))
        if len(splits) > 1:
            leaks.append(Finding("leak", f"the same {copies} in {' and '.join(splits)}", paths))
        elif len(labels) <= 1 or listing.multi_label:
            message = f"the same {copies} {len(group)} times in {splits[0]}"
            if splits == [WHOLE]:
                message += ": a drawn validation part may get one copy and training the other"
            remarks.append(Finding("duplicate", message, paths))
    first = [group[0] for group in groups.values()]
    for near in near_groups([facts[index] for index in first]):
        records = [listing.records[first[index]] for index in near]
        splits = list(dict.fromkeys(record.split for record in records))
        message = f"{len(records)} pictures that look the same (saved anew?) in {' and '.join(splits)}"
        remarks.append(Finding("near duplicate", message, tuple(record.name for record in records)))
    return leaks + contradictions, remarks


def _size_histogram(facts: Sequence[Facts]) -> dict[str, int]:
    ends = [*(str(high - 1) for high in SIZE_BINS[1:]), None]
    labels = [f"{low}-{end}" if end else f"{low}+" for low, end in zip(SIZE_BINS, ends, strict=True)]
    histogram = dict.fromkeys(labels, 0)
    for fact in facts:
        histogram[labels[sum(min(fact.size) >= low for low in SIZE_BINS) - 1]] += 1
    return histogram
