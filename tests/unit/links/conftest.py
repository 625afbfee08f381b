"""Sites with links, and proxies between them."""

from contextlib import ExitStack

import pytest
from direct_mesh import Sites
from hostile_run import Run
from streams import Network

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


@pytest.fixture
def network(request):
    """Relay carriers of sites a and b, and the server between them; its options are the parameter."""
    network = Network(**getattr(request, "param", {}))
    network.carrier("a", "b")
    network.carrier("b", "a")
    yield network
    network.close()


@pytest.fixture
def ends():
    """Closes what it is given, and gives it back."""
    with ExitStack() as stack:
        yield stack.enter_context


@pytest.fixture
def run(proxies, sites):
    run = Run(sites)
    proxies += run.proxies
    return run


@pytest.fixture
def mallory(authority):
    return authority.issue("m")
