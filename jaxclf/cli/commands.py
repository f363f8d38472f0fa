"""The commands. Each function's signature and docstring are its flags and its help; each returns what to run."""

import functools
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

import tyro

from jaxclf.cli.arguments import DataArgument, RunArgument, UsageError, Work, positional
from jaxclf.cli.check import check
from jaxclf.cli.completion import completion_script
from jaxclf.cli.cost import cost
from jaxclf.cli.export import export
from jaxclf.cli.find_lr import find_lr
from jaxclf.cli.fit import fit
from jaxclf.cli.predict import predict
from jaxclf.cli.report import report
from jaxclf.cli.sweep import sweep


def evaluate(
    run: RunArgument,
    data: DataArgument,
    /,
    split: Literal["auto", "train", "valid", "all"] = "auto",
    format: Literal["table", "json"] = "table",
    on_bad_image: Literal["error", "skip"] = "error",
) -> Work:
    """Loss and accuracy of a run on labelled photos.

    On the data the run was trained on, these are the figures of its validation pictures, the same as in summary.json.

    Example: jaxclf evaluate runs/photos photos

    Args:
      run: the RUN folder.
      data: folder of photos, as for fit.
      split: which part; "auto" is the validation part, or everything where DATA is new and has none.
      format: how to print.
      on_bad_image: "skip" leaves out photos that cannot be read and lists them; the figures are then not those of the
        whole data set.
    """
    return functools.partial(_evaluate, run, data, split, format, on_bad_image)


def _evaluate(run: str, data: str, split: str, format: str, on_bad_image: Literal["error", "skip"]) -> int:
    from jaxclf.cli.terminal import Terminal
    from jaxclf.run.evaluate import evaluate_run
    from jaxclf.run.load import load_run

    with Terminal().task("decoding and judging", 1) as progress:
        result = evaluate_run(load_run(run), data, split, on_bad_image=on_bad_image, on_progress=progress)
    for reason in result.get("skipped", ()):
        sys.stderr.write(f"jaxclf: skipped: {reason}\n")
    if format == "json":
        print(json.dumps(result))  # noqa: T201
    else:
        beta = f"  F2 {result['f_beta']:.4f}" if "f_beta" in result else ""
        skipped = f", {len(result['skipped'])} of them skipped" if "skipped" in result else ""
        print(  # noqa: T201
            f"accuracy {result['accuracy']:.4f}{beta}  loss {result['loss']:.4f}  on {result['examples']}{skipped}"
        )
    return 0


def demo(out: str = "jaxclf-demo", seed: int = 0) -> Work:
    """Draw cats and dogs, train a classifier on them, and show what it learned. Needs no data and no network.

    Example: jaxclf demo --out /tmp/demo

    Args:
      out: folder for the drawings and the run; an earlier demo in it is replaced.
      seed: of the drawings and of the training.
    """
    return functools.partial(_demo, out, seed)


def _demo(out: str, seed: int) -> int:
    from jaxclf.cli.demo import run_demo

    return run_demo(Path(out), seed)


def weights() -> Work:
    """Weights by name and in files: list, show, convert, export. See `jaxclf weights --help`.

    Example: jaxclf weights list
    """
    raise UsageError("weights needs one of list, show, convert, export; see `jaxclf weights --help`")


def completion(shell: Annotated[Literal["bash", "zsh"], tyro.conf.Positional, positional("{bash,zsh}")], /) -> Work:
    """Print a script for your shell, with which the tabulator key completes commands, flags and their values.

    Where bash-completion is installed, bash finds it by itself in ~/.local/share/bash-completion/completions/jaxclf.
    Otherwise, and in zsh, save it anywhere and name it in ~/.bashrc or ~/.zshrc, after "source".

    Example: jaxclf completion bash > jaxclf-completion.sh

    Args:
      shell: the shell it is for.
    """
    return functools.partial(_completion, shell)


def _completion(shell: str) -> int:
    print(completion_script(shell, COMMANDS), end="")  # noqa: T201
    return 0


COMMANDS: dict[str, Callable[..., Work]] = {
    "fit": fit,
    "find-lr": find_lr,
    "sweep": sweep,
    "evaluate": evaluate,
    "predict": predict,
    "export": export,
    "check": check,
    "cost": cost,
    "report": report,
    "weights": weights,
    "demo": demo,
    "completion": completion,
}
