"""Folders as people have them: versions as long as a time in nanoseconds, names that are none, hundreds of models."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

import toybundle
from ancestral.v1 import model_service_pb2 as pb
from ancestral.v1 import model_service_pb2_grpc
from ancestral_client import Client
from inference import open_inference_service_pb2 as oip
from openinference import Stub, ask, infer
from running import ServerProcess

# time.time_ns() has 19 digits; the other is the last that the protos can say.
NANOSECONDS, LAST = 1_764_250_000_000_000_123, 2**63 - 1
IMAGE = np.full((4, 3, 1), 51, np.uint8)
# Versions of `wide`, each with a manifest of 400 kB, and so more than fits a message of 4 MiB.
WIDE, PROVENANCE = range(1, 15), {f"note {i}": "x" * 16_000 for i in range(25)}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    models = tmp_path_factory.mktemp("models")
    toybundle.write(models, version=NANOSECONDS, offset=100)
    last = toybundle.write(models, version=LAST, offset=200)
    for name in ("007", str(2**63), "v2"):
        shutil.copytree(last, models / "tally" / name)
    # Only what they say of themselves is asked for: they are refused for the files that they lack.
    manifest = json.loads((last / "bundle.json").read_text()) | {"name": "wide"}
    for version in WIDE:
        folder = models / "wide" / str(version)
        folder.mkdir(parents=True)
        document = manifest | {"version": version, "provenance": PROVENANCE}
        (folder / "bundle.json").write_text(json.dumps(document))
    described = manifest | {"version": 99, "description": "x" * 12 * 2**20}
    (models / "wide" / "99").mkdir()
    (models / "wide" / "99" / "bundle.json").write_text(json.dumps(described))
    with ServerProcess(models, "--poll-seconds", "0.1") as server:
        yield server


@pytest.fixture(scope="module")
def channel(server: ServerProcess) -> Iterator[grpc.Channel]:
    """As programs make it that know of no limits."""
    with grpc.insecure_channel(server.address) as channel:
        yield channel


@pytest.mark.parametrize(("version", "offset"), [(NANOSECONDS, 100), (LAST, 200)])
def test_a_version_may_be_as_long_as_the_protos_allow(
    server: ServerProcess, channel: grpc.Channel, version: int, offset: float
) -> None:
    text, stub = str(version), Stub(channel)
    request = ask("tally", image=IMAGE[None])
    request.model_version = text
    assert infer(stub, request)["code"][0, 0].round() == offset + 2
    assert stub.ModelReady(oip.ModelReadyRequest(name="tally", version=text), timeout=30).ready
    metadata = stub.ModelMetadata(oip.ModelMetadataRequest(name="tally", version=text), timeout=30)
    assert list(metadata.versions) == [str(NANOSECONDS), str(LAST)]
    assert stub.ModelConfig(oip.ModelConfigRequest(name="tally", version=text), timeout=30).config.name == "tally"
    statistics = stub.ModelStatistics(oip.ModelStatisticsRequest(name="tally", version=text), timeout=30)
    assert [entry.version for entry in statistics.model_stats] == [text]
    health = health_pb2_grpc.HealthStub(channel)
    said = health.Check(health_pb2.HealthCheckRequest(service=f"tally/{text}"), timeout=30)
    assert said.status == health_pb2.HealthCheckResponse.SERVING
    assert server.metric("ancestral_model_serving", model="tally", version=text) == 1
    with Client(server.address) as client:
        encoded = client.encode("tally", IMAGE, version=version)
        assert (encoded.info.version, encoded.mean[0, 0].round()) == (version, offset + 2)
        assert client.model("tally", version).version == version


def test_a_version_beyond_what_the_protos_allow_is_refused_with_the_limit(channel: grpc.Channel) -> None:
    for text in (str(2**63), "9" * 5000, "1.0", "+1", "１"):
        with pytest.raises(grpc.RpcError, match=r"must be .* 1 to 9223372036854775807") as refusal:
            Stub(channel).ModelReady(oip.ModelReadyRequest(name="tally", version=text), timeout=30)
        assert refusal.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_what_is_no_version_is_said_once(server: ServerProcess) -> None:
    lines = [json.loads(line) for line in server.log if "ignored in the models folder" in line]
    assert sorted(line["name"] for line in lines) == ["tally/007", f"tally/{2**63}", "tally/v2"]
    assert all("whole number from 1 to 9223372036854775807" in line["reason"] for line in lines)


def test_a_list_that_is_larger_than_a_message_comes_in_pages(server: ServerProcess, channel: grpc.Channel) -> None:
    stub = model_service_pb2_grpc.ModelServiceStub(channel)
    expected = [("tally", NANOSECONDS), ("tally", LAST), *(("wide", version) for version in (*WIDE, 99))]
    for size in (0, 1, 5, 1000):
        found, token, pages = [], "", 0
        while True:
            page = stub.ListModels(pb.ListModelsRequest(page_size=size, page_token=token), timeout=30)
            found += [(model.name, model.version) for model in page.models]
            pages += 1
            if not (token := page.next_page_token):
                break
            assert len(page.models) == size or len(page.models) > 5
        assert found == expected
        assert pages == {0: 2, 1: 17, 5: 4, 1000: 2}[size]
    with Client(server.address) as client:
        models = client.models()
        assert [(model.name, model.version) for model in models] == expected
        assert models[2].provenance == PROVENANCE
        # What fits no message is not shown.
        assert models[-1].description == client.model("wide", 99).description == ""


def test_a_token_that_no_answer_gave_and_a_negative_size_are_named(channel: grpc.Channel) -> None:
    stub = model_service_pb2_grpc.ModelServiceStub(channel)
    for field, request in (
        ("page_token", pb.ListModelsRequest(page_token="tally")),
        ("page_token", pb.ListModelsRequest(page_token="tally/-1")),
        ("page_size", pb.ListModelsRequest(page_size=-1)),
    ):
        with pytest.raises(grpc.RpcError, match=f"{field}: is .*must be") as refusal:
            stub.ListModels(request, timeout=30)
        assert refusal.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    # One that has gone since is no mistake.
    page = stub.ListModels(pb.ListModelsRequest(page_token="tally/7", page_size=1), timeout=30)
    assert [model.version for model in page.models] == [NANOSECONDS]


def test_a_version_is_unloaded_for_as_long_as_the_server_runs_and_hidden_for_good(tmp_path: Path) -> None:
    toybundle.write(tmp_path)
    toybundle.write(tmp_path, version=2)

    def served(server: ServerProcess) -> dict[int, bool]:
        with Client(server.address) as client:
            return {model.version: model.serving for model in client.models()}

    with ServerProcess(tmp_path) as server:
        with Client(server.address) as client:
            client.unload("tally", 2)
            assert "until its files change or the server is started again" in client.model("tally", 2).reason
        assert served(server) == {1: True, 2: False}
    with ServerProcess(tmp_path) as server:
        assert served(server) == {1: True, 2: True}
    (tmp_path / "tally" / "2").rename(tmp_path / "tally" / ".2")
    with ServerProcess(tmp_path) as server:
        assert served(server) == {1: True}
        assert not any("ignored" in line for line in server.log)


def test_a_folder_given_at_the_wrong_depth_is_said_with_the_right_one(tmp_path: Path) -> None:
    toybundle.write(tmp_path / "models")
    for given in (tmp_path, tmp_path / "models" / "tally", tmp_path / "models" / "tally" / "1"):
        with ServerProcess(given) as server, Client(server.address) as client:
            assert client.models() == []
        said = [json.loads(line) for line in server.log]
        (ignored,) = [line for line in said if line["event"] == "ignored in the models folder"]
        (none,) = [line for line in said if line["event"] == "no models"]
        assert f"give --models {tmp_path / 'models'}" in ignored["reason"]
        assert none["hint"] == ignored["reason"]
