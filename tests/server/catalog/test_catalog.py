"""What happens when changes of one version meet: with a real bundle, and a loader that can be told to wait."""

from __future__ import annotations

import asyncio
import errno
import math
import os
import shutil
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Collection
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from weakref import ref

import numpy as np
import onnx
import onnxruntime
import pytest
from structlog.testing import capture_logs

import hostile
import toybundle
from ancestral.v1 import bundle_pb2
from ancestral_server.catalog import Catalog, Key, ModelVersion, State, Watcher
from ancestral_server.catalog.catalog import MOST_AT_ONCE
from ancestral_server.catalog.loader import Loader
from ancestral_server.catalog.retry import FIRST_SECONDS, LONGEST_SECONDS
from ancestral_server.engine.arrivals import Arrivals
from ancestral_server.engine.endpoint import OneShotEndpoint
from ancestral_server.engine.job import OneShotJob
from ancestral_server.engine.one_shot import OneShotScheduler
from ancestral_server.errors import BundleRefused, Infeasible, Internal, NotFound, StartupError, Stopping, Unavailable
from ancestral_server.metrics import Metrics
from ancestral_server.rpc.asking import ask
from ancestral_server.runtime.session import Graph, Runtime, Session
from ancestral_server.settings import Settings
from waiting import PATIENCE
from waiting import eventually as until


