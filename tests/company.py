"""Whether a graph's answers about an image depend on the images that it is asked about together with."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from ancestral_exporter.bundle.runtime import Arrays, run_role

# Of images that go round; no multiple of a vector's width, so that batches end within vectors.
BATCHES = (2, 13, 130)
THREADS = (1, 2, 3, 4)


def check(
    path: Path,
    role: Any,
    feeds: Mapping[str, Any],
    height: int,
    batches: tuple[int, ...] = BATCHES,
    threads: tuple[int, ...] = THREADS,
) -> None:
    """Assert that a role's answers to `feeds` are bitwise those that it gives to each image alone, by one thread."""
    count = len(next(iter(feeds.values())))
    single = session(path, 1)
    apart = [run(single, role, feeds, np.array([i]), height) for i in range(count)]
    alone = {name: np.concatenate([answers[name] for answers in apart]) for name in apart[0]}
    for number in threads:
        several = session(path, number)
        for batch in batches:
            index = (np.arange(batch) + number) % count  # another place in each
            for name, answers in run(several, role, feeds, index, height).items():
                wrong = np.flatnonzero((answers != alone[name][index]).reshape(batch, -1).any(1))
                assert wrong.size == 0, f"{role.name}, {name}: images {wrong} of {batch}, {number} threads"


def run(session: Any, role: Any, feeds: Mapping[str, Any], index: Any, height: int) -> Arrays:
    return run_role(session, role, {name: value[index] for name, value in feeds.items()}, height)


def session(path: Path, threads: int) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
