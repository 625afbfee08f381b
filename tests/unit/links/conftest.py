import pytest
from authority import Authority
from direct_mesh import Sites


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
def sites(authority):
    mesh = Sites(authority)
    yield mesh
    mesh.close()
