"""Files that commands write: whole or not at all, and known to fail before the work rather than after it."""

from __future__ import annotations

import errno
import os
import resource
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ancestral_client import files, replacing
from ancestral_client.replacing import FileProblem
from fakeserver import FakeServer
from waiting import PATIENCE

Run = Callable[..., Any]  # the fixture of conftest.py

IMAGES = np.random.default_rng(0).integers(0, 256, (300, 8, 8, 1), dtype=np.uint8)
NAMES = ("a.npy", "a.npz", "a.png")


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """What a full disk does: a write fails in the middle of a file."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("name", NAMES)
def test_a_full_disk_leaves_what_was_there(tmp_path: Path, name: str) -> None:
    files.write_images(tmp_path / name, IMAGES[:4], {})
    before = (tmp_path / name).read_bytes()
    with files_of_at_most(2000), pytest.raises(FileProblem) as caught:
        files.write_images(tmp_path / name, IMAGES, {})
    assert str(caught.value) == f"{tmp_path / name}: cannot be written: {os.strerror(errno.EFBIG)}"
    assert (tmp_path / name).read_bytes() == before
    assert os.listdir(tmp_path) == [name]


@pytest.mark.parametrize("name", NAMES)
def test_a_device_without_room_is_named_with_the_reason(tmp_path: Path, name: str) -> None:
    (tmp_path / name).symlink_to("/dev/full")
    with pytest.raises(FileProblem, match=f"{name}: cannot be written: No space left on device$"):
        files.write_images(tmp_path / name, IMAGES, {})
    assert (tmp_path / name).is_symlink()


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_whatever_interrupts_leaves_what_was_there(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "a.txt"
    files.write_text(path, "before")

    def interrupted() -> None:
        with replacing.replacing(path) as file:
            file.write(b"half")
            raise error

    with pytest.raises(error):
        interrupted()
    assert path.read_text() == "before"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_what_is_written_is_what_numpy_writes(tmp_path: Path) -> None:
    for array in (IMAGES, IMAGES[::2], np.asfortranarray(IMAGES[..., 0]), np.zeros((0, 3)), np.float32(2)):
        files.write_arrays(tmp_path / "a.npy", {"x": np.asarray(array)})
        np.save(tmp_path / "b.npy", array)
        assert (tmp_path / "a.npy").read_bytes() == (tmp_path / "b.npy").read_bytes()


def test_permissions_are_kept_and_those_of_a_new_file_are_the_usual_ones(tmp_path: Path) -> None:
    files.write_text(tmp_path / "new", "")
    (tmp_path / "other").write_text("")
    assert (tmp_path / "new").stat().st_mode == (tmp_path / "other").stat().st_mode
    (tmp_path / "other").chmod(0o640)
    files.write_text(tmp_path / "other", "x")
    assert stat.S_IMODE((tmp_path / "other").stat().st_mode) == 0o640


def test_a_link_stays_and_its_file_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    (tmp_path / "link").symlink_to("far/file")
    for text in ("first", "second"):  # a file that is not there yet, and one that is
        files.write_text(tmp_path / "link", text)
        assert (tmp_path / "link").is_symlink()
        assert (tmp_path / "far" / "file").read_text() == text
    assert os.listdir(tmp_path / "far") == ["file"]


@pytest.mark.parametrize("name", NAMES)
def test_a_pipe_gets_all_at_once(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    files.check_target(tmp_path / name, tmp_path.joinpath(name).suffix)
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.append((tmp_path / name).read_bytes()))
    reader.start()
    files.write_images(tmp_path / name, IMAGES[:4], {})
    reader.join()
    files.write_images(tmp_path / f"file-{name}", IMAGES[:4], {})
    assert read == [(tmp_path / f"file-{name}").read_bytes()]
    assert stat.S_ISFIFO((tmp_path / name).stat().st_mode)


AS_NOBODY = """
import os, sys
from pathlib import Path
from ancestral_client import files
from ancestral_client.replacing import FileProblem
os.chdir(sys.argv[1])
if os.getuid() == 0:
    os.setgid(65534)
    os.setuid(65534)
for name in sys.argv[2:]:
    for step in (files.check_target, lambda path, _: files.write_text(path, "new")):
        try:
            step(Path(name), ".npy")
            print("done")
        except FileProblem as problem:
            print(problem)
