"""The model repository: which models there are, and loading and unloading them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

import toybundle
from inference import open_inference_service_pb2 as oip
from openinference import Stub, ask, infer, some_images, violation
from running import ServerProcess
from waiting import PATIENCE

CODE = grpc.StatusCode


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    models: Path = tmp_path_factory.mktemp("models")
    for version in (1, 10, 9):
        toybundle.write(models, version=version)
    toybundle.write(models, "wrong", scale=254.0)
    return models


@pytest.fixture(scope="module")
def changing(folder: Path) -> Iterator[Stub]:
    """A server of its own, that looks at its folder only when it is asked to."""
    with ServerProcess(folder, "--poll-seconds", "0") as server, grpc.insecure_channel(server.address) as channel:
        yield Stub(channel)


def index(stub: Stub, *names: str, ready: bool = False) -> list[tuple[str, str, str]]:
    """What the index says of these models."""
    reply = stub.RepositoryIndex(oip.RepositoryIndexRequest(ready=ready), timeout=PATIENCE)
    return [(model.name, model.version, model.state) for model in reply.models if model.name in names]


def load(stub: Stub, name: str) -> None:
    stub.RepositoryModelLoad(oip.RepositoryModelLoadRequest(model_name=name), timeout=PATIENCE)


def unload(stub: Stub, name: str) -> None:
    request = oip.RepositoryModelUnloadRequest(model_name=name)
    request.parameters["unload_dependents"].bool_param = True  # as Triton's client does
    stub.RepositoryModelUnload(request, timeout=PATIENCE)


TALLY = [("tally", version, "READY") for version in ("1", "9", "10")]


def test_models_are_listed_unloaded_and_loaded_with_all_their_versions(changing: Stub, folder: Path) -> None:
    assert index(changing, "tally", "wrong") == [*TALLY, ("wrong", "1", "UNAVAILABLE")]
    assert index(changing, "tally", "wrong", ready=True) == TALLY
    found = changing.RepositoryIndex(oip.RepositoryIndexRequest(), timeout=PATIENCE).models
    reasons = {model.name: model.reason for model in found}
    assert (reasons["tally"], "golden replay differs" in reasons["wrong"]) == ("", True)

    unload(changing, "tally")
    assert index(changing, "tally") == [("tally", version, "UNAVAILABLE") for version in ("1", "9", "10")]
    assert index(changing, "tally", ready=True) == []
    with pytest.raises(grpc.RpcError, match="unloaded on request"):
        infer(changing, ask("tally", image=some_images(1, (4, 3, 1))))
    load(changing, "tally")
    assert index(changing, "tally") == TALLY
    for version in ("1", "9", "10"):
        assert infer(changing, ask("tally", version=version, image=some_images(1, (4, 3, 1))))

    # What nobody has loaded is in the folder all the same.
    toybundle.write(folder, "fresh")
    assert index(changing, "fresh") == [("fresh", "1", "UNAVAILABLE")]
    assert index(changing, "fresh", ready=True) == []
    load(changing, "fresh")
    assert index(changing, "fresh") == [("fresh", "1", "READY")]


def test_a_load_serves_what_is_fit_and_says_what_is_not(changing: Stub, folder: Path) -> None:
    toybundle.write(folder, "partly", version=2)
    toybundle.write(folder, "partly", version=3, scale=254.0)
    with pytest.raises(grpc.RpcError, match=r"partly:3 was refused: .*golden replay differs") as failure:
        load(changing, "partly")
    assert failure.value.code() is CODE.FAILED_PRECONDITION
    assert index(changing, "partly") == [("partly", "2", "READY"), ("partly", "3", "UNAVAILABLE")]


def with_parameter(request: Any, name: str, **value: Any) -> Any:
    request.parameters[name].MergeFrom(oip.ModelRepositoryParameter(**value))
    return request


Load, Unload, Index = oip.RepositoryModelLoadRequest, oip.RepositoryModelUnloadRequest, oip.RepositoryIndexRequest


@pytest.mark.parametrize(
    ("request_", "code", "field", "words"),
    [
        (Index(repository_name="other"), CODE.INVALID_ARGUMENT, "repository_name", "is 'other', must be empty"),
        (Load(repository_name="other", model_name="tally"), CODE.INVALID_ARGUMENT, "repository_name", "must be empty"),
        (Load(), CODE.INVALID_ARGUMENT, "model_name", "is '', must match"),
        (Load(model_name="../etc"), CODE.INVALID_ARGUMENT, "model_name", "is '../etc', must match"),
        (Load(model_name="nobody"), CODE.NOT_FOUND, "", "nothing to load for nobody"),
        (
            Load(model_name="tally.encode"),
            CODE.INVALID_ARGUMENT,
            "model_name",
            "is 'tally.encode', a role of tally; a model is loaded and unloaded whole, as 'tally'",
        ),
        (
            with_parameter(Load(model_name="tally"), "config", string_param="{}"),
            CODE.INVALID_ARGUMENT,
            "parameters[config]",
            "is not supported: a model is what lies in its folder",
        ),
        (
            with_parameter(Load(model_name="tally"), "file:1/model.onnx", bytes_param=b"onnx"),
            CODE.INVALID_ARGUMENT,
            "parameters[file:1/model.onnx]",
            "is not supported",
        ),
        (Unload(model_name="nobody"), CODE.NOT_FOUND, "", "no model 'nobody'; there are: "),
        (Unload(model_name="tally.score"), CODE.INVALID_ARGUMENT, "model_name", "is 'tally.score', a role of tally"),
        (
            with_parameter(Unload(model_name="tally"), "unload_dependants", bool_param=True),
            CODE.INVALID_ARGUMENT,
            "parameters[unload_dependants]",
            "is unknown; there is unload_dependents",
        ),
        (
            with_parameter(Unload(model_name="tally"), "unload_dependents", int64_param=1),
            CODE.INVALID_ARGUMENT,
            "parameters[unload_dependents]",
            "must be true or false (bool_param)",
        ),
    ],
)
def test_bad_input_names_field_value_and_limit_and_changes_nothing(
    changing: Stub, request_: Any, code: grpc.StatusCode, field: str, words: str
) -> None:
    methods = {Index: changing.RepositoryIndex, Load: changing.RepositoryModelLoad}
    method: Any = methods.get(type(request_), changing.RepositoryModelUnload)
    with pytest.raises(grpc.RpcError) as failure:
        method(request_, timeout=PATIENCE)
    assert failure.value.code() is code
    assert words in (failure.value.details() or "")
    if field:
        assert violation(failure.value).field == field
    assert index(changing, "tally", ready=True) == TALLY
