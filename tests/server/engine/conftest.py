"""Programs that can be told to fail or to wait."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from structlog.testing import capture_logs

from fakeprograms import Doubler, Painter


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Failures are logged with the variables of every frame where the log is a terminal's, which takes long."""
    with capture_logs():
        yield


@pytest.fixture
def doubler() -> Doubler:
    return Doubler()


@pytest.fixture
def painter() -> Painter:
    return Painter()
