"""The door: protos to arrays, errors to status codes, calls to lanes. The only package that knows gRPC."""

import os

# Must be set before gRPC is imported. Its EventEngine, the default since 1.80, reads sockets on threads of its own,
# which wake grpc.aio's thread, which wakes the event loop. As before, the second of these reads them itself: a call
# costs a tenth less. A later gRPC that no longer knows the name says so and goes on; a test would tell.
os.environ.setdefault("GRPC_EXPERIMENTS", "-event_engine_listener")
