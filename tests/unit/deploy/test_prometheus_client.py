"""What the query client says where there is no Prometheus; its answers are tested with a real one."""

import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest

from flaremesh.deploy.reports.prometheus import Prometheus
from flaremesh.deploy.targets.base import DeployError
from ports import free_port


class Silent(SimpleHTTPRequestHandler):
    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def web_server() -> Iterator[str]:
    """A server that is no Prometheus."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Silent) as server:
        threading.Thread(target=server.serve_forever).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def test_silence_names_the_address_and_says_what_to_do():
    url = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(
        DeployError, match=rf"no Prometheus answers at {url}.*flaremesh monitor.*--prometheus"
    ):
        Prometheus(url, timeout=5).query("up")


def test_an_address_that_is_none_is_said_to_be_silent():
    with pytest.raises(DeployError, match="no Prometheus answers at somewhere"):
        Prometheus("somewhere").query("up")


def test_another_server_refuses(web_server):
    with pytest.raises(DeployError, match=f"{web_server} refuses .*up.*: HTTP 404"):
        Prometheus(f"{web_server}/").query("up")
