"""Every command and every Python block of every page runs, every link and anchor leads somewhere, every page is linked.

Commands stand in ```console blocks, one a line. Each page is worked through from its top in a folder of its own that
has what a user would have: `.venv`, `models` with the digits bundles (hardly trained, for speed), `images.npy`,
`images.parquet`, `digit.png`, `top.png`, `digits` with pictures, and a classifier of somebody else's, `theirs.onnx`. A
server listens at ANCESTRAL_ADDRESS, until the page starts one of its own. What would take minutes or needs an engine
runs in the nearest form that tests the text.
"""

from __future__ import annotations

import os
import re
import runpy
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

import foreign
import nodes
from ancestral_client import Client
from ancestral_demo.demo import PICTURES
from ancestral_demo.processes import LISTENING
from ancestral_demo.report import REPORTS
from entrypoints import call
from running import ServerProcess

ROOT = Path(__file__).parents[2]
ZOO = ROOT / "exporter" / "zoo"
BIN = Path(sys.executable).parent
READMES = sorted(
    path
    for path in (*ROOT.glob("*.md"), *ROOT.glob("[!.]*/**/*.md"))
    if path.relative_to(ROOT).parts[0] not in ("models", "demo")
    and not {".pytest_cache", "node_modules"} & set(path.parts)
)

# Where a make target is run for real. Those that CI runs cannot run inside themselves.
MAKE = {
    "demo": "test_make_demo",
    "serve": "test_make_serve",
    "studio": "test_make_studio",
    "studio-pictures": "tests/integration/test_studio.py, of other models",
    "pictures": "trains for minutes; what it does after test_make_demo: tests/clients/demo/test_pictures.py",
    "install": "CI",
    "check": "CI",
    "test": "CI",
    "protos": "tests/architecture/test_generated.py, on a copy",
    "generated": "tests/deploy/test_observability.py compares what it would write",
    "format": "changes the tree; check runs the same tools",
    "lock": "tests/architecture/test_dependencies.py checks its result",
    "bench": "tests/benchmarks/test_run.py, in short",
    "bench-front-end": "tests/benchmarks/test_front_end.py, in short",
    "ablation": "tests/benchmarks/test_ablation.py, in short",
    "bench-isolation": "tests/benchmarks/test_isolation.py, in short",
    "bench-perf-analyzer": "needs what the next one fetches; all but that: tests/benchmarks/test_perf_analyzer.py",
    "perf-analyzer": "fetches what `make tools` has fetched already",
    "train-zoo": "tests/exporter/test_zoo.py, with a zoo of its own",
    "results": "tests/exporter/test_results.py, and test_zoo.py on the page itself",
    "soak": "tests/soak/test_soak.py, in short",
    "overload": "tests/soak/test_soak.py, in short",
    "restarts": "tests/soak/test_soak.py, in short",
    "bulk-check": "tests/soak/test_bulk.py, in short",
    "million": "tests/soak/test_soak.py, in short",
    "fuzz": "tests/fuzz/test_fuzz.py, in short",
    "gpu-check": "tests/architecture/test_makefile.py",
    "kernel-check": "tests/benchmarks/test_kernel_check.py, in short",
}


def snippets(path: Path) -> list[tuple[str, str]]:
    """What a page has its readers do, from its top: ("python", a block) and ("console", a command)."""
    found: list[tuple[str, str]] = []
    for language, block in re.findall(r"^```(console|python)\n(.*?)^```$", path.read_text(), re.MULTILINE | re.DOTALL):
        if language == "python":
            found.append((language, block))
        else:
            lines = [line.strip() for line in block.splitlines()]
            found += [(language, line) for line in lines if line and not line.startswith("#")]
    return found


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.fixture
def workplace(digits_models: Path, tmp_path: Path) -> Path:
    for part in (".venv", "clients"):
        (tmp_path / part).symlink_to(ROOT / part)
    shutil.copytree(digits_models, tmp_path / "models")
    images = np.random.default_rng(0).integers(0, 17, (10, 8, 8, 1)) * (255 / 16)
    np.save(tmp_path / "images.npy", np.round(images).astype(np.uint8))
    pq.write_table(
        pa.table({"image": [image.tobytes() for image in np.load(tmp_path / "images.npy")]}),
        tmp_path / "images.parquet",
    )
    foreign.classifier(tmp_path / "theirs.onnx")
    Image.fromarray(np.round(images[0, :, :, 0]).astype(np.uint8)).save(tmp_path / "digit.png")
    (tmp_path / "digits").mkdir()
    shutil.copy(tmp_path / "digit.png", tmp_path / "digits")
    Image.fromarray(np.repeat([255, 0], 4)[:, None].repeat(8, 1).astype(np.uint8)).save(tmp_path / "top.png")
    return tmp_path


