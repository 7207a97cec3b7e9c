"""Running the exporter and the server as their users do: as commands, in processes of their own."""

from __future__ import annotations

import math
import os
import re
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from ancestral.bundle.manifest import NoManifest, parse
from ancestral.text import shown
from ancestral.v1 import bundle_pb2

# What the server says on stdout once it serves, also where that line is JSON: its address, and that of its metrics.
LISTENING = re.compile(r'listening on (\S+), metrics on ([^\s"]+)')
# The recipes that the demo tells of, what each is for, and the longest training last: its progress is shown.
RECIPES = {
    "digits-vae-2d": "the manifold",
    "digits-vae-features": "features for a classifier",
    "digits-vae": "likelihood, samples, traversals",
    "digits-pixelcnn": "likelihood, samples, completions",
}
# What is served where nothing is there: with them what classifies drawings in the studio. The demo has no figures of
# it, and ends half a minute sooner without.
DEFAULTS = ("digits-classifier", *RECIPES)


class DemoError(Exception):
    """A step failed; the message says which and why."""


def command(name: str) -> str:
    """The console script `name` beside the running Python, which need not be on PATH."""
    return str(Path(sys.executable).parent / name)


def has_bundle(models: Path, recipe: str) -> bool:
    return any((models / recipe).glob("*/bundle.json"))


def has_any_bundle(models: Path) -> bool:
    return any(models.glob("*/*/bundle.json"))


def sampling_model(models: Path, zoo: Path | None = None) -> str | None:
    """A model that can be asked for samples without a class: of the zoo, which a newcomer should see first, else a
    default one, else any in the folder, that of the best likelihood in each case; None where none can.
    """
    own = _manifests(models)
    # As the server has it: a name in the folder hides that of the zoo.
    of_zoo = [each for each in _manifests(zoo) if each.name not in {mine.name for mine in own}] if zoo else []
    of_default = [each for each in own if each.name in RECIPES]
    for there in (of_zoo, of_default, own):
        if best := min(filter(_samples, there), key=_bits_per_dim, default=None):
            return best.name
    return None


def _manifests(models: Path) -> list[bundle_pb2.Bundle]:
    """Of the bundles in a folder, named as they lie there; of one that is none the server will say what is wrong."""
    found = []
    for path in sorted(models.glob("*/*/bundle.json")):
        with suppress(OSError, NoManifest):
            manifest = parse(path.read_bytes())
            manifest.name = path.parent.parent.name
            found.append(manifest)
    return found


def _samples(manifest: bundle_pb2.Bundle) -> bool:
    label = bundle_pb2.MEANING_LABEL
    return any(role.name == "sample" and all(i.meaning != label for i in role.inputs) for role in manifest.roles)


def _bits_per_dim(manifest: bundle_pb2.Bundle) -> float:
    """Of the test images; no likelihood is the worst."""
    values = (metric.value for metric in manifest.metrics if (metric.name, metric.split) == ("bits_per_dim", "test"))
    return next(values, math.inf)


def beside(zoo: Path | None) -> list[str]:
    """The flags by which a server has the models of the zoo too, if there are any."""
    return [f"--base-models={zoo}"] if zoo and has_any_bundle(zoo) else []


def train_missing(models: Path, recipes: Iterable[str] = DEFAULTS) -> list[str]:
    """Train the recipes that have no bundle yet; returns what was trained.

    The last one, which takes longest, shows its progress; the others run beside it, as many at once as there are cores
    left, and what they have printed is shown when all are done. One thread each: nets this small keep two processes
    busier than two threads, and threads that wait for each other crawl on a busy machine.
    """
    missing = [recipe for recipe in recipes if not has_bundle(models, recipe)]
    if missing and not has_any_bundle(models):
        _refuse_model(models)
    if not missing:
        return missing
    # Perhaps another folder was meant.
    print(f"no {' and no '.join(missing)} in {shown(models)}: training takes minutes; Ctrl-C stops", flush=True)
    *others, watched = missing
    if others:
        print(f"Training them; the progress is that of {watched}.", flush=True)
    started: list[subprocess.Popen[str]] = []

    def train(recipe: str) -> tuple[subprocess.Popen[str], str, str]:
        output = None if recipe == watched else subprocess.PIPE
        arguments = [command("ancestral-exporter"), "train", recipe, "--models", str(models)]
        environment = {"OMP_NUM_THREADS": "1", **os.environ}
        process = subprocess.Popen(arguments, env=environment, stdout=output, stderr=output, text=True)
        started.append(process)
        printed, problems = process.communicate()
        return process, printed or "", problems or ""

    with ThreadPoolExecutor(max(1, (os.cpu_count() or 1) - 1)) as pool:
        waiting = [pool.submit(train, recipe) for recipe in others]
        try:
            done = {watched: train(watched)} | dict(zip(others, (run.result() for run in waiting), strict=True))
            for recipe, (process, printed, problems) in done.items():
                print(printed, end="", flush=True)
                print(problems, end="", file=sys.stderr, flush=True)
                if process.returncode:
                    text = f"ancestral-exporter train {recipe} --models {models}"
                    raise DemoError(f"training {recipe} failed: `{text}` ended with exit code {process.returncode}")
        finally:
            for run in waiting:
                run.cancel()
            for process in started:
                if process.poll() is None:
                    process.terminate()
    return missing


def _refuse_model(models: Path) -> None:
    """Raises DemoError where the folder is itself a bundle or a model: others inside would be a mess."""
    for what, manifest, above in (("a bundle", "bundle.json", 1), ("a model", "*/bundle.json", 0)):
        if any(models.glob(manifest)):
            raise DemoError(f"{models} is {what}, no folder of models; was {models.resolve().parents[above]} meant?")


class Server:
    """The real server on free loopback ports; stopped at the end of the `with` block, whatever happens."""

    def __init__(self, models: Path, zoo: Path | None = None) -> None:
        arguments = ["--models", str(models), "--port", "0", "--metrics-port", "0", "--device", "auto", *beside(zoo)]
        self._process = subprocess.Popen(
            [command("ancestral-server"), *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        # Read all the time, or a full pipe would stop the server; the end of it explains a failure.
        self._log: deque[str] = deque(maxlen=20)
        self._reader = threading.Thread(target=self._read_log, daemon=True)
        self._reader.start()

    def _read_log(self) -> None:
        assert self._process.stderr is not None
        self._log.extend(self._process.stderr)

    def __enter__(self) -> Self:
        assert self._process.stdout is not None
        try:
            listening = LISTENING.search(self._process.stdout.readline())
        except BaseException:  # such as Ctrl-C while it starts
            self._stop()
            raise
        if listening is None:
            self._stop()
            raise DemoError("the server did not start:\n" + "".join(self._log))
        self.address, metrics = listening.groups()
        self.metrics_url = f"http://{metrics}/metrics"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop()

    def _stop(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join(5)
