"""The states of samples that are being painted: of each the rows that are still to be read.

Letters: S samples, d the `StateSpec.rows_back` of a state.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ancestral_server.runtime.session import Array


class History:
    """Of each state its last d rows of every sample, oldest first: a run takes the oldest and adds the newest.

    A row is one array [S, ...] of all samples, and the next run's input is a run's output as it came: whatever d is,
    nothing is moved or copied. So the rows of a sample lie where those of the others do, counted from the newest, and
    where it has not painted as many there are zeros: each may be at a row of its own. A row has as many samples as its
    run had; those beyond its end had not begun, and are zeros.
    """

    def __init__(self, none: Sequence[Array], rows_back: Sequence[int]) -> None:
        """none: of each state that of no sample, [0, ...]; rows_back: its d."""
        self._states = [[state] * back for state, back in zip(none, rows_back, strict=True)]

    def oldest(self, samples: int) -> list[Array]:
        """What the next run of the first samples takes: [S, ...] of each state."""
        for rows in self._states:
            rows[0] = _resized(rows[0], samples)
        return [rows[0] for rows in self._states]

    def add(self, newest: Sequence[Array], count: int, samples: int) -> None:
        """The first `count` of all samples have been run, and gave these rows, which may be padded; the others, to
        whom nothing has happened, keep what they have.
        """
        states = []
        for rows, row in zip(self._states, newest, strict=True):
            later = [*rows[1:], row]
            if count < samples:
                later = [
                    np.concatenate([_resized(one, samples)[:count], _resized(other, samples)[count:]])
                    for one, other in zip(later, rows, strict=True)
                ]
            states.append(later)
        # All or nothing: memory may have run out meanwhile.
        self._states = states

    def clear(self, samples: Array) -> None:
        """These samples [n] begin: zeros in all of their rows."""
        for rows in self._states:
            for row in rows:
                row[samples[samples < len(row)]] = 0

    def move(self, sources: Array, targets: Array) -> None:
        """Put samples [n] in the places of others [n]."""
        for rows in self._states:
            for row in rows:
                there = targets < len(row)
                full = there & (sources < len(row))
                row[targets[full]] = row[sources[full]]
                row[targets[there & ~full]] = 0

    def reorder(self, order: Sequence[int]) -> None:
        """Put sample `order[i]` into place i; all samples are in the order, each once."""
        self._states = [[_resized(row, len(order))[order] for row in rows] for rows in self._states]


def _resized(row: Array, samples: int) -> Array:
    """A state's row of the first samples; zeros where there are fewer."""
    if len(row) >= samples:
        return row[:samples]
    return np.concatenate([row, np.zeros((samples - len(row), *row.shape[1:]), row.dtype)])
