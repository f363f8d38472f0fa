"""The command line, run inside the test's process."""

import pytest

from jaxclf.cli import main

FAST = ["--arch", "small10t", "--weights", "none", "--image-size", "32", "--batch-size", "8", "--epochs", "1"]


def run(*arguments) -> int:
    with pytest.raises(SystemExit) as end:
        main([str(argument) for argument in arguments])
    return int(end.value.code or 0)


def fails(capsys, *arguments, mentions, code=1) -> None:
    """The command ends with this exit code and one message that names everything in `mentions`."""
    assert run(*arguments) == code
    error = capsys.readouterr().err
    assert error.startswith("jaxclf: error: ") and "Traceback" not in error
    assert len(error.strip().splitlines()) == 1, error
    for text in mentions:
        assert str(text) in error


def snapshot(folder):
    return {path: (path.read_bytes() if path.is_file() else None) for path in sorted(folder.rglob("*"))}
