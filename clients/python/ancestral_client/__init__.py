"""Client of Ancestral: numpy arrays in, numpy arrays out.

>>> from ancestral_client import Client
>>> with Client("localhost:8500") as client:
...     samples = client.sample("digits-pixelcnn", 16, seed=7)
>>> samples.images.shape  # N, H, W, C
(16, 8, 8, 1)
"""

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
