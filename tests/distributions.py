"""Which distributions an extra of ours needs on this machine, and environments that hold these and nothing else."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


def closure(extras: str) -> set[str]:
    """Every distribution that installing ancestral[extras] needs on this machine, but ours."""
    found: set[str] = set()
    todo = [Requirement(f"ancestral[{extras}]")]
    while todo:
        wanted = todo.pop()
        asked = sorted(wanted.extras) or [""]
        for text in metadata.requires(wanted.name) or ():
            requirement = Requirement(text)
            marker = requirement.marker
            if marker is not None and not any(marker.evaluate({"extra": name}) for name in asked):
                continue
            key = canonicalize_name(requirement.name)
            if key not in found or requirement.extras:
                found.add(key)
                todo.append(requirement)
    return found - {"ancestral"}


def link(names: Iterable[str], folder: Path) -> None:
    """Have a folder of packages hold these distributions as links to what is installed here; nothing of another one is
    found there. KeyError if one is not installed.
    """
    files: dict[str, list[Path]] = {canonicalize_name(each.name): _files(each) for each in metadata.distributions()}
    wanted = set(names)
    # What holds something of another distribution is made anew, as the package `google` of several; the rest is linked.
    shared = {parent for name in files.keys() - wanted for file in files[name] for parent in file.parents}
    here = Path(str(metadata.distribution("packaging").locate_file("")))
    for file in {file for name in wanted for file in files[name]}:
        whole = next((parent for parent in reversed(file.parents) if parent not in shared), file)
        target = folder / whole
        if not target.is_symlink():
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(here / whole)


def _files(distribution: metadata.Distribution) -> list[Path]:
    """The files of a distribution among the packages, relative to their folder; programs lie elsewhere."""
    record = distribution.read_text("RECORD") or ""
    # Far faster than `Distribution.files`, which makes an object of each of 100,000 lines. Names are never quoted.
    paths = [Path(line.rsplit(",", 2)[0]) for line in record.splitlines()]
    return [path for path in paths if path.parts and path.parts[0] != ".."]
