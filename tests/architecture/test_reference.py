"""The reference is what the docstrings say today, and whatever it is about has one."""

from __future__ import annotations

import importlib
import inspect
import re
import runpy
from pathlib import Path
from typing import Any

import pytest

from ancestral_client import AsyncClient, Client, errors, results

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


ARRAYS = {"images", "latents", "given", "image", "first"}
CALLS = [name for name, value in vars(Client).items() if inspect.isfunction(value) and name[0] != "_"]
ERRORS = "|".join(name for name, value in vars(errors).items() if inspect.isclass(value))


@pytest.mark.parametrize("call", [call for call in CALLS if call != "close"])
def test_a_call_tells_its_errors_and_the_shapes_of_its_arrays(call: str) -> None:
    method = getattr(Client, call)
    told = inspect.getdoc(method) or ""
    assert re.search(rf"\b({ERRORS}|[Ee]rrors)\b", told)
    assert "[" in told or not ARRAYS & inspect.signature(method).parameters.keys()


def test_results_tell_the_shapes_of_their_arrays_and_the_units_of_likelihoods() -> None:
    checked = 0
    kinds = [kind for name, kind in vars(results).items() if inspect.isclass(kind) and not name.startswith("_")]
    for kind in kinds:
        for field, (annotation, told) in REFERENCE["attributes"](kind).items():
            if "NDArray" in annotation:
                checked += 1
                assert told.startswith("["), f"{kind.__name__}.{field}"
            if "likelihood" in field:
                assert re.search("nats", told), f"{kind.__name__}.{field}"
    assert checked > 10


def test_the_pages_tell_each_call_of_the_clients_once() -> None:
    page = (ROOT / REFERENCE["PAGES"]["ancestral_client"]).read_text()
    assert len(CALLS) > 15
    for call in CALLS:
        assert page.count(f"\n### Client.{call}\n") == 1
        assert f"### AsyncClient.{call}\n" not in page
        assert inspect.getdoc(getattr(AsyncClient, call)) == inspect.getdoc(getattr(Client, call))
    assert f"As those of [Client](#client): `{'`, `'.join(CALLS[:3])}`" in page
