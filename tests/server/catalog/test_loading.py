"""Loading what takes too much: graphs that never end, or want more memory than there is; real graphs on onnxruntime."""

from __future__ import annotations

import asyncio
import resource
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import hostile
import toybundle
from ancestral.v1 import bundle_pb2
from ancestral_server.catalog import Catalog, ModelVersion, State, Watcher, catalog, watch
from ancestral_server.catalog import loader as loading
from ancestral_server.catalog.loader import Loader
from ancestral_server.engine.arrivals import Arrivals
from ancestral_server.engine.endpoint import OneShotEndpoint
from ancestral_server.engine.job import OneShotJob
from ancestral_server.errors import BundleRefused, Internal, Stopping
from ancestral_server.metrics import Metrics
from ancestral_server.rpc.asking import ask
from ancestral_server.runtime.session import Runtime
from ancestral_server.settings import Settings
from waiting import PATIENCE

IMAGE, MEAN = bundle_pb2.MEANING_IMAGE, bundle_pb2.MEANING_MEAN


def settings_for(models: Path, **how: Any) -> Settings:
    how = {"device": "cpu", "poll_seconds": 0, "threads": 1, "max_batch": 4, **how}
    return Settings(models=models, **how)


def run(models: Path, work: Callable[[Catalog, Watcher], Awaitable[None]], **how: Any) -> None:
    async def main() -> None:
        settings = settings_for(models, **how)
        shelf = Catalog(settings, Runtime("cpu", 1, run_seconds=60), Metrics("test"), Arrivals())
        watcher = Watcher(shelf, settings)
        try:
            async with asyncio.timeout(PATIENCE):
                await work(shelf, watcher)
        finally:
            await shelf.drain(5)

    asyncio.run(main())


async def encode(model: ModelVersion, *first_bytes: int) -> list[Any]:
    """What becomes of calls of one image each that come at once: the mean, or an error."""
    endpoint = model.endpoints["encode"]
    assert isinstance(endpoint, OneShotEndpoint)
    jobs = []
    for byte in first_bytes:
        image = np.zeros((1, 4, 3, 1), np.uint8)
        image[0, 0, 0] = byte
        future = asyncio.get_running_loop().create_future()
        jobs.append(OneShotJob(rows=1, future=future, inputs={IMAGE: image}, wanted=[MEAN]))
    outcomes = await asyncio.gather(*(ask(endpoint, job) for job in jobs), return_exceptions=True)
    return [outcome if isinstance(outcome, BaseException) else outcome.output(MEAN)[0, 1] for outcome in outcomes]


def answer(byte: int) -> Any:
    return pytest.approx(byte / 255)


def test_a_graph_that_never_ends_is_ended_and_refused(tmp_path: Path) -> None:
    toybundle.write(tmp_path)
    toybundle.write(tmp_path / "more", "endless", graph=hostile.endless)

    async def work(shelf: Catalog, watcher: Watcher) -> None:
        await watcher.start()
        shelf._loader._settings = settings_for(tmp_path, load_seconds=0.5)
        (tmp_path / "more" / "endless").rename(tmp_path / "endless")
        await watcher.refresh()
        refused = shelf.describe("endless", 1)
        assert refused.state is State.NOT_SERVING
        assert refused.problem.startswith("not loaded after 0.5 s (--load-seconds): a run was ended after ")
        assert not refused.passing
        # Nothing of it goes on.
        assert not [thread for thread in threading.enumerate() if thread.name.startswith("load endless")]
        with pytest.raises(BundleRefused, match="--load-seconds"):
            await shelf.load("endless", 1)
        assert await encode(shelf.find("tally", 0), 51) == [answer(51)]

    run(tmp_path, work)


