from __future__ import annotations

from ancestral_server.engine.arrivals import STALE_SECONDS, Arrivals


def test_counts_calls_between_header_and_message() -> None:
    arrivals = Arrivals()
    assert arrivals.coming(0) == 0
    arrivals.begin(0)
    arrivals.begin(0.001)
    assert arrivals.coming(0.001) == 2
    arrivals.read()
    assert arrivals.coming(0.001) == 1


def test_a_call_whose_message_never_comes_is_forgotten() -> None:
    arrivals = Arrivals()
    arrivals.begin(0)
    assert arrivals.coming(STALE_SECONDS * 1.1) == 0
    # Its late end takes nothing from a younger call's count for longer than that call is young.
    arrivals.read()
    assert arrivals.coming(STALE_SECONDS * 1.1) == 0
