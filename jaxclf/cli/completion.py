"""`jaxclf completion bash|zsh`: a script that completes commands, flags and their values, without starting Python."""

import dataclasses
import typing
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, Literal

import tyro

from jaxclf.cli.arguments import LeftOut

#: Flags that every command has.
COMMON = ("--help", "--debug")

_SCRIPT = """\
_jaxclf() {
  local command=${COMP_WORDS[1]} cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} offered=
  if [[ $COMP_CWORD -gt 2 && " @GROUPS@ " == *" $command "* ]]; then
    command="$command ${COMP_WORDS[2]}"
  fi
  if [[ $COMP_CWORD -eq 1 ]]; then
    offered="@COMMANDS@ --help --version"
  else
    case "$command $prev" in
@VALUES@
    *)
      case "$command" in
@FLAGS@
      esac
      # Flags only once a dash is there: what has none is a file, a folder or a value.
      if [[ $cur != -* && " @GROUPS@ " != *" $command "* && $command != completion ]]; then offered=; fi
      ;;
    esac
  fi
  COMPREPLY=($(compgen -W "$offered" -- "$cur"))
}
complete -o default -F _jaxclf jaxclf
"""
_ZSH = "autoload -Uz compinit bashcompinit\n(( $+functions[compdef] )) || compinit\nbashcompinit\n"


def completion_script(shell: str, commands: Mapping[str, Callable[..., Any]]) -> str:
    """The script for "bash" or "zsh", of the commands by their names."""
    from jaxclf.cli.weights import COMMANDS as WEIGHTS

    names = " ".join(commands)
    commands = {**commands, **{f"weights {name}": command for name, command in WEIGHTS.items()}}
    flags: dict[str, tuple[str, ...]] = {"weights": (*WEIGHTS, "--help"), "completion": ("bash", "zsh", "--help")}
    values: dict[str, tuple[str, ...]] = {}
    for name, command in commands.items():
        known = command_flags(command)
        flags.setdefault(name, (*known, *COMMON))
        values |= {f"{name} {flag}": choices for flag, choices in known.items() if choices}
    parts = {
        "@COMMANDS@": names,
        "@GROUPS@": "weights",
        "@VALUES@": _cases(values, "    "),
        "@FLAGS@": _cases(flags, "      "),
    }
    script = _SCRIPT
    for name, text in parts.items():
        script = script.replace(name, text)
    return f"# Completion for {shell}, from `jaxclf completion {shell}`.\n{_ZSH if shell == 'zsh' else ''}{script}"


def _cases(words: Mapping[str, tuple[str, ...]], indent: str) -> str:
    """Branches of a shell's `case`; patterns with the same words share one."""
    patterns: dict[tuple[str, ...], list[str]] = {}
    for pattern, of in words.items():
        patterns.setdefault(of, []).append(f'"{pattern}"')
    return "\n".join(f'{indent}{"|".join(shared)}) offered="{" ".join(of)}" ;;' for of, shared in patterns.items())


def command_flags(command: Callable[..., Any]) -> dict[str, tuple[str, ...]]:
    """Flag -> the values it can have, where these are few and known; by the fields of the command.

    >>> @dataclasses.dataclass
    ... class Fit:
    ...     data: Annotated[str, tyro.conf.Positional]
    ...     lr_rule: Literal["valley", "steep"]
    ...     plan: bool
    >>> command_flags(Fit)
    {'--lr-rule': ('valley', 'steep'), '--plan': ()}
    """
    flags = {}
    for name, hint in _fields(command):
        flags[f"--{name.replace('_', '-')}"] = _known_values(name, hint)
        if hint == bool | None:
            flags[f"--no-{name.replace('_', '-')}"] = ()
    return flags


def _fields(command: Callable[..., Any]) -> Iterator[tuple[str, Any]]:
    """(name, type) of what is a flag. A dataclass stands for its fields, as `Settings` does, but those `LeftOut`."""
    for name, hint in typing.get_type_hints(command, include_extras=True).items():
        bare = typing.get_args(hint)[0] if typing.get_origin(hint) is Annotated else hint
        if dataclasses.is_dataclass(bare):
            left_out = {name for each in typing.get_args(hint) if isinstance(each, LeftOut) for name in each}
            yield from (field for field in typing.get_type_hints(bare).items() if field[0] not in left_out)
        elif tyro.conf.Positional not in typing.get_args(hint):
            yield name, bare


def _known_values(name: str, hint: Any) -> tuple[str, ...]:
    from jaxclf.models import list_archs
    from jaxclf.run.recipes import RECIPES

    if name in ("arch", "recipe"):
        return tuple(list_archs() if name == "arch" else RECIPES)
    return tuple(dict.fromkeys(_literals(hint)))


def _literals(hint: Any) -> Iterator[str]:
    if typing.get_origin(hint) is Literal:
        yield from map(str, typing.get_args(hint))
    else:
        for inner in typing.get_args(hint):
            yield from _literals(inner)
