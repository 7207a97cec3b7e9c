"""What all parts know of a bundle alike; numpy and protobuf only.

`manifest` reads bundle.json, `rules` says what it may hold, `dtypes` what its tensors are made of, `noise` is the
stream of uniforms that graphs are fed.
"""
