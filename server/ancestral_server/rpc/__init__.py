"""The door: protos to arrays, errors to status codes, calls to lanes. The only package that knows gRPC."""
