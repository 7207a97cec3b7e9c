"""The engine: from a job to its answer. Knows nothing of gRPC. README.md beside this file shows it in one picture."""
