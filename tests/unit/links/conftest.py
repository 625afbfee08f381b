"""Sites with links, and proxies between them."""

import pytest
from direct_mesh import Sites

from flaremesh.links.carriers import stream as relay


@pytest.fixture
def proxies():
    """Closed after the links that go through them."""
    made = []
    yield made
    for proxy in made:
        proxy.close()


@pytest.fixture
def sites(monkeypatch, authority):
    monkeypatch.setattr(relay, "_ACK_SECONDS", 0.01)  # the greetings are all that is relayed
    mesh = Sites(authority)
    yield mesh
    mesh.close()
