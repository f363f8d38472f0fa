"""What the README, the pages in docs/ and the scripts show really runs."""

import contextlib
import io
import os
import re
import runpy
import shlex
import shutil
import sys
import warnings
from typing import NamedTuple

import pytest
from commands import run
from conftest import REPOSITORY

from jaxclf.training.lr_finder import RateRange

README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
PAGES = {path.name: path.read_text(encoding="utf-8") for path in (REPOSITORY / "docs").glob("*.md")} | {"": README}


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


class Home(NamedTuple):
    """Where the ten lines were typed, what each printed, and the names that the Python of the README left."""

    folder: os.PathLike
    printed: dict[str, str]
    names: dict


@pytest.fixture(scope="module")
def _hardly_optimised():
    """XLA optimises little: nearly all the time here goes into compiling, and what is asked is whether things run."""
    import jax

    name = "jax_disable_most_optimizations"
    before = jax.config.read(name)
    jax.config.update(name, True)
    yield
    jax.config.update(name, before)


@pytest.fixture(scope="module")
def home(tmp_path_factory, _hardly_optimised):
    """The README's ten lines of shell and fifteen of Python, run as printed, but at 32 pixels on few drawings."""
    from jaxclf.data.demo.folder import write_drawings

    folder, printed, names = tmp_path_factory.mktemp("home"), {}, {}
    write_drawings(folder / "jaxclf-demo" / "drawings-0", num_train=24, num_valid=8, size=40)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr("jaxclf.run.rates.finder_range", lambda *args, **options: RateRange(1e-5, 10.0, 20))
        patch.setattr("jaxclf.run.rates.worth_a_test", lambda *args: True)
        for line in blocks("sh")[1].strip().splitlines():
            words = shlex.split(line.replace("--image-size 96", "--image-size 32 --batch-size 8"), comments=True)
            with contextlib.redirect_stdout(io.StringIO()) as output:
                type_in(words)
            printed[" ".join(shlex.split(line, comments=True))] = output.getvalue()
        exec(blocks("python")[0].replace("96", "32"), names)  # our own README
    return Home(folder, printed, names)


def type_in(words: list[str]) -> None:
    """What a shell would do with the few kinds of line that the README has."""
    if words[0] == "jaxclf":
        assert run(*words[1:]) == 0, words
    elif words[:2] == ["cp", "-r"]:
        shutil.copytree(words[2], words[3])
    else:
        assert words == ["source", ".venv/bin/activate"]  # what `make demo` leaves


def test_the_two_commands_are_shown_and_exist():
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    for line in blocks("sh")[0].strip().splitlines():
        command, target = shlex.split(line, comments=True)
        assert command == "make" and f"\n{target}: " in makefile


def test_the_ten_lines(home):
    assert len(home.printed) == 10
    printed = {command.removeprefix("jaxclf "): text for command, text in home.printed.items()}
    (fit,) = (text for command, text in printed.items() if command.startswith("fit") and "--arch" in command)
    assert "training on 24 pictures (cat 12, dog 12); 8 for validation" in fit and "head, augmented" in fit
    assert printed["evaluate runs/photos photos"].startswith("accuracy ")
    rows = printed["predict runs/photos photos/valid/cat --top 2 --format csv"].splitlines()
    assert len(rows) == 1 + 4 * 2 and "photos/valid/cat/0003.jpg,2," in rows[-1]
    assert printed["predict photos.jaxclf photos/valid/dog/0000.jpg"].split()[1] in ("cat", "dog")


def test_the_table_names_what_a_run_leaves(home):
    table = README[README.index("| file | what |") : README.index("## Fifteen lines of Python")]
    rows = [row.split("|")[1] for row in table.splitlines() if row.startswith("|")]
    shown = {name for row in rows for name in re.findall(r"`([\w.]+)/?`", row)}
    assert shown - {"submission.csv"} == {path.name for path in (home.folder / "runs" / "photos").iterdir()}


def test_the_fifteen_lines(home):
    lines = [line for line in blocks("python")[0].splitlines() if line]
    assert len(lines) == 15
    epochs = home.names["result"].epochs
    assert [row["phase"] for row in epochs] == ["all layers"] * 3 and "valid_accuracy" in epochs[0]


def test_the_lines_that_look_at_the_result(home, monkeypatch, capsys):
    monkeypatch.chdir(home.folder)
    exec(blocks("python")[1], home.names)
    assert capsys.readouterr().out.splitlines()[-1].split()[0] in ("cat", "dog")
    for name in ("batch.png", "epochs.png"):
        assert (home.folder / name).stat().st_size > 1000


def test_fit_folder_script(home, monkeypatch, capsys):
    """Trains what the fifteen lines train, so that nothing is compiled twice."""
    script = str(REPOSITORY / "scripts" / "fit_folder.py")
    data = str(home.folder / "photos")
    monkeypatch.setattr(sys, "argv", [script, data, "--image-size", "32", "--batch-size", "32", "--lr", "0.01"])
    runpy.run_path(script, run_name="__main__")
    printed = capsys.readouterr().out
    assert "all layers epoch 3: loss" in printed and "cat was taken for cat:" in printed


def commands() -> list[str]:
    """Every command line with arguments in the README and in docs/, in blocks and within sentences."""
    text = "\n".join(PAGES.values()).replace("\\\n", " ")
    found = re.findall(r"jaxclf ((?:[a-z]+-)?[a-z]+ [^\n#\"]*[^\n#\" ])", "\n".join(code_of(text)))
    return sorted({command for command in found if "--help" not in command})


def code_of(text: str) -> list[str]:
    """Blocks of shell, then what stands between single backticks."""
    inside = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    return inside + re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))


def test_every_command_shown_is_one():
    """Flags and values of all commands are read, none is run."""
    from jaxclf.cli import weights
    from jaxclf.cli.commands import COMMANDS
    from jaxclf.cli.usage import parse

    found = commands()
    assert len(found) > 20
    for command in found:
        words = shlex.split(command)
        table = weights.COMMANDS if words[0] == "weights" else COMMANDS
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert callable(parse(table, "jaxclf", "", words[1:] if words[0] == "weights" else words)), command


def test_every_flag_shown_is_one():
    """Also those that sentences name without a command."""
    from jaxclf.cli.commands import COMMANDS
    from jaxclf.cli.completion import command_flags

    known = {flag for command in COMMANDS.values() for flag in command_flags(command)}
    shown = {code.split()[0] for text in PAGES.values() for code in code_of(text) if code.startswith("--")}
    assert len(shown) > 10 and {flag for flag in shown if "=" not in flag} <= known


def test_every_file_shown_is_there():
    for page, text in PAGES.items():
        folder = REPOSITORY / "docs" if page else REPOSITORY
        for link in re.findall(r"\]\((?!https?:)([^)#]+)", text):
            assert (folder / link).is_file(), f"{page or 'README.md'} links to {link}"
        for path in re.findall(r"\b(?:benchmarks|scripts|tests)/\w+\.py", text):
            assert (REPOSITORY / path).is_file(), f"{page or 'README.md'} names {path}"
