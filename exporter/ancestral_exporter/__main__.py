"""`ancestral-exporter`, where what it needs is installed."""

from __future__ import annotations

from ancestral.commands import run


def main() -> None:
    run("ancestral-exporter", "ancestral_exporter.cli", extra="exporter")


if __name__ == "__main__":
    main()
