"""No function asks for too much or does too much: parameters and lines of code are counted."""

import ast
import importlib
import inspect
import io
import tokenize
from pathlib import Path

import pytest

import jaxclf

PACKAGE = Path(jaxclf.__file__).parent
MAX_PRIVATE, MAX_PUBLIC, MAX_LINES = 8, 12, 60


def public_functions() -> set[str]:
    """`module.qualified.name` of what `jaxclf` and its public modules offer: functions, and methods of classes."""
    offered = [getattr(jaxclf, name) for name in jaxclf.__all__]
    for module in [thing for thing in offered if inspect.ismodule(thing)]:
        offered += [getattr(module, name) for name in getattr(module, "__all__", dir(module)) if name[0] != "_"]
    found = set()
    for thing in offered:
        if inspect.isclass(thing) and thing.__module__.startswith("jaxclf"):
            found |= {f"{thing.__module__}.{thing.__qualname__}.{name}" for name in vars(thing)}
        elif inspect.isroutine(thing) or hasattr(thing, "__wrapped__"):
            found.add(f"{thing.__module__}.{inspect.unwrap(thing).__qualname__}")
    return found


def code_lines(source: str, node: ast.FunctionDef) -> int:
    """Lines that hold code: no blank ones, comments or docstrings."""
    text = "\n".join(source.splitlines()[node.lineno - 1 : node.end_lineno])
    docstrings = {
        line
        for inner in ast.walk(node)
        if isinstance(inner, ast.FunctionDef) and ast.get_docstring(inner, clean=False) is not None
        for line in range(inner.body[0].lineno, inner.body[0].end_lineno + 1)
    }
    skipped = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    tokens = tokenize.generate_tokens(io.StringIO(inspect.cleandoc("\n" + text)).readline)
    lines = {line for token in tokens if token.type not in skipped for line in range(token.start[0], token.end[0] + 1)}
    return len({line + node.lineno - 1 for line in lines} - docstrings)


def functions():
    for path in sorted(PACKAGE.rglob("*.py")):
        source = path.read_text(encoding="utf-8")
        module = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")
        stack = [(ast.parse(source), module)]
        while stack:
            node, name = stack.pop()
            for inner in ast.iter_child_nodes(node):
                if isinstance(inner, ast.ClassDef | ast.FunctionDef):
                    stack.append((inner, f"{name}.{inner.name}"))
                    if isinstance(inner, ast.FunctionDef):
                        yield f"{name}.{inner.name}", inner, source
                elif isinstance(inner, ast.If | ast.Try | ast.With):
                    stack.append((inner, name))


def num_parameters(node: ast.FunctionDef) -> int:
    arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
    return len([argument for argument in arguments if argument.arg not in ("self", "cls")])


@pytest.fixture(scope="module")
def found():
    for room in sorted(path.stem for path in PACKAGE.iterdir() if (path / "__init__.py").exists()):
        importlib.import_module(f"jaxclf.{room}")
    return list(functions())


def test_no_function_has_too_many_parameters(found):
    public = public_functions()
    assert "jaxclf.training.fit.fit" in public and "jaxclf.data.loader.Loader.__init__" in public
    too_many = {
        name: count
        for name, node, _ in found
        if (count := num_parameters(node)) > (MAX_PUBLIC if name in public else MAX_PRIVATE)
    }
    assert not too_many


def test_no_function_is_too_long(found):
    assert len(found) > 500
    too_long = {name: lines for name, node, source in found if (lines := code_lines(source, node)) > MAX_LINES}
    assert not too_long


def test_the_count_sees_code_only():
    source = 'def f(a):\n    """One\n    two."""\n\n    # why\n    return (\n        a\n    )\n'
    assert code_lines(source, ast.parse(source).body[0]) == 4
