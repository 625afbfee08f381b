"""The direct carrier: TLS over TCP from site to site, one connection per directed edge."""

from flaremesh.links.direct.carrier import DirectCarrier, Listen
from flaremesh.links.direct.tls import Credentials

__all__ = ["Credentials", "DirectCarrier", "Listen"]
