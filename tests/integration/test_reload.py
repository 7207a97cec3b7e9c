"""Versions come, are replaced and go while calls run: none is lost, none is answered by another than it says."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

import toybundle
from ancestral.bundle.noise import uniforms_of_range
from ancestral_client import BundleRefused, Client, InvalidArgument, NotFound, SampledImage, Unavailable
from ancestral_client.results import Model
from callers import Callers
from running import PATIENT, ServerProcess
from waiting import until

SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
IMAGE = np.full((4, 3, 1), 51, np.uint8)


def publish(models: Path, version: int = 1, **how: Any) -> Path:
    """Bring a version into the folder as the exporter does, by one rename; what was there is renamed away first."""
    made = toybundle.write(models / ".made", version=version, **how)
    target = models / "tally" / str(version)
    target.parent.mkdir(exist_ok=True)
    if target.exists():
        target.rename(models / f".old-{time.monotonic_ns()}")
    return made.rename(target)


@pytest.fixture
def models(tmp_path: Path) -> Path:
    publish(tmp_path, 1, offset=100)
    return tmp_path


@pytest.fixture
def server(models: Path) -> Iterator[ServerProcess]:
    with ServerProcess(models, "--poll-seconds", "0.1", *PATIENT) as server:
        yield server


@pytest.fixture
def client(server: ServerProcess) -> Iterator[Client]:
    with Client(server.address) as client:
        yield client


def states(client: Client) -> dict[int, str]:
    return {model.version: model.state for model in client.models() if model.name == "tally"}


def serves(client: Client, version: int) -> bool:
    return any(model.version == version for model in client.models())


def look_twice(models: Path, client: Client) -> None:
    """Wait until the server has looked into its folder once more, and has begun to look again after that."""
    for _ in range(2):
        marker = toybundle.write(models / ".made", "marker", version=time.monotonic_ns())
        (models / "marker").mkdir(exist_ok=True)
        version = int(marker.rename(models / "marker" / marker.name).name)
        until(partial(serves, client, version))


def has_reason(client: Client, version: int) -> Model | None:
    """The version, once the server has found something wrong with what lies in its folder."""
    try:
        model = client.model("tally", version)
    except NotFound:
        return None
    return model if model.reason else None


def check(callers: Callers) -> None:
    """No call failed, none was answered wrongly."""
    assert callers.calls
    assert [call for call in callers.calls if call.wrong or call.code is not grpc.StatusCode.OK] == []


def test_versions_take_over_and_roll_back_under_load(models: Path, server: ServerProcess, client: Client) -> None:
    with Callers(server.address, {1: {100}, 2: {200}, 4: {400}}) as callers:
        callers.wait_for_version(1)
        publish(models, 2, offset=200)
        callers.wait_for_version(2)
        taken = time.monotonic()
        publish(models, 3, scale=254.0, offset=300)
        until(lambda: has_reason(client, 3))
        publish(models, 4, offset=400)
        callers.wait_for_version(4)
        shutil.rmtree(models / "tally" / "3")
        (models / "tally" / "4").rename(models / ".gone")
        callers.wait_for_version(2)
        shutil.rmtree(models / "tally" / "1")
        until(lambda: states(client) == {2: "serving"})
        callers.wait_for_version(2)
    check(callers)
    assert all(call.version != 1 for call in callers.calls if call.began > taken)
    assert "golden replay differs" in "".join(server.log)
    # Of what is gone nothing stays behind.
    for version in "134":
        assert f'model="tally",version="{version}"' not in server.metrics()
    assert server.metric("ancestral_model_serving", model="tally", version="2") == 1
    assert server.metric("ancestral_request_queue_seconds_count", version="2", role="encode") > 0
    assert server.metric("ancestral_model_loads_total", outcome="refused") == 1


def test_a_version_replaced_in_place_takes_over_and_a_bad_one_does_not(
    models: Path, server: ServerProcess, client: Client
) -> None:
    with Callers(server.address, {1: {100, 150, 170}}) as callers:
        callers.wait_for_version(1)
        publish(models, 1, offset=150)
        until(lambda: any(call.mark == 150 for call in callers.calls))
        publish(models, 1, scale=254.0, offset=160)
        until(lambda: has_reason(client, 1))
        refused = client.model("tally", 1)
        assert (refused.serving, refused.state) == (True, "serving")
        assert "encode.onnx" in refused.reason
        # Loaded once and not again and again; mending it is noticed.
        look_twice(models, client)
        assert server.metric("ancestral_model_loads_total", outcome="refused") == 1
        publish(models, 1, offset=170)
        until(lambda: not has_reason(client, 1))
        callers.wait_for_version(1)
    check(callers)
    marks = [call.mark for call in callers.calls if call.mark]
    assert set(marks) == {100, 150, 170}
    # Answers are noted in the order in which they came, give or take those that were on the way.
    assert marks.index(170) > len(marks) - 1 - marks[::-1].index(100)
    assert client.encode("tally", IMAGE).mean[0, 0] == pytest.approx(12 * 0.2 + 170, abs=1e-3)
    assert server.metric("ancestral_request_queue_seconds_count", version="1", role="encode") > 0


def test_a_running_stream_keeps_the_version_that_it_began_with(
    models: Path, server: ServerProcess, client: Client
) -> None:
    publish(models, 2, offset=200)
    until(lambda: states(client) == {1: "serving", 2: "serving"})
    with client.sample_stream("tally", 9000, seed=5, version=1) as events:
        images = [next(events)]
        (models / "tally" / "1").rename(models / ".gone")
        # Held by the stream, since nobody reads it meanwhile.
        until(lambda: states(client) == {1: "draining", 2: "serving"})
        # Without a second attempt, which might find the stream at its end.
        with (
            Client(server.address, retry_seconds=0) as impatient,
            pytest.raises(Unavailable, match="version 1 is being unloaded"),
        ):
            impatient.encode("tally", IMAGE, version=1)
        images += events
    pixels = {event.index: event.image for event in images if isinstance(event, SampledImage)}
    expected = toybundle.paint(uniforms_of_range(5, 0, 9000, (4, 3, 1)))[0]
    assert np.array_equal(np.stack([pixels[i] for i in range(9000)]), expected)
    assert {event.info.version for event in images} == {1}
    until(lambda: states(client) == {2: "serving"})
    with pytest.raises(NotFound, match="no version 1; it has 2"):
        client.encode("tally", IMAGE, version=1)


def test_a_stream_that_nobody_reads_holds_its_version_until_it_is_given_up(
    models: Path, server: ServerProcess, client: Client
) -> None:
    publish(models, 2)
    until(lambda: states(client) == {1: "serving", 2: "serving"})
    with client.sample_stream("tally", 10_000, version=1) as events:
        next(events)
        shutil.rmtree(models / "tally" / "1")
        until(lambda: states(client) == {1: "draining", 2: "serving"})
    until(lambda: states(client) == {2: "serving"})


def test_a_folder_that_is_away_for_a_while_changes_nothing(models: Path, server: ServerProcess, client: Client) -> None:
    models.rename(models.with_name("away"))
    until(lambda: "the models folder cannot be read" in "".join(server.log))
    assert client.encode("tally", IMAGE).info.version == 1
    models.with_name("away").rename(models)
    publish(models, 2, offset=200)
    until(lambda: states(client) == {1: "serving", 2: "serving"})


def test_a_bundle_that_is_copied_slowly_serves_when_it_is_whole(
    models: Path, server: ServerProcess, client: Client
) -> None:
    made = toybundle.write(models / ".made", version=2)
    target = models / "tally" / "2"
    target.mkdir()
    for name in ("bundle.json", "golden.npz", "sample.onnx"):
        shutil.copy2(made / name, target)
        look_twice(models, client)
    until(lambda: has_reason(client, 2))
    assert client.encode("tally", IMAGE).info.version == 1
    shutil.copy2(made / "encode.onnx", target)
    until(lambda: states(client) == {1: "serving", 2: "serving"})
    assert client.encode("tally", IMAGE).info.version == 2


def test_a_version_overwritten_in_place_with_its_old_sizes_and_times_takes_over(
    models: Path, server: ServerProcess, client: Client
) -> None:
    there = models / "tally" / "1"
    # As `rsync -t --inplace` leaves an archive that says 1980 of all its files.
    for path in there.iterdir():
        os.utime(path, ns=(0, 0))
    until(lambda: client.encode("tally", IMAGE).mean[0, 0] > 100)
    before = {path.name: (path.stat().st_size, path.stat().st_mtime_ns, path.stat().st_ino) for path in there.iterdir()}
    made = toybundle.write(models / ".made", version=1, offset=150)
    with Callers(server.address, {1: {100, 150}}) as callers:
        callers.wait_for_version(1)
        # The manifest first: what is not whole yet is refused, and looked at again when it has changed.
        for name in ("bundle.json", "encode.onnx", "golden.npz", "sample.onnx"):
            with (there / name).open("r+b") as file:
                file.write((made / name).read_bytes())
            os.utime(there / name, ns=(0, 0))
            if name == "bundle.json":
                until(lambda: has_reason(client, 1))
        until(lambda: any(call.mark == 150 for call in callers.calls))
        until(lambda: not has_reason(client, 1))
        callers.wait_for_version(1)
    check(callers)
    after = {path.name: (path.stat().st_size, path.stat().st_mtime_ns, path.stat().st_ino) for path in there.iterdir()}
    assert after == before
    assert client.encode("tally", IMAGE).mean[0, 0] == pytest.approx(12 * 0.2 + 150, abs=1e-3)


def test_unload_and_load(models: Path, server: ServerProcess, client: Client) -> None:
    publish(models, 2, offset=200)
    until(lambda: states(client) == {1: "serving", 2: "serving"})
    client.unload("tally", 2)
    assert states(client) == {1: "serving", 2: "not serving"}
    assert client.encode("tally", IMAGE).info.version == 1
    with pytest.raises(Unavailable, match="version 2 does not serve: unloaded on request"):
        client.encode("tally", IMAGE, version=2)
    # Neither an alert nor the watcher mistakes it for a failure, and unloading twice is no mistake.
    look_twice(models, client)
    client.unload("tally", 2)
    assert states(client) == {1: "serving", 2: "not serving"}
    assert 'ancestral_model_serving{model="tally",version="2"}' not in server.metrics()

    assert client.load("tally").version == 2
    assert client.encode("tally", IMAGE).info.version == 2
    client.unload("tally")
    assert states(client) == {1: "not serving", 2: "not serving"}
    with pytest.raises(Unavailable, match="unloaded on request"):
        client.encode("tally", IMAGE)
    loaded = client.load("tally", 1)
    assert (loaded.version, loaded.state, loaded.device) == (1, "serving", "cpu")
    assert loaded.limits is not None

    # New files count as a wish to have it.
    publish(models, 2, offset=250)
    until(lambda: states(client) == {1: "serving", 2: "serving"})


def test_load_says_what_is_wrong_with_a_bundle(models: Path) -> None:
    with ServerProcess(models, "--poll-seconds", "0") as server, Client(server.address) as client:
        publish(models, 2, scale=254.0)
        with pytest.raises(
            BundleRefused, match=r"tally:2 was refused: encode.onnx: .*golden replay differs"
        ) as refusal:
            client.load("tally")
        assert refusal.value.reason == "BUNDLE_REFUSED"
        assert client.encode("tally", IMAGE).info.version == 1
        assert states(client) == {1: "serving", 2: "not serving"}
        publish(models, 2, offset=200)
        for _ in range(50):
            assert states(client) == {1: "serving", 2: "not serving"}  # nobody looks
        assert client.load("tally").state == "serving"
        assert client.encode("tally", IMAGE).info.version == 2


@pytest.mark.parametrize("call", ["load", "unload"])
def test_wrong_names_never_reach_the_disk(models: Path, server: ServerProcess, client: Client, call: str) -> None:
    outside = models.parent / f"{models.name}-outside"
    toybundle.write(outside, "tally", 7)
    ask = getattr(client, call)
    for name in ("", "..", f"../{outside.name}/tally", "/etc", "tally/1", "Tally", "a\0b", "x" * 100):
        with pytest.raises(InvalidArgument, match=r"name: is .*must match") as refusal:
            ask(name)
        assert refusal.value.violations[0].field == "name"
    for version in (7, 2**63 - 1):
        with pytest.raises(NotFound, match=rf"tally:{version}|no version {version}"):
            ask("tally", version)
    with pytest.raises(NotFound, match="nobody"):
        ask("nobody")
    with pytest.raises(InvalidArgument, match="version: is -1"):
        ask("tally", -1)
    assert states(client) == {1: "serving"}


def test_health_follows(models: Path, server: ServerProcess, client: Client) -> None:
    seen: dict[str, list[int]] = {"tally": [], "tally/2": []}
    with grpc.insecure_channel(server.address) as channel:
        watches = {
            name: health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service=name))
            for name in seen
        }

        def listen(name: str) -> None:
            try:
                for reply in watches[name]:
                    seen[name].append(reply.status)
            except grpc.RpcError:
                return  # cancelled

        threads = [threading.Thread(target=listen, args=(name,)) for name in seen]
        for thread in threads:
            thread.start()
        until(lambda: seen["tally"] and seen["tally/2"])
        publish(models, 2)
        until(lambda: seen["tally/2"][-1] == SERVING)
        client.unload("tally", 2)
        until(lambda: seen["tally/2"][-1] == NOT_SERVING)
        client.load("tally", 2)
        until(lambda: seen["tally/2"][-1] == SERVING)
        shutil.rmtree(models / "tally")
        until(lambda: seen["tally/2"][-1] == seen["tally"][-1] == NOT_SERVING)
        for watch in watches.values():
            watch.cancel()
        for thread in threads:
            thread.join()
    assert seen["tally"] == [SERVING, NOT_SERVING]
    until(lambda: client.models() == [])  # it drains for a moment


def resident(server: ServerProcess) -> int:
    """KiB."""
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0])


def test_a_version_that_has_answered_leaves_no_memory_behind(tmp_path: Path) -> None:
    # Real models take as much for a batch of 64, and an array of their answers keeps all of it.
    publish(tmp_path, 1, scratch=200_000)
    with ServerProcess(tmp_path, "--poll-seconds", "0") as server, Client(server.address) as client:
        before = 0
        for i in range(6):
            client.encode("tally", np.repeat(IMAGE[None], 64, 0))
            if not before:
                # Without a version: what one that serves holds depends on what it ran last.
                client.unload("tally")
                before = resident(server)
            publish(tmp_path, 1, scratch=200_000, offset=i)
            client.load("tally", 1)
        client.encode("tally", np.repeat(IMAGE[None], 64, 0))
        client.unload("tally")
        until(lambda: resident(server) < before + 40_000)


def test_reloads_lose_nothing_and_keep_no_thread(models: Path) -> None:
    """What they keep of memory, and fifty of them: `make restarts`."""

    def threads(server: ServerProcess) -> int:
        return len(list(Path(f"/proc/{server.process.pid}/task").iterdir()))

    def reload(client: Client, times: range) -> None:
        for i in times:
            shutil.rmtree(models / "tally" / "1")
            publish(models, 1, offset=100 + i)
            client.load("tally", 1)
            assert round(client.encode("tally", IMAGE).mean[0, 0] - 12 * 0.2) == 100 + i

    with ServerProcess(models, "--poll-seconds", "0", *PATIENT) as server, Client(server.address) as client:
        marks = {float(100 + i) for i in range(21)}
        with Callers(server.address, {1: marks}, encoders=3, samplers=1) as callers:
            reload(client, range(1, 11))  # by then every pool has its size
            before = threads(server)
            reload(client, range(11, 21))
            # Of those that a version brings not one may stay for each of ten.
            until(lambda: threads(server) <= before + 4)
        check(callers)
        assert server.metric("ancestral_model_loads_total", outcome="loaded") == 21
