"""The help of every command, and what a mistyped command line is answered."""

import itertools
import re
import shlex
import typing

import pytest
import tyro
from commands import run

from jaxclf import cli
from jaxclf.cli import commands, usage, weights
from jaxclf.cli.arguments import UsageError, group_fields
from jaxclf.cli.completion import command_flags
from jaxclf.config import Settings

#: Name as typed -> function.
COMMANDS = {
    **{name: command for name, command in commands.COMMANDS.items() if name != "weights"},
    **{f"weights {name}": command for name, command in weights.COMMANDS.items()},
}


def entries(printed: str) -> dict[str, str]:
    """Flag or positional argument -> all that the help says of it, read off the boxes."""
    found: dict[str, list[str]] = {}
    name = ""
    for line in printed.splitlines():
        inside = re.fullmatch(r"│ (.*?) *│", line)
        if inside is None:
            name = ""
        elif started := re.match(r"(--[a-z-]+|[A-Z_]{3,}|\{bash,zsh\}|\[?IMAGES)(?:, (--no-[a-z-]+))?", inside[1]):
            name = started[1].strip("[")
            found[name] = [inside[1]]
            if started[2]:  # said together
                found[started[2]] = found[name]
        elif name:
            found[name].append(inside[1].strip())
    return {name: " ".join(lines) for name, lines in found.items()}


@pytest.mark.parametrize("width", ["80", "120"])
@pytest.mark.parametrize("name", COMMANDS)
def test_every_help_has_types_defaults_and_an_example(name, width, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", width)
    assert run(*name.split(), "--help") == 0
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= int(width)
    assert f"Example: jaxclf {name}" in printed
    said = entries(printed)
    assert set(command_flags(COMMANDS[name])) <= set(said)
    hints = typing.get_type_hints(COMMANDS[name], include_extras=True)
    positional = [hint for hint in hints.values() if tyro.conf.Positional in typing.get_args(hint)]
    assert len(said) >= len(command_flags(COMMANDS[name])) + len(positional)
    for flag, text in said.items():
        assert re.search(r"\((default: [^)]+|required)\)", text), f"{flag}: {text}"
        choices = command_flags(COMMANDS[name]).get(flag, ())
        if choices and flag not in ("--arch", "--recipe"):
            assert f"{{{','.join(choices)}}}" in text
    assert "{None}" not in printed and "default: )" not in printed


@pytest.mark.parametrize("name", COMMANDS)
def test_every_example_parses(name):
    """It is not run: what comes back is the work."""
    example = re.search(r"Example: jaxclf (.*)", COMMANDS[name].__doc__)
    assert example is not None
    words = list(itertools.takewhile(lambda word: word not in (">", "|"), shlex.split(example[1])))
    assert " ".join(words).startswith(name)
    first, *rest = words
    table = weights.COMMANDS if first == "weights" else commands.COMMANDS
    assert callable(usage.parse(table, "jaxclf", "", rest if first == "weights" else words))


@pytest.mark.parametrize("arguments", [["--help"], ["weights", "--help"]], ids=" ".join)
def test_the_list_of_commands_is_short(arguments, capsys):
    assert run(*arguments) == 0
    printed = capsys.readouterr().out
    table = weights.COMMANDS if "weights" in arguments else commands.COMMANDS
    assert all(re.search(rf"• {name} +[A-Z]", printed) for name in table)
    assert len(printed.splitlines()) < 45 and "Args" not in printed


def test_every_setting_is_a_flag_of_one_group():
    names = [name for group in group_fields().values() for name in group]
    assert sorted(names) == sorted(vars(Settings())) and len(set(names)) == len(names)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("fit D --out R --batch-size 0", "--batch-size 0: must be at least 1, or 'auto'"),
        ("fit D --out R --batch_size=0", "--batch-size 0: must be at least 1, or 'auto'"),
        ("fit D --out R --batch-size big", "--batch-size big: must be auto or a whole number. See `jaxclf fit --help`"),
        ("fit D --out R --batch-size 9.5", "--batch-size 9.5: must be auto or a whole number. See `jaxclf fit --help`"),
        ("fit D --out R --mixup -1", "--mixup -1: must not be negative"),
        ("fit D --out R --lr 0", "--lr 0: must be positive"),
        ("find-lr D --steps 3", "--steps 3: must be a whole number of at least 20"),
        ("predict R a.jpg --top 0", "--top 0: must be at least 1"),
        ("fit D --out R --image-size big", "--image-size big: must be a whole number. See `jaxclf fit --help`"),
        ("fit D --out R --lr x", "--lr x: must be a number. See `jaxclf fit --help`"),
        ("fit D --out R --head conv", "--head conv: must be one of pools, linear, concat. See `jaxclf fit --help`"),
        ("fit D --out R --momentum", "--momentum: needs a value. See `jaxclf fit --help`"),
        (
            "fit D --out R --batch-siz 3",
            "--batch-siz is not a flag of `jaxclf fit`; did you mean --batch-size? See `jaxclf fit --help`",
        ),
        ("fit --zzz", "--zzz is not a flag of `jaxclf fit`. See `jaxclf fit --help`"),
        ("fit D", "`jaxclf fit` needs --out STR. See `jaxclf fit --help`"),
        ("evaluate", "`jaxclf evaluate` needs RUN and DATA. See `jaxclf evaluate --help`"),
        ("fit D E --out R", "'E' is one argument too many for `jaxclf fit`. See `jaxclf fit --help`"),
        ("fi D", "fi is not a command of `jaxclf`; did you mean fit? See `jaxclf --help`"),
        ("weights lst", "lst is not a command of `jaxclf weights`; did you mean list? See `jaxclf weights --help`"),
        ("weights", "`jaxclf weights` needs a command: list, show, convert, export. See `jaxclf weights --help`"),
    ],
)
def test_wrong_usage_is_one_line_in_the_users_words(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    assert run(*arguments.split()) == cli.EXIT_USAGE
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err == f"jaxclf: error: {message}\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("typed", "field", "value"),
    [
        ("", "bn_frozen", None),
        ("--bn-frozen", "bn_frozen", True),
        ("--no-bn-frozen", "bn_frozen", False),
        ("", "batch_size", "auto"),
        ("--batch-size auto", "batch_size", "auto"),
        ("--batch-size 12", "batch_size", 12),
        ("--deterministic", "deterministic", True),
    ],
)
def test_what_may_stay_open_can_be_said_either_way(typed, field, value):
    work = usage.parse(commands.COMMANDS, "jaxclf", "", ["fit", "D", "--out", "R", *typed.split()])
    assert getattr(work.settings, field) == value