@pytest.fixture
def may_load(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """While it is clear, loads wait at their end."""
    event = threading.Event()
    event.set()
    load = Loader.load

    def held(self: Loader, name: str, version: int) -> ModelVersion:
        model = load(self, name, version)
        assert event.wait(PATIENCE)
        return model

    monkeypatch.setattr(Loader, "load", held)
    return event


def run(models: Path, work: Callable[[Catalog, Watcher], Awaitable[None]], poll_seconds: float = 0) -> None:
    """Polled by hand."""

    async def main() -> None:
        settings = Settings(models=models, device="cpu", poll_seconds=poll_seconds)
        catalog = Catalog(settings, Runtime("cpu", 1), Metrics("test"), Arrivals())
        watcher = Watcher(catalog, settings)
        await watcher.start()
        try:
            await work(catalog, watcher)
        finally:
            await catalog.drain(5)

    asyncio.run(main())


def states(catalog: Catalog) -> list[tuple[int, State]]:
    return [(model.version, model.state) for model in catalog]


def test_a_version_is_unloaded_while_it_is_being_loaded(tmp_path: Path, may_load: threading.Event) -> None:
    toybundle.write(tmp_path)

    async def work(catalog: Catalog, watcher: Watcher) -> None:
        toybundle.write(tmp_path, version=2)
        may_load.clear()
        loading = asyncio.ensure_future(catalog.load("tally", 2))
        await until(lambda: states(catalog) == [(1, State.SERVING), (2, State.LOADING)])
        with pytest.raises(Unavailable, match="version 2 is being loaded") as refusal:
            catalog.find("tally", 2)
        assert refusal.value.retry_seconds == 1
        assert catalog.find("tally", 0).version == 1
        await catalog.unload("tally", 2)
        may_load.set()
        with pytest.raises(Unavailable, match="unloaded or removed while"):
            await loading
        # And watching does not bring back what was meant to go.
        await watcher.refresh()
        assert states(catalog) == [(1, State.SERVING), (2, State.NOT_SERVING)]
        assert (await catalog.load("tally", 2)).serving

    run(tmp_path, work)


def test_a_version_lives_as_long_as_a_call_holds_it(tmp_path: Path) -> None:
    toybundle.write(tmp_path)

    async def work(catalog: Catalog, watcher: Watcher) -> None:
        with catalog.find("tally", 0) as held, held:
            unloading = asyncio.ensure_future(catalog.unload("tally", 0))
            await until(lambda: states(catalog) == [(1, State.DRAINING)])
            reloaded = await catalog.load("tally", 0)
            # The new one takes over; the old one still has all it needs.
            assert catalog.find("tally", 0) is reloaded
            assert set(held.endpoints) == set(reloaded.endpoints) == {"encode", "score", "sample"}
            assert not unloading.done()
        await unloading
        assert (held.endpoints, held.sessions) == ({}, [])
        assert catalog.find("tally", 0) is reloaded

    run(tmp_path, work)


@pytest.mark.usefixtures("no_collection")
def test_the_sessions_of_a_version_end_with_it_whoever_refers_to_its_lanes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toybundle.write(tmp_path)
    opened: list[ref[onnxruntime.InferenceSession]] = []
    open_session = onnxruntime.InferenceSession

    def watched(*values: Any, **more: Any) -> onnxruntime.InferenceSession:
        session = open_session(*values, **more)
        opened.append(ref(session))
        return session

    def open_ones() -> int:
        return sum(session() is not None for session in opened)

    async def work(catalog: Catalog, watcher: Watcher) -> None:
        lane = catalog.find("tally", 0).endpoints["encode"]
        assert isinstance(lane, OneShotEndpoint)
        late = OneShotJob(rows=1, future=asyncio.get_running_loop().create_future(), deadline=time.monotonic() - 1)
        with pytest.raises(Infeasible):
            await ask(lane, late)
        assert open_ones() > 0
        await catalog.unload("tally", 0)
        assert open_ones() == 0
        # Nor do those stay that a bundle had when it was refused.
        toybundle.write(tmp_path, version=2, scale=1)
        before = len(opened)
        with pytest.raises(BundleRefused, match="encode"):
            await catalog.load("tally", 2)
        assert len(opened) > before
        assert open_ones() == 0

    monkeypatch.setattr(onnxruntime, "InferenceSession", watched)
    run(tmp_path, work)


def test_a_graph_that_answers_no_more_rows_than_are_recorded_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = toybundle.encode_graph

    def three_rows(path: Path, *how: Any, **more: Any) -> None:
        whole(path, *how, **more)
        model = onnx.load(path)
        for node in model.graph.node:
            node.output[:] = [f"{name}_all" if name == "code" else name for name in node.output]
        bounds = [toybundle.constant("from", np.array([0])), toybundle.constant("to", np.array([3]))]
        model.graph.initializer.extend(bounds)
        model.graph.node.append(onnx.helper.make_node("Slice", ["code_all", "from", "to"], ["code"]))
        onnx.save(model, path)

    monkeypatch.setattr(toybundle, "encode_graph", three_rows)
    refused(tmp_path, "tensor 'code' of 4 rows came as float32\\[3, 2\\], must be float32\\[4, 2\\]")


def test_a_graph_of_fewer_classes_than_the_manifest_says_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(toybundle, "golden", hostile.labelled_golden)
    how: dict[str, Any] = {"graph": hostile.of_classes(10)}
    why = "encode.onnx: role encode: label_count is 1000, and a run with label 999 fails: .* out of data bounds"
    refused(tmp_path, why, change=hostile.takes_labels(1000), **how)
    refused(tmp_path, "label_count is 11, and a run with label 10 fails", change=hostile.takes_labels(11), **how)
    refused(tmp_path, "label_count is 0, and a role takes a label", change=hostile.takes_labels(0), **how)
    toybundle.write(tmp_path, change=hostile.takes_labels(10), **how)

    async def work(catalog: Catalog, watcher: Watcher) -> None:
        assert catalog.find("tally", 1).programs["encode"].label_count == 10

    run(tmp_path, work)


def test_a_manifest_beyond_its_limits_is_not_shown(tmp_path: Path) -> None:
    def long(manifest: bundle_pb2.Bundle) -> None:
        manifest.description = "x" * 500_000

    toybundle.write(tmp_path, change=long)

    async def work(catalog: Catalog, watcher: Watcher) -> None:
        model = catalog.describe("tally", 1)
        assert model.manifest is None
        assert model.problem == "bundle.json: description has 500000 characters, must have at most 4096"

    run(tmp_path, work)


def test_golden_data_that_verify_nothing_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def boundless(manifest: bundle_pb2.Bundle) -> None:
        manifest.golden.tolerance = math.inf

    refused(tmp_path, "tolerance is inf, must be finite", change=boundless)
    golden = toybundle.golden
    monkeypatch.setattr(toybundle, "golden", lambda *how: {name: a[:0] for name, a in golden(*how).items()})
    refused(tmp_path, "is empty, so that it verifies nothing", scale=1)


def refused(models: Path, why: str, **how: Any) -> None:
    toybundle.write(models, **how)

    async def work(catalog: Catalog, watcher: Watcher) -> None:
        with pytest.raises(BundleRefused, match=why):
            await catalog.load("tally", 1)

    run(models, work)
    shutil.rmtree(models / "tally")


def test_the_end_comes_while_a_version_is_being_loaded(tmp_path: Path, may_load: threading.Event) -> None:
    toybundle.write(tmp_path)

    async def work(catalog: Catalog, watcher: Watcher) -> None:
        may_load.clear()
        loading = asyncio.ensure_future(catalog.load("tally", 1))
        await until(lambda: catalog.loading.locked())
        await catalog.drain(5)
        with pytest.raises(Stopping):
            await loading
        with pytest.raises(Stopping):
            catalog.find("tally", 1)
        may_load.set()

    run(tmp_path, work)


def test_whoever_stays_when_the_drain_is_over_loses_the_lanes(tmp_path: Path) -> None:
    toybundle.write(tmp_path)

    async def work(catalog: Catalog, watcher: Watcher) -> None:
        with catalog.find("tally", 0) as held:
            draining = asyncio.ensure_future(catalog.drain(0.05, words=3600))
            await until(lambda: not held.endpoints)
            assert not draining.done()  # it waits for a moment more, to be told so
        await draining

    run(tmp_path, work)


def test_of_all_versions_the_one_that_replaces_is_loaded_before_the_other_goes(
    tmp_path: Path, may_load: threading.Event
) -> None:
    first = toybundle.write(tmp_path)

    async def work(catalog: Catalog, watcher: Watcher) -> None:
        toybundle.write(tmp_path, version=2)
        first.rename(tmp_path / ".gone")
        may_load.clear()
        refreshing = asyncio.ensure_future(watcher.refresh())
        await until(lambda: states(catalog) == [(1, State.SERVING), (2, State.LOADING)])
        assert catalog.find("tally", 0).version == 1
        may_load.set()
        await refreshing
        await until(lambda: states(catalog) == [(2, State.SERVING)])

    run(tmp_path, work)


def test_models_of_the_base_serve_beside_the_own_which_hide_those_of_their_names(tmp_path: Path) -> None:
    models, base = tmp_path / "models", tmp_path / "base"
    models.mkdir()
    toybundle.write(base, version=2)
    (base / "007").mkdir()
    (base / "007" / "bundle.json").touch()

    async def main() -> None:
        settings = Settings(models=models, base_models=base, device="cpu", poll_seconds=0)
        catalog = Catalog(settings, Runtime("cpu", 1), Metrics("test"), Arrivals())
        watcher = Watcher(catalog, settings)
        with capture_logs() as logs:
            await watcher.start()
        assert [(line["folder"], line["name"]) for line in logs if "ignored" in line["event"]] == [(str(base), "007")]
        assert states(catalog) == [(2, State.SERVING)]
        of_base = catalog.find("tally", 2)
        # Hidden at once: what calls get is never of both.
        toybundle.write(models, version=1)
        with pytest.raises(NotFound, match="it has versions 1"):
            await catalog.load("tally", 2)
        await watcher.refresh()
        await until(lambda: states(catalog) == [(1, State.SERVING)])
        toybundle.write(models, version=2)
        (models / "tally" / "1").rename(tmp_path / "away")
        await watcher.refresh()
        await until(lambda: states(catalog) == [(2, State.SERVING)])
        assert catalog.find("tally", 2) is not of_base
        (models / "tally" / "2").rename(tmp_path / "away too")
        own = catalog.find("tally", 2)
        await watcher.refresh()
        assert states(catalog) == [(2, State.SERVING)]
        assert catalog.find("tally", 2) is not own
        await catalog.unload("tally", 2)
        assert (await catalog.load("tally", 0)).serving
        assert await catalog.unloaded() == []
        await catalog.drain(5)

    asyncio.run(main())


def test_a_base_that_is_not_there_is_named_by_its_flag(tmp_path: Path) -> None:
    settings = Settings(models=tmp_path, base_models=tmp_path / "base", device="cpu", poll_seconds=0)
    watcher = Watcher(Catalog(settings, Runtime("cpu", 1), Metrics("test"), Arrivals()), settings)
    with pytest.raises(StartupError, match=f"^--base-models {tmp_path / 'base'}: no such folder"):
        asyncio.run(watcher.start())


def test_a_folder_that_is_away_for_a_while_changes_nothing_and_is_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = tmp_path / "models"
    toybundle.write(models)

    async def main() -> None:
        settings = Settings(models=models, device="cpu", poll_seconds=0.001)
        catalog = Catalog(settings, Runtime("cpu", 1), Metrics("test"), Arrivals())
        watcher, looks = Watcher(catalog, settings), 0
        refresh = watcher.refresh

        async def counted() -> None:
            nonlocal looks
            looks += 1
            await refresh()

        monkeypatch.setattr(watcher, "refresh", counted)
        with capture_logs() as logs:
            await watcher.start()
            models.rename(tmp_path / "away")
            seen = looks
            await until(lambda: looks > seen + 5)
            assert states(catalog) == [(1, State.SERVING)]
            (tmp_path / "away").rename(models)
            seen = looks
            await until(lambda: looks > seen + 1)
            await catalog.drain(5)
        assert [line["event"] for line in logs].count("the models folder cannot be read") == 1

    asyncio.run(main())


def test_a_lane_that_fails_turns_the_health_of_its_version_until_it_is_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toybundle.write(tmp_path)

    async def work(catalog: Catalog, watcher: Watcher) -> None:
        model = catalog.find("tally", 1)
        encoder = model.endpoints["encode"]
        assert isinstance(encoder, OneShotEndpoint)
        lane = encoder.interactive
        told: list[bool] = []
        changed: asyncio.Queue[Collection[Key]] = asyncio.Queue()
        catalog.on_change, tell = changed.put_nowait, lane.on_health

        def on_health() -> None:
            told.append(model.healthy)
            tell()

        lane.on_health = on_health
        inputs = {bundle_pb2.MEANING_IMAGE: np.zeros((1, toybundle.HEIGHT, toybundle.WIDTH, 1), np.uint8)}
        job = OneShotJob(1, asyncio.get_running_loop().create_future(), inputs=inputs, wanted=[bundle_pb2.MEANING_MEAN])
        with monkeypatch.context() as patch:
            patch.setattr(lane.scheduler, "finish", lambda *_: 1 / 0)
            with pytest.raises(Internal, match="division by zero"):
                await ask(encoder, job)
            assert await changed.get() == [("tally", 1)]
        assert model.serving
        assert await changed.get() == [("tally", 1)]
        assert told == [False, True]
        assert model.healthy

    run(tmp_path, work)


def test_what_serves_or_was_unloaded_stays_so_until_its_files_change(tmp_path: Path) -> None:
    version = toybundle.write(tmp_path)

    def touch_no_content() -> None:
        # As a backup by hard links does, and whoever lets others read it.
        (tmp_path / ".backup").unlink(missing_ok=True)
        os.link(version / "bundle.json", tmp_path / ".backup")
        (version / "encode.onnx").chmod((version / "encode.onnx").stat().st_mode ^ 0o040)

    async def work(catalog: Catalog, watcher: Watcher) -> None:
        serving = catalog.find("tally", 1)
        touch_no_content()
        await watcher.refresh()
        assert catalog.find("tally", 1) is serving
        await catalog.unload("tally", 1)
        touch_no_content()
        await watcher.refresh()
        assert states(catalog) == [(1, State.NOT_SERVING)]
        version.rename(tmp_path / ".old")
        toybundle.write(tmp_path)
        await watcher.refresh()
        assert states(catalog) == [(1, State.SERVING)]

    run(tmp_path, work)


def test_a_refusal_for_a_shortage_is_tried_again_and_one_for_what_the_files_are_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toybundle.write(tmp_path)
    (tmp_path / "wrong" / "1").mkdir(parents=True)
    loads: list[str] = []
    load, open_session = Loader.load, onnxruntime.InferenceSession
    short, now = True, 0.0

    def counted(self: Loader, name: str, version: int) -> ModelVersion:
        loads.append(name)
        return load(self, name, version)

    def open_if_there_is_a_thread(*args: Any, **how: Any) -> Any:
        if short:
            raise RuntimeError("PosixThread(...) pthread_create failed, error code: 11 error msg: Resource ...")
        return open_session(*args, **how)

    monkeypatch.setattr(Loader, "load", counted)
    monkeypatch.setattr(onnxruntime, "InferenceSession", open_if_there_is_a_thread)
    clock = SimpleNamespace(time=time.time, monotonic=lambda: now)
    monkeypatch.setattr("ancestral_server.catalog.watch.time", clock)

    async def work(catalog: Catalog, watcher: Watcher) -> None:
        nonlocal short, now
        assert loads == ["tally", "wrong"]
        (model,) = (model for model in catalog if model.name == "tally")
        assert model.problem.endswith("Resource ...; the server tries it again by itself")
        assert model.endpoints == {}
        loads.clear()
        await watcher.refresh()
        assert loads == []
        now = FIRST_SECONDS
        await watcher.refresh()
        assert loads == ["tally"]
        # Later now, and it is still as before.
        now += FIRST_SECONDS
        await watcher.refresh()
        assert loads == ["tally"]
        short = False
        now += FIRST_SECONDS
        await watcher.refresh()
        assert loads == ["tally", "tally"]
        assert catalog.find("tally", 1).healthy
        now += 10 * LONGEST_SECONDS
        await watcher.refresh()
        assert loads == ["tally", "tally"]

    run(tmp_path, work, poll_seconds=3600)


def test_a_file_that_nobody_may_read_is_tried_again_when_that_has_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = toybundle.write(tmp_path)
    graph = version / "encode.onnx"
    graph.chmod(0)
    whole = Path.open

    def as_nobody(self: Path, *args: Any, **how: Any) -> Any:
        # Who runs tests as root may read everything.
        if not self.stat().st_mode & 0o400:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self))
        return whole(self, *args, **how)

    monkeypatch.setattr(Path, "open", as_nobody)

    async def work(catalog: Catalog, watcher: Watcher) -> None:
        (model,) = catalog
        assert "Permission denied" in model.problem
        assert model.passing
        graph.chmod(0o600)
        await watcher.refresh()
        assert states(catalog) == [(1, State.SERVING)]

    run(tmp_path, work)


