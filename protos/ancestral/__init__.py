"""Ancestral's wire contract: services, tensors and the bundle manifest."""
