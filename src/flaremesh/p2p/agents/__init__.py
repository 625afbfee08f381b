"""Components that live as long as a site's or the server's process, across all runs."""

from flaremesh.p2p.agents.server import ServerAgent
from flaremesh.p2p.agents.site import SiteAgent

__all__ = ["ServerAgent", "SiteAgent"]
