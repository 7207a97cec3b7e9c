"""The example for Node, in a folder with its packages, as `npm ci` leaves it: what the tools brought (.ci/tools)."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "clients" / "examples" / "node"
PACKAGES = ROOT / ".tools" / "node"


def example(folder: Path) -> Path:
    """A copy of the example below `folder`, where it finds the protos and its packages: none is written in the tree."""
    place = folder / "clients" / "examples" / "node"
    if not place.exists():
        assert (PACKAGES / "package-lock.json").read_bytes() == (EXAMPLE / "package-lock.json").read_bytes(), (
            "make tools"
        )
        place.mkdir(parents=True)
        for name in ("package.json", "package-lock.json", "example.js"):
            (place / name).write_bytes((EXAMPLE / name).read_bytes())
        (place / "node_modules").symlink_to(PACKAGES / "node_modules")
        (folder / "protos").symlink_to(ROOT / "protos")
    return place
