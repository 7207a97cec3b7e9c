"""`ancestral-demo`, where what it needs is installed."""

from __future__ import annotations

from ancestral.commands import run


def main() -> None:
    run("ancestral-demo", "ancestral_demo.cli", extra="demo")


if __name__ == "__main__":
    main()
