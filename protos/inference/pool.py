"""Where the descriptors of this package are: apart from protobuf's default pool, in which tritonclient registers
messages of the same names in files of other names. One pool refuses that, and the second import with it.

The generated code imports this module in place of `google.protobuf.descriptor_pool` (.ci/stubs).
"""

from google.protobuf import descriptor_pool

_POOL = descriptor_pool.DescriptorPool()


def Default() -> descriptor_pool.DescriptorPool:
    """The pool of this package, by the name that generated code asks for."""
    return _POOL
