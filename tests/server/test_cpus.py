"""The quota of cgroups, by folders that look like a system's."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ancestral_server.cpus import usable_cpus

CPUS = 8
V2 = "31 23 0:28 {top} /sys/fs/cgroup rw,relatime shared:9 - cgroup2 cgroup2 rw,nsdelegate"
V1 = "32 31 0:29 {top} /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:10 master:3 - cgroup cgroup rw,cpu,cpuacct"
V1_OTHER = "33 31 0:30 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory"


@pytest.fixture(autouse=True)
def eight_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(CPUS)), raising=False)


def system(root: Path, cgroup: str, mounts: str, files: dict[str, str]) -> Path:
    """A root folder with what the kernel says of a process, and files below its /sys/fs/cgroup."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(cgroup)
    (root / "proc/self/mountinfo").write_text("23 28 0:21 / /proc rw - proc proc rw\n" + mounts + "\n")
    for name, text in files.items():
        path = root / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def v1(folder: str, quota: int, period: int = 100_000) -> dict[str, str]:
    return {
        f"cpu,cpuacct/{folder}cpu.cfs_quota_us": f"{quota}\n",
        f"cpu,cpuacct/{folder}cpu.cfs_period_us": f"{period}\n",
    }


@pytest.mark.parametrize(
    ("quota", "cpus"),
    [
        ("50000 100000", 1),
        ("100000 100000", 1),
        ("150000 100000", 1),
        ("200000 100000", 2),
        ("399999 100000", 3),
        ("20000 10000", 2),
        ("5000000 100000", CPUS),
        ("max 100000", CPUS),
        # What is no quota, or cannot be understood, limits nothing.
        ("", CPUS),
        ("0 100000", CPUS),
        ("200000 0", CPUS),
        ("many 100000", CPUS),
    ],
)
def test_a_quota_of_version_2_counts_in_whole_cpus(tmp_path: Path, quota: str, cpus: int) -> None:
    root = system(tmp_path, "0::/\n", V2.format(top="/"), {"cpu.max": f"{quota}\n"})
    assert usable_cpus(root) == cpus


@pytest.mark.parametrize(
    ("quota", "period", "cpus"), [(50_000, 100_000, 1), (250_000, 100_000, 2), (30_000, 10_000, 3), (-1, 100_000, CPUS)]
)
def test_a_quota_of_version_1_counts_in_whole_cpus(tmp_path: Path, quota: int, period: int, cpus: int) -> None:
    mounts = f"{V1_OTHER}\n{V1.format(top='/')}"
    root = system(tmp_path, "5:memory:/\n4:cpu,cpuacct:/\n", mounts, v1("", quota, period))
    assert usable_cpus(root) == cpus


@pytest.mark.parametrize(
    ("inner", "outer", "cpus"), [("max 100000", "300000 100000", 3), ("200000 100000", "300000 100000", 2)]
)
def test_the_least_of_nested_quotas_counts(tmp_path: Path, inner: str, outer: str, cpus: int) -> None:
    files = {"a.slice/cpu.max": outer, "a.slice/b.service/cpu.max": inner, "other/cpu.max": "100000 100000"}
    root = system(tmp_path, "0::/a.slice/b.service\n", V2.format(top="/"), files)
    assert usable_cpus(root) == cpus


def test_nested_quotas_of_version_1(tmp_path: Path) -> None:
    files = {**v1("kubepods/", 200_000), **v1("kubepods/pod/", -1)}
    assert usable_cpus(system(tmp_path, "4:cpuacct,cpu:/kubepods/pod\n", V1.format(top="/"), files)) == 2


def test_with_both_versions_each_quota_counts(tmp_path: Path) -> None:
    hybrid = "41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw"
    mounts = f"{V1.format(top='/')}\n{hybrid}"
    root = system(tmp_path, "4:cpu,cpuacct:/\n0::/\n", mounts, {**v1("", 200_000), "unified/cgroup.procs": "1"})
    assert usable_cpus(root) == 2


@pytest.mark.parametrize(
    ("path", "top"),
    [
        # A container whose own cgroup is mounted, with the host's paths; one that sees only its own; and one that was
        # given the host's paths, but not its mounts.
        ("/docker/abc", "/docker/abc"),
        ("/", "/"),
        ("/docker/abc", "/"),
        ("/docker/abc", "/docker/abcdef"),
        ("/../../other", "/"),
    ],
)
def test_a_container_finds_its_quota_where_it_is_mounted(tmp_path: Path, path: str, top: str) -> None:
    root = system(tmp_path / "2", f"0::{path}\n", V2.format(top=top), {"cpu.max": "200000 100000"})
    assert usable_cpus(root) == 2
    root = system(tmp_path / "1", f"4:cpu,cpuacct:{path}\n", V1.format(top=top), v1("", 300_000))
    assert usable_cpus(root) == 3


def test_a_mount_point_with_a_space(tmp_path: Path) -> None:
    mount = "31 23 0:28 / /sys/fs/cgroup/a\\040b rw - cgroup2 none rw"
    assert usable_cpus(system(tmp_path, "0::/\n", mount, {"a b/cpu.max": "200000 100000"})) == 2


@pytest.mark.parametrize("mounts", ["", "not a mount", "31 23 0:28 / /nowhere rw - cgroup2 cgroup2 rw"])
def test_without_cgroups_all_count_that_the_process_may_run_on(tmp_path: Path, mounts: str) -> None:
    assert usable_cpus(system(tmp_path, "0::/\ngarbage\n", mounts, {})) == CPUS
    assert usable_cpus(tmp_path / "empty") == CPUS


def test_affinity_counts_beside_the_quota(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3}, raising=False)
    root = system(tmp_path, "0::/\n", V2.format(top="/"), {"cpu.max": "200000 100000"})
    assert usable_cpus(root) == 1
