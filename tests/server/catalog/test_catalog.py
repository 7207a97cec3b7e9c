"""What happens when changes of one version meet: with a real bundle, and a loader that can be told to wait."""

from __future__ import annotations

import asyncio
import gc
import math
import shutil
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

import toybundle
from ancestral.v1 import bundle_pb2
from ancestral_server.catalog import Catalog, ModelVersion, State, Watcher
from ancestral_server.catalog.loader import Loader
from ancestral_server.engine.arrivals import Arrivals
from ancestral_server.engine.endpoint import OneShotEndpoint
from ancestral_server.engine.job import OneShotJob
from ancestral_server.engine.one_shot import OneShotScheduler
from ancestral_server.errors import BundleRefused, Infeasible, Internal, Stopping, Unavailable
from ancestral_server.metrics import Metrics
from ancestral_server.runtime.session import Runtime, Session
from ancestral_server.settings import Settings


@pytest.fixture
def may_load(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """While it is clear, loads wait at their end."""
    event = threading.Event()
    event.set()
    load = Loader.load

    def held(self: Loader, name: str, version: int) -> ModelVersion:
        model = load(self, name, version)
        assert event.wait(30)
        return model

    monkeypatch.setattr(Loader, "load", held)
    return event


def run(models: Path, work: Callable[[Catalog, Watcher], Awaitable[None]]) -> None:
    async def main() -> None:
        # Polled by hand.
        settings = Settings(models=models, device="cpu", poll_seconds=0, _cli_parse_args=[])  # type: ignore[call-arg]
        catalog = Catalog(settings, Runtime("cpu", 1), Metrics("test"), Arrivals())
        watcher = Watcher(catalog, settings)
        await watcher.start()
        try:
            await work(catalog, watcher)
        finally:
            await catalog.drain(5)

    asyncio.run(main())


async def until(said: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not said():
            await asyncio.sleep(0.005)


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
        assert (held.endpoints, held.sessions) == ({}, {})
        assert catalog.find("tally", 0) is reloaded

    run(tmp_path, work)


def test_the_sessions_of_a_version_end_with_it_whoever_refers_to_its_lanes(tmp_path: Path) -> None:
    toybundle.write(tmp_path)

    def sessions() -> int:
        return sum(isinstance(something, onnxruntime.InferenceSession) for something in gc.get_objects())

    async def work(catalog: Catalog, watcher: Watcher) -> None:
        lane = catalog.find("tally", 0).endpoint("encode")
        assert isinstance(lane, OneShotEndpoint)
        late = OneShotJob(rows=1, future=asyncio.get_running_loop().create_future(), deadline=time.monotonic() - 1)
        with pytest.raises(Infeasible):
            await lane.ask(late)
        assert sessions() > before
        await catalog.unload("tally", 0)
        assert sessions() == before
        # Nor do those stay that a bundle had when it was refused.
        toybundle.write(tmp_path, version=2, scale=1)
        with pytest.raises(BundleRefused, match="encode"):
            await catalog.load("tally", 2)
        assert sessions() == before

    gc.collect()
    before = sessions()
    gc.disable()
    try:
        run(tmp_path, work)
    finally:
        gc.enable()


def test_a_graph_that_answers_no_more_rows_than_are_recorded_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = toybundle.encode_graph

    def three_rows(path: Path, *how: Any) -> None:
        whole(path, *how)
        model = onnx.load(path)
        for node in model.graph.node:
            node.output[:] = [f"{name}_all" if name == "code" else name for name in node.output]
        bounds = [toybundle.constant("from", np.array([0])), toybundle.constant("to", np.array([3]))]
        model.graph.initializer.extend(bounds)
        model.graph.node.append(onnx.helper.make_node("Slice", ["code_all", "from", "to"], ["code"]))
        onnx.save(model, path)

    monkeypatch.setattr(toybundle, "encode_graph", three_rows)
    refused(tmp_path, "tensor 'code' of 4 rows came as float32\\[3, 2\\], must be float32\\[4, 2\\]")


def test_a_lean_form_that_answers_otherwise_is_refused(tmp_path: Path) -> None:
    def change(manifest: bundle_pb2.Bundle) -> None:
        graph = tmp_path / "tally" / "1" / "lean.onnx"
        toybundle.encode_graph(graph, offset=1.0)
        manifest.files.append(toybundle.listed(graph))
        lean = bundle_pb2.Role()
        lean.CopyFrom(manifest.roles[0])
        lean.graph = graph.name
        manifest.roles[0].lean.CopyFrom(lean)

    refused(tmp_path, "lean.onnx: role encode: the golden replay differs: code is off by up to 1", change=change)


def test_golden_data_that_verify_nothing_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def boundless(manifest: bundle_pb2.Bundle) -> None:
        manifest.golden.tolerance = math.inf

    refused(tmp_path, "tolerance is inf, must be finite", change=boundless)
    golden = toybundle.golden
    monkeypatch.setattr(toybundle, "golden", lambda offset: {name: a[:0] for name, a in golden(offset).items()})
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
        await asyncio.sleep(0.05)
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
            draining = asyncio.ensure_future(catalog.drain(0.05))
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
        changed = asyncio.Semaphore(0)
        catalog.on_change, tell = changed.release, lane.on_health

        def on_health() -> None:
            told.append(model.healthy)
            tell()

        lane.on_health = on_health
        inputs = {bundle_pb2.MEANING_IMAGE: np.zeros((1, toybundle.HEIGHT, toybundle.WIDTH, 1), np.uint8)}
        job = OneShotJob(1, asyncio.get_running_loop().create_future(), inputs=inputs, wanted=[bundle_pb2.MEANING_MEAN])
        with monkeypatch.context() as patch:
            patch.setattr(lane.scheduler, "finish", lambda *_: 1 / 0)
            with pytest.raises(Internal, match="division by zero"):
                await encoder.ask(job)
            await changed.acquire()
        assert model.serving
        await changed.acquire()
        assert told == [False, True]
        assert model.healthy

    run(tmp_path, work)


def test_on_a_gpu_every_role_runs_in_one_size_of_batch(tmp_path: Path) -> None:
    class Gpu(Runtime):
        """Says that it is one, and computes here."""

        def __init__(self) -> None:
            super().__init__("cpu", 1)
            self.device = "cuda"

        def open(self, path: Path, **how: Any) -> Session:
            return super().open(path, on="cpu")

    toybundle.write(tmp_path)
    settings = Settings(models=tmp_path, device="cpu", max_batch=16, _cli_parse_args=[])  # type: ignore[call-arg]
    model = Loader(settings, Gpu(), Metrics("test"), Arrivals()).load("tally", 1)
    try:
        encoder = model.endpoints["encode"]
        assert isinstance(encoder, OneShotEndpoint)
        for lane in encoder.lanes:
            assert isinstance(lane.scheduler, OneShotScheduler)
            assert [lane.scheduler.size(rows, 0.0) for rows in (1, 2, 16)] == [16, 16, 16]
    finally:
        model.close()
