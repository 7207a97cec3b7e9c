"""The reference is what the docstrings say today, and whatever it is about has one."""

from __future__ import annotations

import importlib
import inspect
import runpy
from pathlib import Path
from typing import Any

import pytest

from ancestral_client import AsyncClient, Client

ROOT = Path(__file__).parents[2]
REFERENCE: dict[str, Any] = runpy.run_path(str(ROOT / ".ci" / "reference_pages.py"))


@pytest.mark.parametrize("module", REFERENCE["PAGES"])
def test_a_page_is_what_its_module_says(module: str) -> None:
    path = ROOT / REFERENCE["PAGES"][module]
    assert path.read_text() == REFERENCE["page"](importlib.import_module(module)), "run 'make generated'"


@pytest.mark.parametrize("module", REFERENCE["PAGES"])
def test_what_has_a_page_has_docstrings(module: str) -> None:
    here = importlib.import_module(module)
    for name in REFERENCE["names"](here):
        value = getattr(here, name)
        assert not callable(value) or inspect.getdoc(value), f"{module}.{name}"


def test_the_pages_tell_each_call_of_the_clients_once() -> None:
    page = (ROOT / REFERENCE["PAGES"]["ancestral_client"]).read_text()
    calls = [name for name, value in vars(Client).items() if not name.startswith("_") and callable(value)]
    assert len(calls) > 15
    for call in calls:
        assert page.count(f"\n### Client.{call}\n") == 1
        assert f"### AsyncClient.{call}\n" not in page
        assert inspect.getdoc(getattr(AsyncClient, call)) == inspect.getdoc(getattr(Client, call))
    assert f"As those of [Client](#client): `{'`, `'.join(calls[:3])}`" in page