def empty_versions(models: Path, count: int) -> None:
    """Versions that are refused at once, since nothing is in them."""
    for version in range(1, count + 1):
        (models / "empty" / str(version)).mkdir(parents=True)


def steps(work: Callable[[], object]) -> int:
    """How many functions this thread calls for some work: a measure of it that no machine changes."""
    count = 0

    def step(frame: object, event: str, argument: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(step)
    try:
        work()
    finally:
        sys.setprofile(None)
    return count


def test_a_start_takes_as_many_steps_for_each_version_however_many_there_are(tmp_path: Path) -> None:
    async def count(catalog: Catalog, watcher: Watcher) -> None:
        found.append(len(list(catalog)))

    found: list[int] = []
    taken = []
    for versions in (50, 400):
        empty_versions(tmp_path / str(versions), versions)
        taken.append(steps(partial(run, tmp_path / str(versions), count)))
    assert found == [50, 400]
    # Eight times as many, and not sixty-four.
    assert taken[1] < 12 * taken[0]


def test_thousands_of_versions_go_and_calls_have_their_turn_in_between(tmp_path: Path) -> None:
    count = 600
    empty_versions(tmp_path, count)
    toybundle.write(tmp_path)

    async def work(catalog: Catalog, watcher: Watcher) -> None:
        shutil.rmtree(tmp_path / "empty")
        refreshing = asyncio.ensure_future(watcher.refresh())
        left, steps_down = count, []
        while not refreshing.done():
            await asyncio.sleep(0)
            now = len(catalog.versions) - 1
            if now != left:
                steps_down.append(left - now)
                left = now
        await refreshing
        assert (left, sum(steps_down)) == (0, count)
        assert max(steps_down) <= MOST_AT_ONCE
        assert catalog.find("tally", 1).serving

    run(tmp_path, work)


def test_on_a_gpu_every_role_runs_in_one_size_of_batch(tmp_path: Path) -> None:
    class Gpu(Runtime):
        """Says that it is one, and computes here."""

        def __init__(self) -> None:
            super().__init__("cpu", 1)
            self.device = "cuda"

        def open(self, graph: Graph | Path, **how: Any) -> Session:
            return super().open(graph, on="cpu")

    toybundle.write(tmp_path)
    settings = Settings(models=tmp_path, device="cpu", max_batch=16)
    loader = Loader(settings, Gpu(), Metrics("test"), Arrivals())
    model = loader.load("tally", 1)
    try:
        encoder = model.endpoints["encode"]
        assert isinstance(encoder, OneShotEndpoint)
        for lane in encoder.lanes:
            assert isinstance(lane.scheduler, OneShotScheduler)
            assert [lane.scheduler.size(rows, 0.0) for rows in (1, 2, 16)] == [16, 16, 16]
    finally:
        model.close()
