"""How every command of the distribution begins: each installs the packages of some parts only, by its extras."""

from __future__ import annotations

import sys
from importlib import import_module

_OWN = ("ancestral", "inference")


def run(command: str, module: str, *, extra: str) -> None:
    """Run `main` of a module. Where a package that it needs is not installed, say in one line which extra brings it, and
    end with exit code 1.
    """
    try:
        import_module(module).main()
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if not missing or missing.startswith(_OWN):
            raise  # no extra would bring it
        print(f"{command}: needs {missing}, which is not installed: pip install 'ancestral[{extra}]'", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:  # before the command itself looks after it, as while its packages are read
        sys.exit(130)
