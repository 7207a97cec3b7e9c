"""How many CPUs this process may use: those it may run on, and the time that its cgroups grant it."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator
from pathlib import Path

# A line of /proc/self/mountinfo: which folder of which kind of file system is mounted where.
_MOUNT = re.compile(r"^\d+ \d+ \S+ (?P<top>\S+) (?P<point>\S+) .*? - (?P<kind>\S+) \S* (?P<options>\S+)$", re.MULTILINE)


def usable_cpus(root: Path = Path("/")) -> int:
    """At least one. What a quota grants beyond whole CPUs is the front end's: had it threads of its own to compute on,
    the kernel would stop them all in each of its periods.

    root: the folder that holds /proc and, by the paths in there, the cgroups.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
    return max(1, math.floor(min(allowed, _cpu_quota(root))))


def _cpu_quota(root: Path) -> float:
    """CPUs' worth of time in each period, the least of the cgroup and those above it; infinite if there is no quota."""
    return min(map(_quota, _cgroups(root)), default=math.inf)


def _cgroups(root: Path) -> Iterator[Path]:
    """The folders that may hold a quota of this process, of versions 1 and 2: its own cgroup's and those above it.

    In a container its own is often the uppermost that is mounted.
    """
    paths: dict[str, str] = {}  # by the type of the file system
    for line in _text(root / "proc/self/cgroup").splitlines():
        hierarchy, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if hierarchy == "0":
            paths["cgroup2"] = path
        elif "cpu" in controllers.split(","):
            paths["cgroup"] = path
    for mount in _MOUNT.finditer(_text(root / "proc/self/mountinfo")):
        kind = mount["kind"]
        if kind not in paths or (kind == "cgroup" and "cpu" not in mount["options"].split(",")):
            continue
        mounted = root / _unescaped(mount["point"]).lstrip("/")
        folder = mounted / _below(paths[kind], _unescaped(mount["top"]))
        if not folder.is_dir():
            folder = mounted
        yield from (folder, *(parent for parent in folder.parents if parent.is_relative_to(mounted)))


def _below(path: str, top: str) -> str:
    """The part of a cgroup's path below the one that is mounted; none if a container sees it as lying elsewhere."""
    inside = path == top or path.startswith(f"{top.rstrip('/')}/")
    return "" if not inside or ".." in path.split("/") else path.removeprefix(top).lstrip("/")


def _quota(folder: Path) -> float:
    """CPUs' worth of time that a cgroup grants in each of its periods."""
    # Version 2 says "QUOTA PERIOD", or "max PERIOD"; version 1 has a file for each, and -1 is no quota.
    said = _text(folder / "cpu.max") or f"{_text(folder / 'cpu.cfs_quota_us')} {_text(folder / 'cpu.cfs_period_us')}"
    numbers = re.fullmatch(r"([1-9]\d*) ([1-9]\d*)", said)
    return int(numbers[1]) / int(numbers[2]) if numbers else math.inf


def _text(file: Path) -> str:
    """Empty where there is no such file, or none that this process may read."""
    try:
        return file.read_text(errors="surrogateescape").strip()
    except OSError:
        return ""


def _unescaped(path: str) -> str:
    """A path of mountinfo, which writes a space as a backslash and 040, and the like."""
    return re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), path)
