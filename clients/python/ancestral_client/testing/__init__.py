"""Tests of your own code without a server: the real clients, over a server that lives in the test's process.

>>> from ancestral_client.testing import FakeServer
>>> server = FakeServer()
>>> client = server.client()
>>> client.encode("toy-vae", client.sample("toy-pixelcnn", 4, seed=7).images).mean.shape
(4, 4)

What a client does is what it always does: it checks, splits, streams, tries again, and makes exceptions of statuses.
Only the other side is made up: toy models of numpy that answer every role, the same each time, and a clock of their
own, on which pauses pass at once. `FakeServer.fail` has calls fail as you say, `FakeServer.calls` tells which came.
Nothing listens, nothing is trained, nothing waits; neither onnxruntime nor torch is needed.
"""

from ancestral_client.testing.server import Asked, FakeServer
from ancestral_client.testing.toys import ToyModel

__all__ = ["Asked", "FakeServer", "ToyModel"]
