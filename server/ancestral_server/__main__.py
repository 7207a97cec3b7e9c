"""`ancestral-server`, where what it needs is installed."""

from __future__ import annotations

from ancestral.commands import run


def main() -> None:
    run("ancestral-server", "ancestral_server.cli", extra="server")


if __name__ == "__main__":
    main()
