"""Versions stay in order, whatever comes and goes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ancestral_server.catalog.folder import MAX_VERSION, Key
from ancestral_server.catalog.shelf import Shelf
from ancestral_server.catalog.version import ModelVersion

KEYS = st.tuples(st.sampled_from(["a", "b", "b.c", "z"]), st.sampled_from([1, 2, 10, MAX_VERSION]))


@given(st.lists(st.tuples(KEYS, st.booleans())), KEYS)
def test_a_shelf_is_a_sorted_dictionary(changes: list[tuple[Key, bool]], mark: Key) -> None:
    shelf, plain = Shelf(), dict[Key, ModelVersion]()
    for key, there in changes:
        if there:
            plain[key] = ModelVersion(*key)
        else:
            plain.pop(key, None)
        shelf.set(key, plain.get(key))
    ordered = sorted(plain)
    assert shelf.exact == plain
    assert list(shelf.after()) == [plain[key] for key in ordered]
    assert list(shelf.after(mark)) == [plain[key] for key in ordered if key > mark]
    assert list(shelf.names) == sorted({name for name, _ in plain})
    for name in ("a", "b", "b.c", "z"):
        numbers = [number for other, number in ordered if other == name]
        assert (list(shelf.numbers(name)), name in shelf) == (numbers, bool(numbers))
        assert list(shelf.of(name)) == [plain[name, number] for number in numbers]
        assert shelf.highest.get(name) is (plain[name, numbers[-1]] if numbers else None)
