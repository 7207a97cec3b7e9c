"""Runs with buffers of their own give what runs of arrays give; on the CPU, whose memory is bound as a GPU's is."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

import toybundle
from ancestral_server.runtime.session import Session

CPU = ("cpu", 0)


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    return toybundle.write(tmp_path) / "encode.onnx"


def images(count: int, seed: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.random.default_rng(seed).integers(0, 256, (count, 4, 3, 1), dtype=np.uint8)


def test_runs_of_all_sizes_and_at_a_time_give_what_they_give_alone(graph: Path) -> None:
    session = Session(ort.InferenceSession(graph), bound=CPU)

    def code(which: tuple[int, int]) -> bool:
        given = images(*which)
        # Rows that lie apart in memory are copied together.
        (got,) = session.run(["code"], {"image": given[::-1]})
        return np.allclose(got, toybundle.encode(given[::-1]), rtol=1e-6)

    with ThreadPoolExecutor(4) as threads:
        assert all(threads.map(code, [(size, seed) for seed in range(30) for size in (1, 8)]))


def test_an_answer_stays_what_it_is_when_the_next_run_has_the_same_buffers(graph: Path) -> None:
    session = Session(ort.InferenceSession(graph), bound=CPU)
    first, second = images(4, 1), images(4, 2)
    (one,) = session.run(["code"], {"image": first})
    kept = one.copy()
    (other,) = session.run(["code"], {"image": second})
    assert np.array_equal(one, kept)
    assert not np.array_equal(one, other)


def test_a_run_that_fails_costs_the_next_nothing(graph: Path) -> None:
    session = Session(ort.InferenceSession(graph), bound=CPU)
    with pytest.raises(RuntimeError, match="image"):
        session.run(["code"], {"image": np.zeros((2, 5, 3, 1), np.uint8)})
    given = images(2, 3)
    (got,) = session.run(["code"], {"image": given})
    np.testing.assert_allclose(got, toybundle.encode(given), rtol=1e-6)