def test_the_end_does_not_wait_for_a_load_that_never_ends(tmp_path: Path) -> None:
    toybundle.write(tmp_path, graph=hostile.endless)

    async def work(shelf: Catalog, watcher: Watcher) -> None:
        starting = asyncio.ensure_future(watcher.start())
        await until(lambda: bool(shelf._loader._places[0].runtime._watchdog.watching))
        load = asyncio.ensure_future(shelf.load("tally", 1))
        await asyncio.sleep(0)
        await shelf.drain(60)
        assert not starting.done()
        with pytest.raises(Stopping):
            await load
        await starting

    run(tmp_path, work, load_seconds=3)


def test_an_operator_that_cannot_be_ended_holds_up_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toybundle.write(tmp_path)
    toybundle.write(tmp_path, "long", graph=hostile.one_long_operator(3000))
    monkeypatch.setattr(loading, "GRACE_SECONDS", 0.01)

    async def work(shelf: Catalog, watcher: Watcher) -> None:
        with pytest.raises(BundleRefused, match="one of its operators cannot be ended"):
            await shelf.load("long", 1)
        (thread,) = (thread for thread in threading.enumerate() if thread.name == "load long:1")
        # Where it ends after all, nothing of it serves.
        await asyncio.to_thread(thread.join, 60)
        assert not thread.is_alive()
        assert shelf.describe("long", 1).state is State.NOT_SERVING
        assert shelf.describe("long", 1).endpoints == {}

    run(tmp_path, work, load_seconds=0.05)


def test_a_later_run_that_never_ends_is_ended_and_the_lane_goes_on(tmp_path: Path) -> None:
    toybundle.write(tmp_path, graph=hostile.endless_if_white)

    async def work(shelf: Catalog, watcher: Watcher) -> None:
        await watcher.start()
        model = shelf.find("tally", 0)
        assert await encode(model, 51) == [answer(51)]
        # Alone it is run at once, in company in its turn.
        for calls in (1, 3):
            for session in model.sessions:
                session._run_seconds = 0.1
            failures = await encode(model, *[255] * calls)
            assert all(isinstance(failure, Internal) for failure in failures)
            assert all("a run was ended after" in str(failure) for failure in failures)
            for session in model.sessions:
                session._run_seconds = 60
            assert await encode(model, 52) == [answer(52)]

    run(tmp_path, work)


def test_of_a_real_run_that_fails_only_the_guilty_call_hears(tmp_path: Path) -> None:
    toybundle.write(tmp_path, graph=hostile.dark_only)

    async def work(shelf: Catalog, watcher: Watcher) -> None:
        await watcher.start()
        outcomes = await encode(shelf.find("tally", 0), *range(1, 40), 250, *range(41, 60), 251)
        guilty = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
        assert [outcomes.index(each) for each in guilty] == [39, 59]
        assert all(isinstance(each, Internal) and "out of data bounds" in str(each) for each in guilty)
        kept = [byte for byte in range(1, 60) if byte != 40]
        assert [outcome for outcome in outcomes if outcome not in guilty] == [answer(byte) for byte in kept]

    run(tmp_path, work)


@contextmanager
def held(monkeypatch: pytest.MonkeyPatch, *names: str) -> Iterator[tuple[list[str], dict[str, threading.Event]]]:
    """The models whose loads have begun, and events until which the loads of these wait at their end."""
    began: list[str] = []
    events = {name: threading.Event() for name in names}
    load = Loader.load

    def waiting(self: Loader, name: str, version: int) -> ModelVersion:
        began.append(name)
        model = load(self, name, version)
        assert name not in events or events[name].wait(PATIENCE)
        return model

    monkeypatch.setattr(Loader, "load", waiting)
    monkeypatch.setattr(catalog, "PATIENCE_SECONDS", 0.01)
    monkeypatch.setattr(watch, "QUIET_SECONDS", 0.5)
    try:
        yield began, events
    finally:
        for event in events.values():
            event.set()


async def until(said: Callable[[], bool]) -> None:
    while not said():
        await asyncio.sleep(0.005)