def succeed(arguments: list[str], folder: Path, **environment: str) -> str:
    done = subprocess.run(
        arguments,
        cwd=folder,
        env={**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}", **environment},
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, f"{shlex.join(arguments)}: exit code {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout


def run(command: str, folder: Path, address: str, running: ExitStack) -> str:
    """Runs one line of a page, or the nearest form of it that a test can run; the address that the next ones ask.

    A server runs on, in `running`, for what comes after it.
    """
    program, *arguments = shlex.split(command)
    match program:
        case "python":
            with pytest.MonkeyPatch.context() as patch:
                patch.chdir(folder)
                patch.setenv("ANCESTRAL_ADDRESS", address)
                patch.setattr(sys, "argv", arguments)
                runpy.run_path(arguments[0], run_name="__main__")
        case "source":
            assert arguments == [".venv/bin/activate"]  # `succeed` has its programs first in PATH
        case ".venv/bin/ancestral":
            succeed([program, *arguments], folder, ANCESTRAL_ADDRESS=address)
        case "ancestral" if arguments[0] == "studio":
            at = [address if argument == "localhost:8500" else argument for argument in arguments]
            with listening([program, *at, "--port", "0"], folder):
                pass
        case "ancestral":
            with pytest.MonkeyPatch.context() as patch:
                patch.chdir(folder)
                patch.setenv("ANCESTRAL_ADDRESS", address)
                call(program, *arguments)
        case "ancestral-exporter":
            short = ["--epochs", "0"] if arguments[0] == "train" and "--epochs" not in arguments else []
            with pytest.MonkeyPatch.context() as patch:
                patch.chdir(folder)
                call(program, *arguments, *short)
        case "openssl":
            succeed([program, *arguments], folder)
        case "ancestral-server" if arguments[0] == "token":
            with pytest.MonkeyPatch.context() as patch:
                patch.chdir(folder)
                call(program, *arguments)
        case "ancestral-server":
            free = [re.sub(r"^(8500|9464)$", "0", argument) for argument in arguments]
            if "--help" in free:
                succeed([program, *free], folder)
                return address
            environment = {"ANCESTRAL_SERVER_PORT": "0", "ANCESTRAL_SERVER_METRICS_PORT": "0"}
            said = LISTENING.search(running.enter_context(listening([program, *free], folder, **environment))[-1])
            assert said is not None
            return said[1]
        case "make":
            target = next(argument for argument in arguments if "=" not in argument)
            assert target in MAKE, f"say in MAKE where 'make {target}' is run"
            # The whole line is something that make understands.
            succeed(["make", "-n", *arguments], ROOT)
            if target == "serve":  # what comes after it on the page asks it
                both = ["--base-models", str(ZOO), "--max-batch", "2", "--slots", "2"]
                return running.enter_context(ServerProcess(folder / "models", *both)).address
        case "npm":
            # The tools bring what it would fetch.
            assert arguments == ["ci"]
            nodes.example(folder / "for-node")
        case "node":
            at = [address if argument == "localhost:8500" else argument for argument in arguments]
            succeed([program, *at], nodes.example(folder / "for-node"))
        case "docker-compose":
            files = arguments[: arguments.index("up")]
            succeed([str(ROOT / ".tools" / "bin" / "docker-compose"), *files, "config", "-q"], ROOT)
        case _:
            raise AssertionError(f"{program}: teach this test how to run it")
    return address


class listening:  # noqa: N801 - reads as a word: with listening(...)
    """Starts a command that ends up serving, until it says so; stops it with Ctrl-C and checks that it ends well."""

    def __init__(self, command: list[str], folder: Path, **environment: str) -> None:
        self.process = subprocess.Popen(
            command,
            cwd=folder,
            env={**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}", "PYTHONUNBUFFERED": "1", **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,  # Ctrl-C reaches all processes of a terminal, and none of the test's
        )

    def __enter__(self) -> list[str]:
        assert self.process.stdout is not None
        lines: list[str] = []
        for line in self.process.stdout:
            lines.append(line)
            if "listening on" in line:
                return lines
        raise AssertionError(f"ended with {self.process.wait()}: {''.join(lines)}")

    def __exit__(self, *error: object) -> None:
        os.killpg(self.process.pid, signal.SIGINT)
        self.process.communicate(timeout=500)


def free_port() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


def test_there_are_readmes() -> None:
    parts = ("protos", "server", "exporter", "deploy", "tests")
    clients = ("clients", "clients/python", "clients/studio", "clients/demo")
    assert {"README.md", *(f"{part}/README.md" for part in (*parts, *clients))} <= set(map(name, READMES))


@pytest.mark.parametrize("path", [path for path in READMES if snippets(path)], ids=name)
def test_snippets(path: Path, workplace: Path, digits_server: ServerProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workplace)
    monkeypatch.setenv("MPLBACKEND", "agg")
    address = digits_server.address
    with ExitStack() as running:
        for language, snippet in snippets(path):
            if language == "console":
                address = run(snippet, workplace, address, running)
            else:
                exec(compile(snippet.replace("localhost:8500", address), name(path), "exec"), {})


def anchors(page: Path) -> set[str]:
    """What links to headings of a page are called, as GitHub makes them."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    found: Counter[str] = Counter()
    names = set()
    for heading in re.findall(r"^#+ +(.+?) *$", text, re.MULTILINE):
        plain = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-")
        names.add(f"{slug}-{found[slug]}" if found[slug] else slug)
        found[slug] += 1
    return names


def links(page: Path) -> list[tuple[Path, str]]:
    """Where a page links to in this tree: files, and the anchors in them."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    targets = [target for target in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in target]
    return [
        ((page.parent / path).resolve() if path else page, anchor)
        for path, _, anchor in (target.partition("#") for target in targets)
    ]


@pytest.mark.parametrize("path", READMES, ids=name)
def test_links(path: Path) -> None:
    for target, anchor in links(path):
        assert target.exists(), f"{name(path)} links to {target}"
        if anchor:
            assert anchor in anchors(target), f"{name(path)}: {name(target)} has no heading #{anchor}"


def test_the_readme_leads_to_every_page() -> None:
    """A link to a folder leads to its README or, where it has none, to all of its pages. Bundles' cards are no pages:
    they come and go with the bundles.
    """
    reached, new = set[Path](), [ROOT / "README.md"]
    while new:
        page = new.pop()
        if page.is_dir():
            new += [page / "README.md"] if (page / "README.md").exists() else page.glob("*.md")
        elif page in READMES and page not in reached:
            reached.add(page)
            new += [target for target, _ in links(page)]
    assert [name(page) for page in READMES if page not in reached and page.name != "CARD.md"] == []


@pytest.mark.parametrize("path", READMES, ids=name)
def test_every_block_says_what_it_is(path: Path) -> None:
    fences = re.findall(r"^```(.*)$", path.read_text(), re.MULTILINE)
    assert set(fences[::2]) <= {"console", "python", "text", "json", "promql"}, "only console and python blocks are run"


@pytest.mark.timeout(300)
def test_make_demo(digits_models: Path, tmp_path: Path) -> None:
    began = time.monotonic()
    said = succeed(["make", "demo", f"MODELS={digits_models}", f"OUT={tmp_path}"], ROOT, COLUMNS="100")
    assert "make serve" in said.splitlines()[-1]
    assert {path.name for path in tmp_path.iterdir()} == {*PICTURES, *REPORTS}
    # The README's pictures are of these names and sizes, and none lies there that no demo leaves.
    shown = sorted((ROOT / "clients" / "demo").glob("*.png"))
    assert {f"clients/demo/{path.name}" for path in shown} == set(
        re.findall(r"\]\((clients/demo/[^)]+\.png)\)", (ROOT / "README.md").read_text())
    )
    for path in shown:
        with Image.open(path) as ours, Image.open(tmp_path / path.name) as left:
            assert (ours.size, ours.mode) == (left.size, left.mode), path.name
    report = (tmp_path / "report.md").read_text()
    for word in ("4.09", "2.00", "2.27", "Encode means", "raw pixels", "PCA", "ExtractFeatures", "Sample"):
        assert word in report, word
    print(f"make demo with bundles took {time.monotonic() - began:.0f} s")


# To time each size of their runs takes longer than all the rest of a start.
FEW = {"ANCESTRAL_SERVER_MAX_BATCH": "2", "ANCESTRAL_SERVER_SLOTS": "2"}


def test_make_serve_and_the_command_that_it_prints(digits_models: Path, workplace: Path) -> None:
    port, metrics_port = free_port(), free_port()
    make = ["make", "serve", f"MODELS={digits_models}", f"PORT={port}", f"METRICS_PORT={metrics_port}", "DEVICE=cpu"]
    before = sorted(digits_models.iterdir())
    with listening(make, ROOT, **FEW) as lines:
        (hint,) = (line.strip() for line in lines if "ancestral sample" in line)
        assert re.match(r"\.venv/bin/ancestral sample mnist-pixelcnn\S* -n 16 --seed 7 --out grid.png", hint)
        succeed(shlex.split(hint), workplace)
        assert (workplace / "grid.png").stat().st_size > 0
        with Client(f"localhost:{port}") as client:
            served = {model.name for model in client.models() if model.serving}
        assert served >= {path.parent.parent.name for path in ZOO.glob("*/*/bundle.json")} | {"digits-pixelcnn"}
    assert sorted(digits_models.iterdir()) == before
    with socket.socket() as again:  # the server is gone, and its port free
        again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        again.bind(("127.0.0.1", int(port)))


def test_make_studio(digits_models: Path) -> None:
    make = ["make", "studio", f"MODELS={digits_models}", "STUDIO_PORT=0"]
    with listening(make, ROOT, **FEW) as lines:
        url = lines[-1].split()[3].rstrip(",")
        with urllib.request.urlopen(url, timeout=500) as page:
            assert "Ancestral studio" in page.read().decode()


def test_make_serve_serves_what_is_there(tmp_path: Path) -> None:
    make = ["make", "serve", "MODELS=exporter/zoo", f"PORT={free_port()}", f"METRICS_PORT={free_port()}", "DEVICE=cpu"]
    before = sorted(ZOO.iterdir())
    with listening(make, ROOT, **FEW) as lines:
        assert not [line for line in lines if "training" in line.lower()]
        assert [line for line in lines if "ancestral sample mnist-pixelcnn" in line]
    assert sorted(ZOO.iterdir()) == before
