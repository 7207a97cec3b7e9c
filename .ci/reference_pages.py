"""Writes the reference from the docstrings: a page for each public module, in plain Markdown.

`python .ci/reference_pages.py [FOLDER]` writes the pages below FOLDER, this repository unless it says otherwise.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import is_dataclass
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).parents[1]
CLIENT = "clients/python/docs/reference"
PAGES = {
    "ancestral_client": f"{CLIENT}/ancestral_client.md",
    "ancestral_client.results": f"{CLIENT}/results.md",
    "ancestral_client.errors": f"{CLIENT}/errors.md",
    "ancestral_client.sklearn": f"{CLIENT}/sklearn.md",
    "ancestral_client.testing": f"{CLIENT}/testing.md",
    "ancestral_client.tracing": f"{CLIENT}/tracing.md",
    "ancestral_client.pictures": f"{CLIENT}/pictures.md",
    "ancestral_client.fitting": f"{CLIENT}/fitting.md",
    "ancestral_exporter.models.base": "exporter/docs/reference.md",
}
"""Modules that programs of users import, and where their pages are."""


def page(module: ModuleType) -> str:
    """The page of a module."""
    lines = [
        f"# `{module.__name__}`",
        "",
        "Written by `make generated` from the docstrings: what is wrong here is mended there.",
        "",
        *text(inspect.getdoc(module)),
    ]
    elsewhere = [other for other in PAGES if other.startswith(f"{module.__name__}.")]
    if elsewhere:
        pages = ", ".join(f"[`{other}`]({Path(PAGES[other]).name})" for other in elsewhere)
        lines += ["", f"Pages of their own have {pages}."]
    told: dict[str, str] = {}  # docstrings of methods, and the class that they were told of
    for name in names(module):
        value = getattr(module, name)
        lines += ["", f"## {name}", ""]
        if inspect.isclass(value):
            lines += of_class(name, value, told)
        elif callable(value):
            lines += [*signature(name, value), "", *text(inspect.getdoc(value))]
        else:
            lines += [f"`{name} = {value!r}`", "", *text(constants(module).get(name))]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).rstrip() + "\n"


def names(module: ModuleType) -> list[str]:
    """The public names that a module's page is about, in the order in which they are defined.

    Those of `__all__`, but for what has a page of its own; of a module whose names its package offers, these; else what
    it defines.
    """
    offered = getattr(module, "__all__", None)
    if offered is None:
        package = importlib.import_module(module.__name__.rpartition(".")[0] or module.__name__)
        of_package = [name for name in getattr(package, "__all__", ()) if defined_in(module, name)]
        own = [name for name in vars(module) if not name.startswith("_") and defined_in(module, name)]
        return [name for name in own if name in of_package] or [*own, *constants(module)]
    values = [name for name in constants(module) if name in offered]
    made = [name for name in offered if name not in values]
    here = [name for name in made if getattr(module, name).__module__ not in PAGES or defined_in(module, name)]
    return [*sorted(here, key=lambda name: _place(getattr(module, name))), *values]


def defined_in(module: ModuleType, name: str) -> bool:
    return getattr(vars(module).get(name), "__module__", None) == module.__name__


def _place(value: Any) -> tuple[bool, str, int]:
    """Where something is defined: what is called client comes first."""
    return not value.__module__.endswith(".client"), value.__module__, inspect.getsourcelines(value)[1]


def of_class(name: str, kind: type, told: dict[str, str]) -> Iterator[str]:
    bases = [base.__name__ for base in kind.__bases__ if base is not object and not base.__name__.startswith("_")]
    if not issubclass(kind, BaseException) and not inspect.isabstract(kind) and not hasattr(kind, "_is_protocol"):
        yield from signature(name, kind)
        yield ""
    yield from text(inspect.getdoc(kind))
    if bases and bases != ["ABC"]:
        yield from ("", f"A subclass of {', '.join(f'`{base}`' for base in bases)}.")
    fields = {
        field: (annotation, doc)
        for base in reversed(kind.__mro__)
        if base.__module__ == kind.__module__
        for field, (annotation, doc) in attributes(base).items()
    }
    if is_dataclass(kind) and fields:
        yield ""
        for field, (annotation, doc) in fields.items():
            yield f"- `{field}: {annotation}`{': ' + ' '.join(doc.split()) if doc else ''}"
    same: dict[str, list[str]] = {}
    for method, value in members(kind):
        doc = inspect.getdoc(value) or ""
        # The same words under the same name: `AsyncClient.encode` is `Client.encode`, awaited.
        if told.setdefault(f"{method} {doc}", name) != name:
            same.setdefault(told[f"{method} {doc}"], []).append(method)
            continue
        yield from ("", f"### {name}.{method}", "")
        if isinstance(value, property):
            yield "A property."
        else:
            yield from signature(method, value)
        yield ""
        yield from text(doc)
    for other, methods in same.items():
        yield ""
        yield f"As those of [{other}](#{other.lower()}): {', '.join(f'`{method}`' for method in methods)}."


def members(kind: type) -> Iterator[tuple[str, Any]]:
    """The public methods and properties of a class that say what they do, those of its private bases among them."""
    seen = set()
    for base in kind.__mro__:
        ours = base.__module__.partition(".")[0] == kind.__module__.partition(".")[0]
        if not ours or (base is not kind and not base.__name__.startswith("_")):
            continue
        for name, value in vars(base).items():
            function = value.__func__ if isinstance(value, classmethod | staticmethod) else value
            public = not name.startswith("_") and (inspect.isfunction(function) or isinstance(function, property))
            if public and name not in seen and inspect.getdoc(function):
                seen.add(name)
                yield name, function


def signature(name: str, value: Any) -> Iterator[str]:
    """The call, in a block of its own."""
    found = inspect.signature(value)
    parts, star = [], False
    for parameter in found.parameters.values():
        if parameter.name in ("self", "cls"):
            continue
        if parameter.kind is parameter.KEYWORD_ONLY and not star:
            star = True
            parts.append("*")
        star = star or parameter.kind is parameter.VAR_POSITIONAL
        mark = "*" * (parameter.kind is parameter.VAR_POSITIONAL) + "**" * (parameter.kind is parameter.VAR_KEYWORD)
        annotation = "" if parameter.annotation is parameter.empty else f": {spelt(parameter.annotation)}"
        equals = " = " if annotation else "="
        default = "" if parameter.default is parameter.empty else f"{equals}{parameter.default!r}"
        parts.append(f"{mark}{parameter.name}{annotation}{default}")
    gives = "" if found.return_annotation in (found.empty, None, "None") else f" -> {spelt(found.return_annotation)}"
    line = f"{name}({', '.join(parts)}){gives}"
    if len(line) > 100:
        line = f"{name}(\n" + "".join(f"    {part},\n" for part in parts) + f"){gives}"
    yield f"```text\n{line}\n```"


def spelt(annotation: Any) -> str:
    """An annotation as it stands in the source."""
    return annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)


def text(doc: str | None) -> Iterator[str]:
    """A docstring as Markdown: sessions of Python, and what is drawn, are blocks."""
    for part in (doc or "").split("\n\n"):
        lines = part.splitlines()
        drawn = any("──" in line for line in lines)
        begin = 0 if drawn else next((i for i, line in enumerate(lines) if line.startswith(">>>")), len(lines))
        if begin:
            yield from (*lines[:begin], "")
        if lines[begin:]:
            yield from ("```text", *lines[begin:], "```", "")


def attributes(kind: type) -> dict[str, tuple[str, str]]:
    """The annotated attributes of a class: how each is annotated, and the text below it."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0]
    except (OSError, TypeError):
        return {}
    assert isinstance(tree, ast.ClassDef)
    return described(tree.body)


def constants(module: ModuleType) -> dict[str, str]:
    """The constants of a module that have a text below them."""
    body = ast.parse(inspect.getsource(module)).body
    found = {name: doc for name, (_, doc) in described(body).items() if doc}
    for node, after in pairwise(body):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and (doc := doc_of(after)):
            found[node.targets[0].id] = doc
    return found


def described(body: list[ast.stmt]) -> dict[str, tuple[str, str]]:
    found = {}
    for node, after in zip(body, [*body[1:], ast.Pass()], strict=True):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and not node.target.id.startswith("_"):
            found[node.target.id] = (ast.unparse(node.annotation), doc_of(after))
    return found


def doc_of(node: ast.stmt) -> str:
    """The text that a statement is, or none."""
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
        return inspect.cleandoc(node.value.value)
    return ""


def main(folder: Path) -> None:
    for module, path in PAGES.items():
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(page(importlib.import_module(module)))


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT)
