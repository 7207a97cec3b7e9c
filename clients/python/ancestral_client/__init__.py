"""Client of Ancestral: numpy arrays in, numpy arrays out.

>>> from ancestral_client import Client
>>> with Client("localhost:8500") as client:
...     samples = client.sample("digits-pixelcnn", 16, seed=7)
>>> samples.images.shape  # N, H, W, C
(16, 8, 8, 1)
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ancestral_client.bulk import AsyncBulkStream, BulkStream
    from ancestral_client.client import AsyncClient, Client
    from ancestral_client.errors import (
        AncestralError,
        BundleRefused,
        Cancelled,
        DeadlineExceeded,
        FieldViolation,
        InvalidArgument,
        MessageTooLarge,
        NotFound,
        Overloaded,
        PermissionDenied,
        RoleNotSupported,
        ServerFault,
        Unauthenticated,
        Unavailable,
        Unimplemented,
    )
    from ancestral_client.results import (
        Classes,
        Decoding,
        Encoding,
        Features,
        Info,
        Limits,
        Metric,
        Model,
        PaintedRow,
        RoleForm,
        SampledImage,
        Samples,
        Scores,
    )
    from ancestral_client.stream import AsyncSampleStream, SampleStream

__all__ = [
    "AncestralError",
    "AsyncBulkStream",
    "AsyncClient",
    "AsyncSampleStream",
    "BulkStream",
    "BundleRefused",
    "Cancelled",
    "Classes",
    "Client",
    "DeadlineExceeded",
    "Decoding",
    "Encoding",
    "Features",
    "FieldViolation",
    "Info",
    "InvalidArgument",
    "Limits",
    "MessageTooLarge",
    "Metric",
    "Model",
    "NotFound",
    "Overloaded",
    "PaintedRow",
    "PermissionDenied",
    "RoleForm",
    "RoleNotSupported",
    "SampleStream",
    "SampledImage",
    "Samples",
    "Scores",
    "ServerFault",
    "Unauthenticated",
    "Unavailable",
    "Unimplemented",
]

# What is not asked for is not imported: numpy, gRPC and protobuf take nearly all of the time that a script waits for
# its client. A name is looked for in the modules that are imported soonest first; the last imports the others anyway.
_HOMES = ("results", "errors", "stream", "bulk", "client")
# Modules for those who write `ancestral_client.errors.NotFound` with no import but that of the package.
_MODULES = ("bulk", "client", "errors", "paths", "results", "stream", "tracing")

# Type checkers go by the imports above, and would take any name for one of this module.
if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        if name in _MODULES:
            return import_module(f"{__name__}.{name}")
        if name in __all__:
            for home in _HOMES:
                module = import_module(f"{__name__}.{home}")
                if hasattr(module, name):
                    return getattr(module, name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_MODULES})
