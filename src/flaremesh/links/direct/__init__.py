"""From site to site: TLS over TCP, one connection per directed edge, dialled by the sender."""

from flaremesh.links.direct.carrier import DirectCarrier, Listen
from flaremesh.links.direct.tls import Credentials

__all__ = ["Credentials", "DirectCarrier", "Listen"]
