"""How the engine is put together: of parts that are passed in, not by subclasses that replace each other's methods."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ENGINE = Path(__file__).parents[2] / "server/ancestral_server/engine"
# What decides must not know when it is asked, nor by whom.
_DECIDES = ("admission", "batching", "costs", "memory_limit", "one_shot", "policy", "queue", "raster", "supervisor")
_RUNS = ("runners", "pool", "lane", "endpoint")
_THREADS_AND_CLOCKS = {"asyncio", "threading", "time", "concurrent"}


def classes() -> dict[str, ast.ClassDef]:
    return {
        node.name: node
        for path in ENGINE.glob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef)
    }


def name_of(node: ast.expr) -> str:
    """The last name of a base or a decorator, without its parameters."""
    if isinstance(node, ast.Subscript):
        return name_of(node.value)
    if isinstance(node, ast.Call):
        return name_of(node.func)
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def methods(node: ast.ClassDef) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (each for each in node.body if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef))


def is_abstract(method: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    return "abstractmethod" in map(name_of, method.decorator_list)


def overridden(known: dict[str, ast.ClassDef], node: ast.ClassDef) -> Iterator[str]:
    """The working methods of classes below that a class replaces."""
    bases = [name_of(base) for base in node.bases]
    while bases:
        base = known.get(bases.pop())
        if base is None or "Protocol" in map(name_of, base.bases):
            continue
        bases += map(name_of, base.bases)
        working = {method.name for method in methods(base) if not is_abstract(method)}
        for method in methods(node):
            if method.name in working:
                yield f"{node.name}.{method.name} replaces that of {base.name}"


def test_no_class_replaces_a_working_method_of_another() -> None:
    known = classes()
    assert [text for node in known.values() for text in overridden(known, node)] == []


def test_the_check_sees_a_method_that_is_replaced() -> None:
    tree = ast.parse(
        "class A:\n def f(self): ...\n @abstractmethod\n def g(self): ...\n"
        "class B(A): ...\nclass C(B):\n def f(self): ...\n def g(self): ..."
    )
    known = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    assert list(overridden(known, known["C"])) == ["C.f replaces that of A"]


def test_every_constructor_says_what_it_takes() -> None:
    vague = []
    for name, node in classes().items():
        for method in methods(node):
            if method.name != "__init__":
                continue
            arguments = method.args
            vague += [f"{name}: *{argument.arg}" for argument in (arguments.vararg, arguments.kwarg) if argument]
            for argument in (*arguments.posonlyargs, *arguments.args[1:], *arguments.kwonlyargs):
                kind = argument.annotation
                if kind is None or name_of(kind) in ("Any", "object"):
                    vague.append(f"{name}: {argument.arg}")
    assert vague == []


def test_what_decides_knows_no_thread_no_clock_and_no_event_loop() -> None:
    known = []
    for module in _DECIDES:
        for node in ast.walk(ast.parse((ENGINE / f"{module}.py").read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            known += [f"{module}: {name}" for name in names if name.partition(".")[0] in _THREADS_AND_CLOCKS]
            known += [
                f"{module}: {name}"
                for name in names
                if name.rpartition(".")[2] in ("runners", "pool", "lane", "endpoint")
            ]
    assert known == []
