"""Programs that can be told to fail or to wait."""

from __future__ import annotations

import pytest

from fakeprograms import Doubler, Painter


@pytest.fixture
def doubler() -> Doubler:
    return Doubler()


@pytest.fixture
def painter() -> Painter:
    return Painter()
