"""Where commands print what is more than a line: tables and bars."""

from __future__ import annotations

from typing import Any

from rich.console import Console


def console(**options: Any) -> Console:
    """A console that takes every text literally: brackets are no markup, and `:smile:` is a word."""
    return Console(markup=False, emoji=False, highlight=False, **options)
