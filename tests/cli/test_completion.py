"""Completion in the shells themselves, where they are installed."""

import shutil
import subprocess

import pytest
from commands import run

from jaxclf.cli.commands import COMMANDS
from jaxclf.cli.completion import completion_script
from jaxclf.models import list_archs
from jaxclf.run.recipes import RECIPES

#: Asks the function for what follows these words, the last of them unfinished.
ASK = """
ask() { COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=(); _jaxclf; echo "${COMPREPLY[*]}"; }
"""
WORDS = {
    "fi": "fit find-lr",
    "weights ": "list show convert export --help",
    "weights co": "convert",
    "weights convert --": "--arch --overwrite --help --debug",
    "fit --arc": "--arch",
    "fit --no-": "--no-bn-frozen",
    "fit --head ": "pools linear concat",
    "fit photos --lr-rule st": "steep",
    "fit --arch resnet18": "resnet18 resnet18d",
    "fit --arch ": " ".join(list_archs()),
    "fit --recipe ": " ".join(RECIPES),
    "completion ": "bash zsh --help",
    "predict --top": "--top",
    "fit photos --out ": "",
    "fit ": "",
    "--v": "--version",
    "": f"{' '.join(COMMANDS)} --help --version",
}


def shell(*arguments: str, script: str) -> list[str]:
    if shutil.which(arguments[0]) is None:
        pytest.skip(f"needs {arguments[0]}, which is not installed here")
    done = subprocess.run([*arguments, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    return done.stdout.splitlines()


@pytest.mark.parametrize("name", ["bash", "zsh"])
def test_what_the_key_offers(name):
    asked = "\n".join("ask jaxclf " + " ".join(f'"{word}"' for word in words.split(" ")) for words in WORDS)
    if name == "bash":
        printed = shell("bash", "--norc", script=completion_script(name, COMMANDS) + ASK + asked)
    else:  # as bashcompinit calls it: with arrays that count from 0
        printed = shell("zsh", "-f", script=completion_script(name, COMMANDS) + "setopt ksharrays\n" + ASK + asked)
        # .. and zsh itself leaves out what does not begin as was typed.
        asked_for = [words.rpartition(" ")[2] for words in WORDS]
        printed = [
            " ".join(word for word in line.split() if word.startswith(begun))
            for line, begun in zip(printed, asked_for, strict=True)
        ]
    assert dict(zip(WORDS, printed, strict=True)) == WORDS


def test_the_key_itself_in_bash(tmp_path):
    """Registered for jaxclf, with file names where nothing else fits, and no program is started for it."""
    (tmp_path / "script").write_text(completion_script("bash", COMMANDS))
    lines = shell("bash", "--norc", script=f"PATH=/nowhere; source {tmp_path}/script; complete -p jaxclf")
    assert lines == ["complete -o default -F _jaxclf jaxclf"]
    lines = shell(
        "bash", "--norc", script=f"source {tmp_path}/script; PATH=/nowhere\n{ASK}\nask jaxclf fi\nask jaxclf fit --arc"
    )
    assert lines == ["fit find-lr", "--arch"]


def test_the_command_prints_it(capsys):
    assert run("completion", "bash") == 0
    assert capsys.readouterr().out == completion_script("bash", COMMANDS)
