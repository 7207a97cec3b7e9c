"""What the Dockerfiles of the images say, and their commands run as a container engine would run them.

There is no engine here. In its place a `Container` has namespaces of its own for mounts and the network, a root that
holds the system, Python and the image's environment, and any user; for that a test has to be root. Who is not runs them
`InPlace`, with less that is as it will be.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import venv
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Self

import distributions

ROOT = Path(__file__).parents[1]
BASE = Path(sys.base_prefix)
# A training on a busy machine.
LONGEST_SECONDS = 500
PACKAGES = Path("lib", f"python{sys.version_info[0]}.{sys.version_info[1]}", "site-packages")


@dataclass(frozen=True)
class Image:
    """A Dockerfile, read; extras: those that are installed, where it leaves a choice."""

    dockerfile: Path
    extras: str

    @staticmethod
    def read(name: str, extras: str = "") -> Image:
        """name: relative to the repository. Without extras those by default."""
        dockerfile = ROOT / name
        text = dockerfile.read_text()
        (wanted,) = re.findall(r'"\.\[(.+?)\]"', text)
        default = re.findall(r"^ARG EXTRAS=(\S+)", text, re.MULTILINE)
        assert (wanted == "${EXTRAS}") == bool(default), f"{name}: either its extras are an argument, or there is none"
        assert default or not extras, f"{name} leaves no choice"
        return Image(dockerfile, extras or (default[0] if default else wanted))

    @cached_property
    def _last_stage(self) -> list[tuple[str, str]]:
        """Instructions with their arguments, lines that go on joined."""
        text = re.sub(r"^#.*\n", "", self.dockerfile.read_text(), flags=re.MULTILINE).replace("\\\n", " ")
        stage = re.split(r"^FROM .*\n", text, flags=re.MULTILINE)[-1]
        return [(line.split()[0], line.partition(" ")[2].strip()) for line in stage.splitlines() if line.strip()]

    def said(self, instruction: str) -> list[str]:
        return [argument for name, argument in self._last_stage if name == instruction]

    @property
    def environment(self) -> dict[str, str]:
        """ENV, in which $PATH is that of the image below."""
        pairs = [pair.partition("=")[::2] for text in self.said("ENV") for pair in text.split()]
        below = "/usr/local/bin:/usr/bin:/bin"
        return {"PATH": below} | {name: value.replace("$PATH", below) for name, value in pairs}

    @property
    def command(self) -> list[str]:
        """ENTRYPOINT and CMD."""
        return [word for name in ("ENTRYPOINT", "CMD") for text in self.said(name) for word in json.loads(text)]

    @property
    def health(self) -> list[str]:
        """The command of HEALTHCHECK."""
        (text,) = self.said("HEALTHCHECK")
        found: list[str] = json.loads(text.partition(" CMD ")[2])
        return found

    @property
    def folder(self) -> str:
        """Where its command starts."""
        return (self.said("WORKDIR") or ["/"])[-1]

    @property
    def home(self) -> str:
        """Where the environment lies."""
        ((source, target),) = (text.split()[1:] for text in self.said("COPY"))
        assert source == target
        return target


def install(folder: Path) -> None:
    """Into a folder what installing this package brings: its own code, and its commands."""
    sources = folder / "sources"
    sent = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    unsent = shutil.ignore_patterns("__pycache__", "node_modules", "zoo")
    for name in sent:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, sources / name, ignore=unsent)
        else:
            sources.mkdir(exist_ok=True)
            shutil.copy(ROOT / name, sources)
    flags = [
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "--no-index",
        "--ignore-installed",
        "--no-warn-script-location",
    ]
    command = [sys.executable, "-m", "pip", "install", *flags, "--prefix", str(folder / "installed"), str(sources)]
    subprocess.run(command, check=True, timeout=500)


def environment(image: Image, installed: Path, folder: Path) -> Path:
    """The environment that the image has, whose extras are links to what is installed here."""
    venv.create(folder, symlinks=True)
    shutil.copytree(installed, folder, dirs_exist_ok=True)
    here = str(Path(sys.executable))
    for script in (folder / "bin").glob("ancestral*"):
        script.write_text(script.read_text().replace(here, f"{image.home}/bin/python", 1))
    distributions.link(distributions.closure(image.extras), folder / PACKAGES)
    return folder


@dataclass(frozen=True)
class Volume:
    source: Path
    writable: bool = False


# In a container that has just been made, as root: argv[1] is JSON. Python, since it is there in any case.
_MAKE = """
import ctypes, fcntl, json, os, socket, struct, subprocess, sys

asked = json.loads(sys.argv[1])
root = asked["root"]

def mount(*arguments):
    subprocess.run(["mount", *arguments], check=True)

def bind(source, target, writable=False):
    os.makedirs(target, exist_ok=True)
    mount("--rbind", source, target)
    if not writable:
        mount("-o", "remount,bind,ro", target)

# The network: its loopback alone.
with socket.socket() as any_socket:
    request = struct.pack("16sh", b"lo", 1)  # IFF_UP
    fcntl.ioctl(any_socket, 0x8914, request)  # SIOCSIFFLAGS
mount("-t", "tmpfs", "-o", "mode=755", "tmpfs", root)
for name in sorted(os.listdir("/")):
    if name in asked["system"]:
        if os.path.islink(f"/{name}"):
            os.symlink(os.readlink(f"/{name}"), f"{root}/{name}")
        else:
            bind(f"/{name}", f"{root}/{name}", writable=name in ("dev", "proc", "sys"))
for target, (source, writable) in asked["binds"].items():
    bind(source, root + target, writable)
