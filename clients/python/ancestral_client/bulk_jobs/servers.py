"""Who is asked: any of several servers, which may go away and come back."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Protocol, TypeVar

from ancestral_client import errors
from ancestral_client.client import Client

_Answer = TypeVar("_Answer")

# A server that is started again is back within seconds; one that is moved to another machine, within minutes.
_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.1, 10.0
_MOST_DOUBLINGS = 10  # which is longer than the longest; a server may be away for more than a float can hold
_GOES_BY = (errors.Unavailable, errors.Overloaded, errors.DeadlineExceeded, errors.Cancelled)


class Stopped(Exception):
    """The job ends, and nobody waits for what was being done."""


class Place(Protocol):
    """Where a server is. It can be pickled; what comes out of that connects anew."""

    def client(self) -> Client:
        """A client of the server there, which is started where it is one of our own. FileProblem if it cannot be."""

    def close(self) -> None:
        """Cancels the calls of the client."""


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """A server that somebody else looks after."""

    its_client: Client

    def client(self) -> Client:
        return self.its_client

    def close(self) -> None:
        self.its_client.close()


class Servers:
    """May be shared by threads. `wait_seconds`: how long all servers may be away before an error is told."""

    def __init__(self, places: Sequence[Place], wait_seconds: float) -> None:
        self._places = places
        self._wait = wait_seconds
        self._stopping = threading.Event()

    def ask(self, call: Callable[[Client], _Answer], turn: int) -> _Answer:
        """What a call gives, at the first server that answers: by `turn` they take turns at being asked first.

        Raises what the call raises, but for what goes by: that, only after `wait_seconds` of nothing else. Stopped
        once it is over.
        """
        failing_since: float | None = None
        for attempt in count():
            if self._stopping.is_set():
                raise Stopped
            place = self._places[(turn + attempt) % len(self._places)]
            try:
                return call(place.client())
            except errors.AncestralError as error:
                if self._stopping.is_set():
                    raise Stopped from error
                if not goes_by(error):
                    raise
                now = time.monotonic()
                failing_since = now if failing_since is None else failing_since
                pause = self._pause(attempt, error)
                if now + pause > failing_since + self._wait:
                    raise
            self._stopping.wait(pause)
        raise AssertionError("count() never ends")

    def _pause(self, attempt: int, error: errors.AncestralError) -> float:
        """Seconds until the next attempt: none while there is a server that was not asked in this round."""
        rounds, last = divmod(attempt + 1, len(self._places))
        if last:
            return 0.0
        pause: float = min(_FIRST_PAUSE_SECONDS * 2 ** min(rounds, _MOST_DOUBLINGS), _LONGEST_PAUSE_SECONDS)
        asked_for = error.retry_after if isinstance(error, errors.Overloaded) else None
        return max(pause, asked_for or 0.0)

    @property
    def stopping(self) -> bool:
        return self._stopping.is_set()

    def stop(self) -> None:
        """Have every call end, and servers of our own."""
        self._stopping.set()
        for place in self._places:
            place.close()


def goes_by(error: errors.AncestralError) -> bool:
    """Whether it is about the server or the way to it, now: a fault without a reason comes from no server of ours."""
    return isinstance(error, _GOES_BY) or (isinstance(error, errors.ServerFault) and not error.reason)


def about_images(error: errors.AncestralError) -> bool:
    """Whether another image might have been answered."""
    return isinstance(error, errors.InvalidArgument) or (isinstance(error, errors.ServerFault) and bool(error.reason))
