"""Our commands run in the test's process: a start takes seconds, most of them for torch, which is there already."""

from __future__ import annotations

import shlex
import sys

import pytest

from ancestral import commands

ENTRY_POINTS = {
    "ancestral": commands.client,
    "ancestral-exporter": commands.exporter,
    "ancestral-server": commands.server,
}


def call(*arguments: str) -> None:
    """Run one of our commands, but none that serves, with its arguments, as its entry point does; it has to succeed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", list(arguments))
        with pytest.raises(SystemExit) as ended:
            ENTRY_POINTS[arguments[0]]()
    assert not ended.value.code, f"{shlex.join(arguments)}: exit code {ended.value.code}"
