"""What the packages are made of."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_import_roots_hold_only_their_package() -> None:
    """What lies directly in an import root would be importable by a bare name in development."""
    for root in ("protos", "server", "exporter", "clients/python", "clients/studio", "clients/demo"):
        assert list((ROOT / root).glob("*.py")) == [], root


def test_every_part_says_that_it_is_typed() -> None:
    for package in (
        "protos/ancestral",
        "protos/inference",
        "server/ancestral_server",
        "exporter/ancestral_exporter",
        "clients/python/ancestral_client",
        "clients/studio/ancestral_studio",
        "clients/demo/ancestral_demo",
    ):
        assert (ROOT / package / "py.typed").is_file(), package
