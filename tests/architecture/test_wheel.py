"""The wheel that the images install: an editable install is no stand-in for it."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_wheel_holds_every_part_and_no_generic_name(tmp_path: Path) -> None:
    flags = ["--quiet", "--no-deps", "--no-build-isolation", "-w", str(tmp_path)]
    subprocess.run([sys.executable, "-m", "pip", "wheel", *flags, str(ROOT)], check=True, timeout=500)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    packages = {name.split("/")[0] for name in names if ".dist-info/" not in name}
    # `inference` is generic, but it is the protocol's own package: generated code imports it under that name.
    parts = {"ancestral_server", "ancestral_exporter", "ancestral_client", "ancestral_studio", "ancestral_demo"}
    assert packages == {"ancestral", "inference"} | parts
    for root, package in (
        ("protos", "ancestral"),
        ("protos", "inference"),
        ("server", "ancestral_server"),
        ("exporter", "ancestral_exporter"),
        ("clients/python", "ancestral_client"),
        ("clients/studio", "ancestral_studio"),
        ("clients/demo", "ancestral_demo"),
    ):
        sources = (path for path in (ROOT / root / package).rglob("*") if path.suffix in (".py", ".cu", ".h"))
        modules = {str(path.relative_to(ROOT / root)) for path in sources}
        assert modules <= names
        # What the page is made of beside Python.
        beside = [path for end in ("js", "css") for path in (ROOT / root / package).rglob(f"*.{end}")]
        assert {str(path.relative_to(ROOT / root)) for path in beside} <= names
        assert f"{package}/py.typed" in names
