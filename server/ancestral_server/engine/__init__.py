"""Lanes: a bounded queue and a loop each, on a thread, on several, or for short runs on the event loop itself. Knows
nothing of gRPC.

Two crossings per request, none where the event loop runs it: in through `Lane.submit`, out through the job's future;
plus the one-way `cancelled` flag.
"""
