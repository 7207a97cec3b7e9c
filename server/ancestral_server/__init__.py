"""Serves exported image models over gRPC; see server/README.md for the map."""