for target in asked["temporary"]:
    os.makedirs(root + target, exist_ok=True)
    mount("-t", "tmpfs", "-o", "mode=1777", "tmpfs", root + target)
for target in asked["folders"]:
    os.makedirs(root + target, exist_ok=True)
if asked["read_only"]:
    mount("-o", "remount,ro", root)
os.chroot(root)
os.chdir("/")
print("made", flush=True)
sys.stdin.read()
"""
_SYSTEM = ("bin", "dev", "etc", "lib", "lib32", "lib64", "libx32", "proc", "sbin", "sys", "usr")


class Commands(ABC):
    """Runs commands of an image; a context manager. They have the image's variables, and no HOME."""

    # What is not as in a container; empty where nothing is.
    lacks = ""

    @abstractmethod
    def start(self, command: Sequence[str]) -> subprocess.Popen[str]: ...

    def run(self, command: Sequence[str]) -> subprocess.CompletedProcess[str]:
        with self.start(command) as process:
            try:
                said, complained = process.communicate(timeout=LONGEST_SECONDS)
            except BaseException:
                process.kill()
                raise
        return subprocess.CompletedProcess(command, process.returncode, said, complained)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def _end(self) -> None:  # of what runs in place nothing is left
        return


class Container(Commands):
    """Commands run as user `uid`, who is in no list of users.

    volumes: by where they are. temporary: folders, empty and anybody's to write to. beside: who shares its network.
    """

    def __init__(
        self,
        image: Image,
        environment: Path,
        folder: Path,
        uid: int,
        volumes: Mapping[str, Volume],
        *,
        read_only: bool,
        temporary: Sequence[str] = ("/tmp",),
        beside: Commands | None = None,
    ) -> None:
        self._image = image
        self._uid = uid
        packages = Path(sys.prefix, PACKAGES)
        binds = {image.home: (environment, False), str(BASE): (BASE, False), str(packages): (packages, False)}
        binds |= {target: (volume.source, volume.writable) for target, volume in volumes.items()}
        folder.mkdir()
        asked = {
            "root": str(folder),
            "system": _SYSTEM,
            "binds": {target: (str(source), writable) for target, (source, writable) in binds.items()},
            "temporary": temporary,
            "folders": [image.folder],
            "read_only": read_only,
        }
        network = (
            ["nsenter", "--net", "--target", str(beside._pid)]
            if isinstance(beside, Container)
            else ["unshare", "--net"]
        )
        command = [*network, "unshare", "--mount", sys.executable, "-c", _MAKE, json.dumps(asked)]
        self._holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    @property
    def _pid(self) -> int:
        return self._holder.pid

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.callback(self._end)
            assert self._holder.stdout is not None
            assert self._holder.stdout.readline() == "made\n"
            stack.pop_all()
        return self

    def _end(self) -> None:
        # What was mounted goes with the last process.
        self._holder.communicate()

    def start(self, command: Sequence[str]) -> subprocess.Popen[str]:
        user = ["setpriv", f"--reuid={self._uid}", f"--regid={self._uid}", "--clear-groups", "--no-new-privs"]
        enter = ["nsenter", "--mount", "--net", "--root", "--wd=/", "--target", str(self._pid)]
        # Each of these becomes the next one: signals reach the command.
        return _popen([*enter, *user], self._image.environment, command, self._image.folder)


class InPlace(Commands):
    """Commands run as this user, in a folder that cannot be written to, with volumes where they are and ports that are
    free.
    """

    lacks = "as another user and on a read-only root: for that one has to be root"

    def __init__(
        self,
        image: Image,
        environment: Path,
        folder: Path,
        uid: int,
        volumes: Mapping[str, Volume],
        *,
        read_only: bool,
        temporary: Sequence[str] = ("/tmp",),
        beside: Commands | None = None,
    ) -> None:
        self._programs = environment / "bin"
        self._folder = folder / "read-only"
        self._folder.mkdir(parents=True)
        self._folder.chmod(0o555)
        self._moved = {image.home: environment} | {target: volume.source for target, volume in volumes.items()}
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port: int = beside.port if isinstance(beside, InPlace) else free.getsockname()[1]
        self._variables = {name: self._where(value) for name, value in image.environment.items()}
        self._variables |= {"TMPDIR": str(folder), "ANCESTRAL_ADDRESS": f"localhost:{self.port}"}
        self._variables |= {"ANCESTRAL_SERVER_PORT": str(self.port), "ANCESTRAL_SERVER_METRICS_PORT": "0"}

    def _where(self, text: str) -> str:
        """A text of the image with its folders where they are."""
        for target, source in self._moved.items():
            text = re.sub(rf"(?<![\w/]){re.escape(target)}(?=/|:|$)", str(source), text)
        return text

    def start(self, command: Sequence[str]) -> subprocess.Popen[str]:
        program, *arguments = command
        python = [str(self._programs / "python"), str(self._programs / program)]
        return _popen([], self._variables, [*python, *map(self._where, arguments)], str(self._folder))


def _popen(
    before: Sequence[str], variables: Mapping[str, str], command: Sequence[str], folder: str
) -> subprocess.Popen[str]:
    # As all processes of tests: several threads of several tests would wait for each other.
    variables = {"OMP_NUM_THREADS": os.environ["OMP_NUM_THREADS"], **variables}
    environment = [f"{name}={value}" for name, value in variables.items()]
    line = [*before, "env", "-i", f"--chdir={folder}", *environment, *command]
    return subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


# What a test runs commands in.
Contained: type[Container] | type[InPlace] = Container if os.geteuid() == 0 else InPlace
