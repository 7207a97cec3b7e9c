"""Who may call, and how much: certificates, callers, roles and quotas, as files say and say anew. It knows no gRPC."""

from ancestral_server.access.access import Access
from ancestral_server.access.callers import ROLES, Caller, Callers
from ancestral_server.access.certificates import Certificates
from ancestral_server.access.quota import Meter, Over, Quota

__all__ = ["ROLES", "Access", "Caller", "Callers", "Certificates", "Meter", "Over", "Quota"]
