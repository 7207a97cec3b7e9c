"""Fixtures of the server's own tests."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest


@pytest.fixture
def no_collection() -> Iterator[None]:
    """No garbage is collected meanwhile: what goes, goes because nobody refers to it any more."""
    gc.disable()
    yield
    gc.enable()
