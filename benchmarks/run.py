"""Asks one of the questions of this folder: jaxclf and a peer take turns on each case.

    python benchmarks/run.py QUESTION [--turns 5] [--json FILE] [--set NAME=VALUE ..] [--only TEXT] [--smoke]

Without QUESTION, lists them. Printed are median and range of every figure, and peer / jaxclf turn by turn: above 1,
jaxclf is faster. The JSON file has every sample, the machine, the versions and the load before and after.
"""

import argparse
import ast
import dataclasses
import datetime
import importlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness import BUSY, load, machine, measure, table

QUESTIONS = sorted(
    path.stem for path in Path(__file__).parent.glob("*.py") if path.stem not in ("run", "harness", "steps")
)


def first_line(name: str) -> str:
    """What a question asks, without importing it."""
    text = (Path(__file__).parent / f"{name}.py").read_text(encoding="utf-8")
    return (ast.get_docstring(ast.parse(text)) or "").partition("\n")[0]


def choose_cases(question: Any, changes: Sequence[str], only: str = "", *, smoke: bool = False) -> list[Any]:
    """The question's cases, or its smallest, with the fields changed as NAME=VALUE says; each once."""
    cases = [dataclasses.replace(question.Case(), **question.SMOKE)] if smoke else list(question.cases())
    defaults = dataclasses.asdict(question.Case())
    new = {}
    for change in changes:
        name, equals, text = change.partition("=")
        if name not in defaults or not equals:
            raise SystemExit(f"error: --set {change}: NAME=VALUE with one of {', '.join(defaults) or 'no names'}")
        kind = type(defaults[name])
        try:
            new[name] = text.lower() in ("1", "true", "yes") if kind is bool else kind(text)
        except ValueError:
            raise SystemExit(f"error: --set {change}: {text!r} is no {kind.__name__}") from None
    cases = list(dict.fromkeys(dataclasses.replace(case, **new) for case in cases))
    chosen = [case for case in cases if only in describe(dataclasses.asdict(case))]
    if not chosen:
        raise SystemExit(f"error: --only {only}: no case has it; they are\n" + "\n".join(map(str, cases)))
    return chosen


def describe(fields: dict[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in fields.items())


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("question", nargs="?", choices=QUESTIONS, metavar="QUESTION")
    parser.add_argument("--turns", type=int, help="of each side, after those that warm up (usually 5)")
    parser.add_argument("--json", type=Path, help="where every sample is written")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="change a field of all cases")
    parser.add_argument("--only", default="", metavar="TEXT", help="cases whose NAME=VALUE list has this in it")
    parser.add_argument("--smoke", action="store_true", help="the smallest case, one turn: shows that it runs")
    parser.add_argument("--no-peer", action="store_true", help="jaxclf alone")
    parser.add_argument("--refuse-busy", action="store_true", help=f"end where the load is above {BUSY:g}")
    args = parser.parse_args(arguments)
    if args.question is None:
        print("\n".join(f"{name:20s} {first_line(name)}" for name in QUESTIONS))
        return
    before = load()
    busy = bool(before) and before[0] > BUSY
    if busy and args.refuse_busy:
        raise SystemExit(f"error: the machine is busy: load {before[0]} before")
    question = importlib.import_module(args.question)
    if hasattr(question, "prepare"):
        question.prepare()
    cases = choose_cases(question, args.set, args.only, smoke=args.smoke)
    turns = args.turns or (1 if args.smoke else getattr(question, "TURNS", 5))
    fields = [dataclasses.asdict(case) for case in cases]
    shared = {name: value for name, value in fields[0].items() if all(each[name] == value for each in fields)}
    result: dict[str, Any] = {
        "question": args.question,
        "asks": first_line(args.question),
        "command": ["python", "benchmarks/run.py", *(sys.argv[1:] if arguments is None else arguments)],
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "load_before": before,
        "busy": busy,
        "turns": turns,
        "results": [],
    }
    about = result["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    print(result["asks"])
    print(f"{about['device']} | {about['processor']}, {about['cores']} cores | Python {about['python']}, {versions}")
    print(f"{turns} turns; load before: {before}{'  THE MACHINE IS BUSY: times are not to be trusted' * busy}")
    print(describe(shared))
    for case, own in zip(cases, fields, strict=True):
        record = measure(question, case, turns, with_peer=not args.no_peer)
        title = describe({name: value for name, value in own.items() if name not in shared})
        print("", *([title] if title else []), *table(record), sep="\n", flush=True)
        if hasattr(question, "conclude"):
            record["conclusions"], lines = question.conclude(case, turns)
            print(*lines, sep="\n", flush=True)
        result["results"].append(record)
        result["load_after"] = load()
        if args.json:  # after every case, so that a run that is stopped leaves what it has
            args.json.parent.mkdir(parents=True, exist_ok=True)
            args.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(f"\nload after: {result['load_after']}")


if __name__ == "__main__":
    main()
