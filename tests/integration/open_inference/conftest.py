"""One server with a model of every kind, for every test of the protocol."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

import toybundle
from openinference import Native, Stub
from running import ServerProcess


@pytest.fixture(scope="session")
def server(
    labelled: Path, vae: Path, shells: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerProcess]:
    models: Path = tmp_path_factory.mktemp("models")
    toybundle.write(models)
    toybundle.write(models, version=3)
    # Its name is also that of a role of tally.
    toybundle.write(models, "tally.score")
    toybundle.write(models, "wrong", scale=254.0)
    for bundle in (labelled, vae, shells):
        shutil.copytree(bundle, models / bundle.name)
    with ServerProcess(models, "--max-images", "500", "--max-sample-count", "400") as server:
        yield server


@pytest.fixture(scope="module")
def channel(server: ServerProcess) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(server.address) as channel:
        yield channel


@pytest.fixture(scope="module")
def stub(channel: grpc.Channel) -> Stub:
    return Stub(channel)


@pytest.fixture(scope="module")
def native(channel: grpc.Channel) -> Native:
    return Native(channel)
