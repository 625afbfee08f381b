import pytest
from authority import Authority
from direct_mesh import Sites

from flaremesh.links import relay


@pytest.fixture(scope="session")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("certificates") / "root")


@pytest.fixture(scope="session")
def foreign_authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("certificates") / "foreign")


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
