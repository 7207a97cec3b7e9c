"""`ancestral`, where what it needs is installed."""

from __future__ import annotations

from ancestral.commands import run


def main() -> None:
    run("ancestral", "ancestral_client.cli", extra="client")


if __name__ == "__main__":
    main()
