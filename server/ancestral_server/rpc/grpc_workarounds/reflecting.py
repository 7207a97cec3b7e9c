"""Reflection that looks in several pools of descriptors, and is registered like any other service.

What:   registers gRPC's own reflection service by its generated function, over a finder that asks one pool after
        another.
Why:    grpcio-reflection's `enable_server_reflection` gives whoever is no `grpc.aio.Server`, as what stands in for ours
        (`rpc.registered`), a service of threads; and it takes one pool, while ours are two, since the names of the Open
        Inference Protocol may be registered by tritonclient as well.
Since:  1.85.
Costs:  nothing: reflection is asked once a client.
Goes:   tests/server/rpc/test_grpc_workarounds.py::
        test_grpcs_reflection_still_takes_a_stand_in_for_a_server_of_threads
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from google.protobuf.descriptor_pool import DescriptorPool
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc


class _Pools:
    """Several pools of descriptors, searched in turn, to whoever asks for one."""

    def __init__(self, *pools: DescriptorPool) -> None:
        self._pools = pools

    def __getattr__(self, method: str) -> Callable[..., Any]:
        def find(*of: Any) -> Any:
            for pool in self._pools[:-1]:
                with suppress(KeyError):
                    return getattr(pool, method)(*of)
            return getattr(self._pools[-1], method)(*of)

        return find


def add_reflection(names: Sequence[str], pools: Sequence[DescriptorPool], server: Any) -> None:
    """Have `server`, or who stands in for one, answer questions about the services of these names."""
    finder: Any = _Pools(*pools)
    reflecting = reflection.aio.ReflectionServicer((*names, reflection.SERVICE_NAME), finder)
    reflection_pb2_grpc.add_ServerReflectionServicer_to_server(reflecting, server)
