"""Health with the method List.

What:   adds `List` to the asyncio form of gRPC's own health service.
Why:    the protocol has it, grpcio-health-checking's threaded form has it, its asyncio form lacks it.
Since:  1.85.
Costs:  it reads a private attribute of the service, its statuses by name.
Goes:   tests/server/rpc/test_grpc_workarounds.py::test_grpcs_own_health_still_has_no_list
"""

from __future__ import annotations

from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2


async def _list(
    servicer: Any, request: health_pb2.HealthListRequest, context: grpc.aio.ServicerContext[Any, Any]
) -> health_pb2.HealthListResponse:
    """The health of the server, its services and its models, by the names that Check takes."""
    statuses = {name: health_pb2.HealthCheckResponse(status=status) for name, status in servicer._server_status.items()}
    return health_pb2.HealthListResponse(statuses=statuses)


Health: Any = type("Health", (health.aio.HealthServicer,), {"List": _list})
