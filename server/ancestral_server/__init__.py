"""Serves exported image models over gRPC; see server/README.md for the map."""

__version__ = "0.1.0"
