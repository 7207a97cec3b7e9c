"""The metrics' port of the real server, beside its calls."""

from __future__ import annotations

import contextlib
import socket
import sys
import threading
import urllib.parse
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ancestral.v1 import inference_service_pb2 as pb
from running import ServerProcess
from waiting import PATIENCE
from wire import inference, tensor, toy_images


def threads(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/task").iterdir()))


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_hundreds_of_scrapes_and_of_silent_connections_cost_no_call_and_no_thread(toy_server: ServerProcess) -> None:
    stub, over, answered = inference(toy_server), threading.Event(), []
    port = urllib.parse.urlsplit(toy_server.metrics_url).port

    def call() -> None:
        while not over.is_set():
            stub.Encode(pb.EncodeRequest(model="tally", images=tensor(toy_images(1))), timeout=PATIENCE)
            answered.append(1)

    before = threads(toy_server.process.pid)
    with contextlib.ExitStack() as silent, ThreadPoolExecutor(50) as crowd:
        for _ in range(100):
            silent.enter_context(socket.create_connection(("127.0.0.1", port)))
        calling = crowd.submit(call)
        try:
            scrapes = [crowd.submit(toy_server.metrics) for _ in range(300)]
            texts = [scrape.result(PATIENCE) for scrape in scrapes]
            most = threads(toy_server.process.pid)
        finally:
            over.set()
        calling.result(PATIENCE)
    assert all("ancestral_model_serving" in text for text in texts)
    assert answered
    # A call may start one of gRPC's own; each connection would be one where a connection takes a thread.
    assert most < before + 20
