"""How the engine is put together: of parts that are passed in, not by subclasses that replace each other's methods."""

from __future__ import annotations

import abc
import ast
import functools
import importlib
import inspect
import pkgutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from ancestral_server import engine

ENGINE = Path(__file__).parents[2] / "server/ancestral_server/engine"
# What decides must not know when it is asked, nor by whom.
_DECIDES = ("admission", "batching", "costs", "memory_limit", "one_shot", "policy", "queue", "raster", "supervisor")
_RUNS = ("runners", "pool", "lane", "endpoint")
_THREADS_AND_CLOCKS = {"asyncio", "threading", "time", "concurrent"}


def modules() -> list[ModuleType]:
    names = (info.name for info in pkgutil.walk_packages(engine.__path__, f"{engine.__name__}."))
    return [importlib.import_module(name) for name in names]


def classes_of(module: ModuleType) -> list[type]:
    return [each for each in vars(module).values() if isinstance(each, type) and each.__module__ == module.__name__]


def function_of(value: object) -> object:
    """What runs where a class has this: the function in a property, a class method and their kin."""
    for name in ("fget", "func", "__func__"):
        value = getattr(value, name, value)
    return inspect.unwrap(value) if callable(value) else value


def works(value: object) -> bool:
    """Whether this is something that somebody wrote to be called, and that does something."""
    function = function_of(value)
    if not callable(function) or isinstance(function, type) or getattr(value, "__isabstractmethod__", False):
        return False
    code = getattr(function, "__code__", None)
    return code is None or code.co_filename != "<string>"  # which is where dataclasses write theirs


def replaced(kind: type) -> Iterator[str]:
    """The working methods of classes below that a class replaces, in whichever way."""
    for base in kind.__mro__[1:]:
        ours = base.__module__ not in sys.stdlib_module_names and not getattr(base, "_is_protocol", False)
        for name, value in vars(base).items() if ours else ():
            if name in vars(kind) and works(value) and name not in ("__init_subclass__", "__class_getitem__"):
                yield f"{kind.__name__}.{name} replaces that of {base.__name__}"


def test_no_class_replaces_a_working_method_of_another() -> None:
    found = [kind for module in modules() for kind in classes_of(module)]
    assert len(found) > 30
    assert [text for kind in found for text in replaced(kind)] == []


def test_the_check_sees_a_method_that_is_replaced() -> None:
    class Base(abc.ABC):
        def method(self) -> int:
            return 1

        @property
        def value(self) -> int:
            return 1

        @staticmethod
        def helper() -> int:
            return 1

        @abc.abstractmethod
        def left_open(self) -> int: ...

    class Between(Base):
        pass

    class Kind(Between):
        method = lambda self: 2  # noqa: E731
        value = 2
        helper = functools.partial(int, 2)

        def left_open(self) -> int:
            return 2

    @dataclass
    class Fields:
        one: int

    @dataclass
    class More(Fields):
        two: int

    names = [text.partition(" ")[0] for text in replaced(Kind)]
    assert names == ["Kind.method", "Kind.value", "Kind.helper"]
    assert list(replaced(More)) == []


def name_of(node: ast.AST) -> str:
    """The last name of an expression, without its parameters."""
    if isinstance(node, ast.Subscript):
        return name_of(node.value)
    if isinstance(node, ast.Call):
        return name_of(node.func)
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def says_nothing(annotation: ast.expr | None) -> bool:
    """Whether a type leaves open what it is, wholly or in a part of it."""
    if annotation is None or name_of(annotation) == "object":
        return True
    for node in ast.walk(annotation):
        if name_of(node) == "Any":
            return True
        text = node.value if isinstance(node, ast.Constant) else None
        if isinstance(text, str) and says_nothing(ast.parse(text, mode="eval").body):
            return True
    return False


def vague(tree: ast.AST) -> Iterator[str]:
    """What constructors take without saying what it is: arguments, and fields of dataclasses."""
    for kind in ast.walk(tree):
        if not isinstance(kind, ast.ClassDef):
            continue
        fields = "dataclass" in map(name_of, kind.decorator_list) or "NamedTuple" in map(name_of, kind.bases)
        for node in kind.body:
            field = node if fields and isinstance(node, ast.AnnAssign) else None
            if field and name_of(field.annotation) != "ClassVar" and says_nothing(field.annotation):
                yield f"{kind.name}: {name_of(field.target)}"
            if not isinstance(node, ast.FunctionDef) or node.name not in ("__init__", "__new__"):
                continue
            arguments = node.args
            yield from (f"{kind.name}: *{each.arg}" for each in (arguments.vararg, arguments.kwarg) if each)
            for argument in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)[1:]:
                if says_nothing(argument.annotation):
                    yield f"{kind.name}: {argument.arg}"


def test_every_constructor_says_what_it_takes() -> None:
    assert [text for path in ENGINE.rglob("*.py") for text in vague(ast.parse(path.read_text()))] == []


def test_the_check_sees_what_a_constructor_does_not_say() -> None:
    tree = ast.parse(
        "class A:\n"
        " def __init__(self, a, b: Any, c: 'Any', d: list[Any], /, e: Any | None, *f: int, g: object, **h: int): ...\n"
        "@dataclass(frozen=True)\nclass B:\n a: dict[str, typing.Any]\n b: int\n c: ClassVar[Any] = 1\n"
        "class C:\n def __init__(self, a: int, b: Callable[[], object]): ...\n"
    )
    assert sorted(vague(tree)) == ["A: *f", "A: *h", "A: a", "A: b", "A: c", "A: d", "A: e", "A: g", "B: a"]


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
