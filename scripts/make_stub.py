"""Writes `jaxclf/__init__.pyi`, by which editors and type checkers know the names that are imported when first used.

    python scripts/make_stub.py

It is made from the two tables of `jaxclf/__init__.py`; tests/test_typing.py says when it is out of date.
"""

from collections.abc import Mapping
from pathlib import Path

import jaxclf

STUB = Path(jaxclf.__file__).with_suffix(".pyi")
TABLES = vars(jaxclf)  # the stub does not know the private names


def stub_text(modules: Mapping[str, str], exports: Mapping[str, str]) -> str:
    """The stub of public modules -> where they are, and of all other public names -> the module that defines them."""
    origins = [(*path.rpartition(".")[::2], name) for name, path in modules.items()]
    origins += [(module, name, name) for name, module in exports.items()]
    origins.sort(key=lambda origin: (origin[0], *as_ruff_sorts(origin[1])))
    imports = "\n".join(f"from {module} import {name} as {public}" for module, name, public in origins)
    names = sorted(["__version__", *modules, *exports], key=as_ruff_sorts)
    listed = "\n".join(f'    "{name}",' for name in names)
    comment = "# Made by scripts/make_stub.py from the tables in __init__.py."
    return f"{comment}\n\n{imports}\n\n__version__: str\n\n__all__ = [\n{listed}\n]\n"


def as_ruff_sorts(name: str) -> tuple[int, str]:
    """Constants, classes, everything else."""
    return 0 if name.isupper() else 1 if name[0].isupper() else 2, name


if __name__ == "__main__":
    STUB.write_text(stub_text(TABLES["_MODULES"], TABLES["_EXPORTS"]), encoding="utf-8")
    print(f"wrote {STUB}")
