"""The way in: protos to arrays, errors to status codes, calls to lanes. The only package that knows gRPC."""

from ancestral_server.rpc.grpc_workarounds import event_engine, header_texts

# Before anything imports gRPC.
event_engine.leave_out()
header_texts.leave_out()
