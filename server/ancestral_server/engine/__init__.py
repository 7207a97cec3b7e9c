"""Lanes: a bounded queue, a thread and a loop each. Knows nothing of gRPC.

Two crossings per request: in through `Lane.submit`, out through the job's future; plus the one-way `cancelled` flag.
"""
