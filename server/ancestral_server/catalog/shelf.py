"""Versions in order, by name and then by number."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator, Sequence

from ancestral_server.catalog.folder import Key
from ancestral_server.catalog.version import ModelVersion


class Shelf:
    """Versions by name and number. A change costs about the same whether there are three or thousands."""

    def __init__(self) -> None:
        self.exact: dict[Key, ModelVersion] = {}
        # The highest of each name.
        self.highest: dict[str, ModelVersion] = {}
        # Both ascending.
        self._names: list[str] = []
        self._numbers: dict[str, list[int]] = {}

    def set(self, key: Key, model: ModelVersion | None) -> None:
        """Put a version in its place, or with None take away what is there."""
        name, number = key
        if model is not None:
            if key not in self.exact:
                if name not in self._numbers:
                    insort(self._names, name)
                insort(self._numbers.setdefault(name, []), number)
            self.exact[key] = model
        elif self.exact.pop(key, None) is not None:
            numbers = self._numbers[name]
            del numbers[bisect_left(numbers, number)]
            if not numbers:
                del self._numbers[name], self.highest[name], self._names[bisect_left(self._names, name)]
        if name in self._numbers:
            self.highest[name] = self.exact[name, self._numbers[name][-1]]

    @property
    def names(self) -> Sequence[str]:
        """Ascending; only to be read."""
        return self._names

    def __contains__(self, name: object) -> bool:
        return name in self._numbers

    def numbers(self, name: str) -> Sequence[int]:
        """The versions of a name, ascending, none if there is no such name; only to be read."""
        return self._numbers.get(name, ())

    def of(self, name: str) -> Iterator[ModelVersion]:
        """The versions of a name, ascending."""
        return (self.exact[name, number] for number in self.numbers(name))

    def after(self, key: Key = ("", 0)) -> Iterator[ModelVersion]:
        """All that come after that one, which need not be there. Not to be used across a change."""
        name, number = key
        for later in self._names[bisect_left(self._names, name) :]:
            numbers = self._numbers[later]
            for each in numbers[bisect_left(numbers, number + 1) :] if later == name else numbers:
                yield self.exact[later, each]
