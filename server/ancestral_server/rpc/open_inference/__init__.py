"""The Open Inference Protocol: another face of the same lanes, for clients and load generators that people have."""
