"""What `import ancestral_client` offers."""

from __future__ import annotations

import inspect
import re

import ancestral_client
from ancestral_client import errors, results


def test_the_public_list_is_complete_and_sorted() -> None:
    own = {
        name
        for module in (errors, results)
        for name, value in vars(module).items()
        if inspect.isclass(value) and value.__module__ == module.__name__ and not name.startswith("_")
    }
    assert set(ancestral_client.__all__) == own | {
        *("AsyncBulkStream", "AsyncClient", "AsyncSampleStream", "BulkStream", "Client", "SampleStream")
    }
    assert ancestral_client.__all__ == sorted(ancestral_client.__all__)
    assert all(hasattr(ancestral_client, name) for name in ancestral_client.__all__)


def test_the_drawn_tree_is_the_exception_tree() -> None:
    leads = {name: lead for lead, name in re.findall(r"^(.*)── (\w+)", errors.__doc__ or "", re.MULTILINE)}
    real = {c.__name__ for c in vars(errors).values() if inspect.isclass(c) and issubclass(c, errors.AncestralError)}
    assert leads.keys() | {"AncestralError"} == real
    deeper = {name for name, lead in leads.items() if len(lead) > 1}
    assert deeper == {
        below.__name__ for kind in errors.AncestralError.__subclasses__() for below in kind.__subclasses__()
    }


def test_every_public_name_has_a_docstring() -> None:
    for name in ancestral_client.__all__:
        assert inspect.getdoc(getattr(ancestral_client, name)), name