def test_what_is_not_known_of_tyro_is_passed_on_without_its_box():
    box = "╭─ New kind ───╮\n│ Something is │\n│ wrong.       │\n│ ──────────── │\n│ more         │\n╰──────────────╯\n"
    said = usage._as_one_line(box, commands.COMMANDS, "jaxclf", ["fit", "D"])
    assert said == "Something is wrong. See `jaxclf fit --help`"


def test_colours_only_for_a_terminal_that_wants_them(monkeypatch):
    class Stream:
        def isatty(self):
            return True

    assert not usage._Captured(Stream()).isatty()  # NO_COLOR is set for all tests
    monkeypatch.delenv("NO_COLOR")
    assert usage._Captured(Stream()).isatty()


def test_the_help_flows(monkeypatch, capsys):
    """No line within a flag's help ends long before its box does, but the last."""
    monkeypatch.setenv("COLUMNS", "80")
    assert run("fit", "--help") == 0
    inside = [re.fullmatch(r"│ (.*) │", line) for line in capsys.readouterr().out.splitlines()]
    texts = [found[1] for found in inside if found is not None]
    for text, after in itertools.pairwise(texts):
        word = re.match(r" {10,}(\S+)", after)
        if word is not None and re.match(r" {10,}\S|--\S+ ([A-Z]+|\{\S+\})? {2,}\S", text):
            assert len(text.rstrip()) + 1 + len(word[1]) > 76, text


def test_usage_errors_are_raised_not_printed(capsys):
    with pytest.raises(UsageError, match="--seed -1: must be a whole number"):
        usage.parse(commands.COMMANDS, "jaxclf", "", ["fit", "D", "--out", "R", "--seed", "-1"])
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""
