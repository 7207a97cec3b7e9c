"""The commands of the distribution. All are installed with any of its parts, and each needs the packages of its own."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module


def client() -> None:
    _run("ancestral", "ancestral_client.cli", extra="client")


def server() -> None:
    _run("ancestral-server", "ancestral_server.cli", extra="server")


def exporter() -> None:
    _run("ancestral-exporter", "ancestral_exporter.cli", extra="exporter")


def demo() -> None:
    _run("ancestral-demo", "ancestral_demo.__main__", extra="demo")


def _run(command: str, module: str, *, extra: str) -> None:
    """Run `main` of a module; exit code 1 where a package that it needs is not installed."""
    try:
        with naming_the_extra(command, extra=extra):
            import_module(module).main()
    except KeyboardInterrupt:  # before the command itself looks after it, as while its packages are read
        sys.exit(130)


@contextmanager
def naming_the_extra(command: str, *, extra: str) -> Iterator[None]:
    """Where a package that is imported here is not installed, end with exit code 1 and one line on which extra brings
    it.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if not missing or missing == "inference" or missing.startswith("ancestral"):
            raise  # one of ours, which no extra would bring
        print(f"{command}: needs {missing}, which is not installed: pip install 'ancestral[{extra}]'", file=sys.stderr)
        sys.exit(1)