"""


@pytest.fixture
def public() -> Iterator[Path]:
    """A folder that every user can look into, which pytest's own are not."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def test_permissions_are_asked_before_the_work(public: Path) -> None:
    """A folder that takes no new files may still hold one that can be written to, and a file may be protected."""
    (public / "closed").mkdir()
    (public / "open").mkdir()
    for name, mode in (("closed/mine.npy", 0o666), ("open/protected.npy", 0o444)):
        (public / name).write_text("old")
        (public / name).chmod(mode)
    (public / "open").chmod(0o777)
    (public / "closed").chmod(0o555)
    names = ("closed/new.npy", "closed/mine.npy", "open/protected.npy", "open/new.npy")
    done = subprocess.run(
        [sys.executable, "-c", AS_NOBODY, str(public), *names],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=True,
    )
    assert done.stdout.splitlines() == [
        *["closed/new.npy: cannot be written: Permission denied"] * 2,
        *["done"] * 2,
        *["open/protected.npy: cannot be written: Permission denied"] * 2,
        *["done"] * 2,
    ]
    (public / "closed").chmod(0o755)
    assert (public / "closed" / "mine.npy").read_text() == "new"
    assert (public / "open" / "protected.npy").read_text() == "old"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("folder.npy", "folder.npy: is a folder; give the name of a file in it"),
        ("link.npy", "link.npy: is a folder"),
        ("none/a.npy", "none/a.npy: there is no folder none"),
        ("file.npy/a.npy", "file.npy/a.npy: "),
        ("dangling.npy", "dangling.npy: there is no folder "),
        ("loop.npy", "loop.npy: cannot be written: Too many levels of symbolic links"),
        (f"{'x' * 300}.npy", "cannot be written: File name too long"),
        ("/proc/a.npy", "/proc/a.npy: cannot be written: "),
        ("a.jpg", "a.jpg: the name must end in .npz or .npy"),
    ],
)
def test_no_server_is_asked_for_what_cannot_be_written(
    run: Run, tmp_path: Path, fake_server: FakeServer, name: str, said: str
) -> None:
    np.save(tmp_path / "images.npy", IMAGES)
    (tmp_path / "folder.npy").mkdir()
    (tmp_path / "link.npy").symlink_to("folder.npy")
    (tmp_path / "dangling.npy").symlink_to("nowhere/a.npy")
    (tmp_path / "loop.npy").symlink_to("loop.npy")
    (tmp_path / "file.npy").touch()
    done = run("encode", "m", "images.npy", "--out", name, address=fake_server.address)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("ancestral: ")
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
    assert fake_server.calls == []


@pytest.mark.parametrize(
    "command",
    [
        ("sample", "tally", "-n", "300"),
        ("encode", "tally", "images.npy"),
        ("score", "tally", "images.npy"),
        ("features", "tally", "images.npy"),
        ("decode", "tally", "images.npy"),
        ("complete", "tally", "images.npy", "--mask", "images.npy"),
    ],
    ids=lambda command: command[0],
)
def test_every_command_checks_its_target_first(run: Run, tmp_path: Path, command: tuple[str, ...]) -> None:
    np.save(tmp_path / "images.npy", IMAGES)
    (tmp_path / "a.npz").mkdir()
    done = run(*command, "--out", "a.npz", address="127.0.0.1:1")
    assert (done.returncode, done.stderr) == (2, "ancestral: a.npz: is a folder; give the name of a file in it\n")


def test_a_command_on_a_full_disk_keeps_the_earlier_result(run: Run, tmp_path: Path) -> None:
    assert run("sample", "tally", "-n", "2", "--out", "keep.npy").returncode == 0
    before = (tmp_path / "keep.npy").read_bytes()
    with files_of_at_most(1000):
        done = run("sample", "tally", "-n", "300", "--out", "keep.npy")
    assert (done.returncode, done.stderr) == (2, "ancestral: keep.npy: cannot be written: File too large\n")
    assert (tmp_path / "keep.npy").read_bytes() == before


def test_an_output_that_cannot_be_written_is_told(toy_server: Any) -> None:
    command = [Path(sys.executable).with_name("ancestral"), "models", "--json", "--address", toy_server.address]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=PATIENCE, check=False)
    assert (done.returncode, done.stderr) == (
        2,
        "ancestral: the output cannot be written: No space left on device\n",
    )
    readable, writable = os.pipe()
    os.close(readable)
    done = subprocess.run(command, stdout=writable, stderr=subprocess.PIPE, text=True, timeout=PATIENCE, check=False)
    os.close(writable)
    assert (done.returncode, done.stderr) == (1, "")
