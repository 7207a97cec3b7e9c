"""The example for Node against the real server: the Python client's bytes, and what is wrong in one line."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from ancestral_client import Client
from nodes import example
from running import ServerProcess


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "ANCESTRAL_TOKEN"}
    return subprocess.run(
        ["node", "example.js", *arguments],
        cwd=example(folder),
        env=environment,
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )


def test_the_example_gets_the_bytes_of_the_python_client(toy_server: ServerProcess, tmp_path: Path) -> None:
    done = run(tmp_path, toy_server.address, "tally", "tally")
    assert done.returncode == 0, done.stderr
    sample, *images, encoding = [json.loads(line) for line in done.stdout.splitlines()]
    with Client(toy_server.address) as client:
        wanted = client.sample("tally", 4, seed=7)
        mean = client.encode("tally", wanted.images).mean
    digests = [hashlib.sha256(array.tobytes()).hexdigest() for array in (wanted.images, *wanted.images)]
    assert sample == {"call": "Sample", "version": 1, "seed": "7", "shape": [4, 4, 3, 1], "sha256": digests[0]}
    assert {image["index"]: image["sha256"] for image in images} == dict(enumerate(digests[1:]))
    assert all(image["shape"] == [4, 3, 1] for image in images)
    assert encoding["shape"] == [4, 2]
    assert np.array_equal(np.array(encoding["mean"], np.float32).reshape(4, 2), mean)


@pytest.mark.parametrize(
    ("sampler", "said"),
    [("nobody", "NOT_FOUND: no model 'nobody'; there are: tally"), ("", "INVALID_ARGUMENT: model: is empty")],
)
def test_the_example_says_what_the_server_says(
    toy_server: ServerProcess, tmp_path: Path, sampler: str, said: str
) -> None:
    done = run(tmp_path, toy_server.address, sampler)
    assert (done.returncode, done.stdout) == (1, "")
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1
