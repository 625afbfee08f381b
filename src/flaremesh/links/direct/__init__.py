"""The direct carrier: TLS over TCP from site to site, one connection per directed edge."""

from flaremesh.links.direct.carrier import DirectCarrier, Listen

__all__ = ["DirectCarrier", "Listen"]
