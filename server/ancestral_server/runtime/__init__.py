"""Bundles and onnxruntime: what a model is and how one run happens. Knows nothing of requests."""