def test_a_load_that_takes_long_lets_others_begin_and_the_door_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a-slow", "b-slow", "tally"):
        toybundle.write(tmp_path, name)

    async def work(shelf: Catalog, watcher: Watcher) -> None:
        with held(monkeypatch, "a-slow", "b-slow") as (_, events):
            await watcher.start()
            assert shelf.describe("a-slow", 0).state is State.LOADING
            await until(lambda: shelf.get("tally", 0) is not None)
            assert await encode(shelf.find("tally", 0), 51) == [answer(51)]
            # One that is being loaded is not loaded again meanwhile.
            await watcher.refresh()
            events["b-slow"].set()
            await until(lambda: shelf.get("b-slow", 0) is not None)
            assert shelf.describe("a-slow", 0).state is State.LOADING
            events["a-slow"].set()
            await until(lambda: shelf.get("a-slow", 0) is not None)

    run(tmp_path, work)


def test_no_more_loads_go_on_at_a_time_than_there_is_room_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = [f"slow-{i}" for i in range(catalog.MOST_LOADING)]
    for name in (*slow, "tally"):
        toybundle.write(tmp_path, name)

    async def work(shelf: Catalog, watcher: Watcher) -> None:
        with held(monkeypatch, *slow) as (began, events):
            # Nothing happens any more: the door opens all the same.
            await watcher.start()
            assert sorted(began) == slow
            assert "tally" not in shelf
            events[slow[1]].set()
            await until(lambda: shelf.get("tally", 0) is not None)

    run(tmp_path, work)


def test_who_asks_for_what_is_being_loaded_gets_what_is_there_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toybundle.write(tmp_path)

    async def work(shelf: Catalog, watcher: Watcher) -> None:
        with held(monkeypatch, "tally") as (began, events):
            first = asyncio.ensure_future(shelf.load("tally", 1))
            await until(lambda: not shelf.loading.locked() and bool(began))
            second = asyncio.ensure_future(shelf.load("tally", 1))
            events["tally"].set()
            one, two = await asyncio.gather(first, second)
            assert began == ["tally", "tally"]
            assert one is not two
            assert shelf.find("tally", 1) is two

    run(tmp_path, work)


@pytest.mark.skipif(sys.platform != "linux", reason="address spaces are bounded otherwise elsewhere")
def test_what_can_never_fit_is_refused_for_good_and_costs_the_others_nothing(tmp_path: Path) -> None:
    toybundle.write(tmp_path)
    # More than any machine has, less than an address space.
    toybundle.write(tmp_path, "huge", graph=hostile.of_gigabytes(64 * 1024))

    async def work(shelf: Catalog, watcher: Watcher) -> None:
        await watcher.start()
        huge = shelf.describe("huge", 1)
        assert huge.problem.startswith("it does not fit into memory ever: it asks for more at once than this machine")
        assert not huge.passing
        # Nobody was told to give memory back.
        assert shelf._loader._places[0].runtime._shortages.times == 0
        assert await encode(shelf.find("tally", 0), 51) == [answer(51)]

    run(tmp_path, work)


def test_what_does_not_fit_now_is_refused_and_its_memory_comes_back(tmp_path: Path) -> None:
    toybundle.write(tmp_path)
    toybundle.write(tmp_path, "large", graph=hostile.of_gigabytes(3))
    result = subprocess.run(
        [sys.executable, __file__, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={"PYTHONPATH": ":".join(filter(None, sys.path))},
    )
    assert result.stdout.splitlines()[-1:] == ["fine"], result.stdout + result.stderr


def main(models: Path) -> None:
    """In a process of its own, with 3 GB of addresses: a load does not fit, and who serves does not notice."""
    limit = 3 * 10**9
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

    async def work(shelf: Catalog, watcher: Watcher) -> None:
        await shelf.load("tally", 1)
        before = resident()
        for _ in range(2):
            with pytest.raises(BundleRefused, match="it does not fit into memory now") as refusal:
                await shelf.load("large", 1)
            assert "requested buffer of size 3221225472" in str(refusal.value)
        assert resident() < before + 100_000_000
        assert shelf.describe("large", 1).passing
        assert await encode(shelf.find("tally", 0), *range(100)) == [answer(byte) for byte in range(100)]

    run(models, work)
    print("fine")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
