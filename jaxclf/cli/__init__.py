"""The command line: `jaxclf COMMAND ...`."""

import importlib.metadata
import platform
import sys
from collections.abc import Sequence

from jaxclf.cli import clock as clock  # first, to begin with the program
from jaxclf.run import processes as distributed
from jaxclf.run.observer import Interrupted, StopSignals

EXIT_FAILED = 1
EXIT_USAGE = 2
DESCRIPTION = (
    "Fine-tune an ImageNet-pretrained ResNet on your own photos, in JAX. `jaxclf COMMAND --help` shows the flags of a "
    "command and an example. Every command takes --debug, which shows the traceback of an error. `jaxclf --version` "
    "names the versions of jaxclf and of what it computes with.\n\n"
    "Example: jaxclf fit photos --out runs/photos"
)


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command line and ends the process: 0 done, 1 the work failed, 2 wrong usage.

    Args:
      argv: arguments without the program's name; `None` takes the process's own.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments == ["--version"]:
        print(version())  # noqa: T201
        sys.exit(0)
    debug = "--debug" in arguments
    arguments = [argument for argument in arguments if argument != "--debug"]
    try:
        with StopSignals():
            _run(arguments, debug)
    except Interrupted as error:
        _fail(str(error), 128 + error.signum, debug)


def version() -> str:
    """The versions that a report of a fault should name. Nothing is imported for it."""
    ours, *others = [f"{name} {importlib.metadata.version(name)}" for name in ("jaxclf", "jax", "jaxlib", "flax")]
    return f"{ours} ({', '.join(others)}, python {platform.python_version()})"


def _run(arguments: list[str], debug: bool) -> None:
    from jaxclf._memory import keep_freed_memory

    keep_freed_memory()  # before anything starts a thread

    from jaxclf._jax import enable_compilation_cache
    from jaxclf.cli import commands, weights
    from jaxclf.cli.arguments import UsageError
    from jaxclf.cli.usage import as_typed, parse

    table, prog, description, rest = commands.COMMANDS, "jaxclf", DESCRIPTION, arguments
    if arguments[:1] == ["weights"]:  # a command with commands of its own
        table, prog, description, rest = weights.COMMANDS, "jaxclf weights", weights.DESCRIPTION, arguments[1:]
    try:
        command = parse(table, prog, description, rest)
        enable_compilation_cache()
        code = command()
        distributed.finish()
        sys.exit(code)
    except BrokenPipeError:  # the reader, say `head`, has seen enough
        sys.stderr.close()
        sys.exit(EXIT_FAILED)
    except UsageError as error:
        _fail(as_typed(str(error), arguments), EXIT_USAGE, debug)
    except (ValueError, OSError) as error:
        if distributed.lost_process(error):
            distributed.leave(EXIT_FAILED, lost=True)
        _fail(str(error), EXIT_FAILED, debug)
    except Exception as error:
        if distributed.lost_process(error):
            distributed.leave(EXIT_FAILED, lost=True)
        text = f"unexpected {type(error).__name__}: {error} (this is a bug in jaxclf; --debug shows where)"
        _fail(text, EXIT_FAILED, debug)


def _fail(message: str, code: int, debug: bool) -> None:
    if debug:
        import traceback

        traceback.print_exc()
    sys.stderr.write(f"jaxclf: error: {message}\n" if code <= 128 else f"jaxclf: {message}\n")
    distributed.leave(code)
