"""A lane of each kind, with the program that it runs."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ancestral_server.engine.batch_loop import BatchLoop
from ancestral_server.engine.raster_loop import RasterLoop
from fakeprograms import Doubler, Painter, batch_lane, painting_lane


@pytest.fixture
def doubler() -> Doubler:
    return Doubler()


@pytest.fixture
def painter() -> Painter:
    return Painter()


@pytest.fixture
def batches(doubler: Doubler) -> Iterator[BatchLoop]:
    with batch_lane(doubler) as lane:
        yield lane


@pytest.fixture
def raster(painter: Painter) -> Iterator[RasterLoop]:
    with painting_lane(painter) as lane:
        yield lane
