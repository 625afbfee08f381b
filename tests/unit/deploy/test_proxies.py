"""Connections to this machine itself go through no proxy."""

import http.server
import os
import threading
import urllib.error
import urllib.request

import pytest

from flaremesh.deploy import proxies

NOWHERE = "http://127.0.0.1:9"  # nobody listens there
VARIABLES = ("grpc_proxy", "https_proxy", "http_proxy", "all_proxy", "no_proxy", "no_grpc_proxy")


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    for name in VARIABLES:
        for variable in (name, name.upper()):
            monkeypatch.setenv(variable, "")  # so that all is as before in the end
            monkeypatch.delenv(variable)
    return monkeypatch


@pytest.fixture(scope="module")
def page():
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_):
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://localhost:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("variable", ["http_proxy", "HTTP_PROXY"])
def test_a_page_of_this_machine_is_read_whatever_proxy_is_set(page, environment, variable):
    environment.setattr(urllib.request, "_opener", None)  # it remembers the proxies of its first use
    environment.setenv(variable, NOWHERE)
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(page, timeout=5)
    proxies.spare()
    with urllib.request.urlopen(page, timeout=5) as reply:
        assert reply.status == 204


@pytest.mark.parametrize(
    ("given", "variable", "kept"),
    [
        ({}, "no_proxy", []),
        ({"no_proxy": "a.org,.b.org"}, "no_proxy", ["a.org", ".b.org"]),
        ({"NO_PROXY": "a.org"}, "no_proxy", ["a.org"]),
        ({"no_proxy": "a.org"}, "no_grpc_proxy", ["a.org"]),
        ({"no_proxy": "a.org", "no_grpc_proxy": "c.org"}, "no_grpc_proxy", ["c.org"]),
    ],
)
def test_what_was_spared_before_is_spared_still(environment, given, variable, kept):
    for name, value in (given | {"https_proxy": NOWHERE}).items():
        environment.setenv(name, value)
    for _ in range(2):
        proxies.spare()
        assert os.environ[variable].split(",") == [*kept, "localhost", "127.0.0.1", "::1"]


def test_a_star_that_spares_everything_goes_on_to_do_so(environment):
    environment.setenv("http_proxy", NOWHERE)
    environment.setenv("no_proxy", "*")
    proxies.spare()
    assert os.environ["no_proxy"] == "*"
    assert "localhost" in dict(os.environ)["no_grpc_proxy"]  # gRPC knows no star


def test_another_name_is_spared_only_if_it_leads_to_this_machine(environment):
    environment.setenv("http_proxy", NOWHERE)
    proxies.spare("127.0.0.2")
    proxies.spare("198.51.100.7")  # of nobody, by RFC 5737
    proxies.spare("nowhere.invalid")
    assert os.environ["no_proxy"] == "localhost,127.0.0.1,::1,127.0.0.2"


def test_without_a_proxy_the_environment_stays_as_it_is():
    before = dict(os.environ)
    proxies.spare()
    assert dict(os.environ) == before
    assert proxies.remark("nowhere.invalid") == ""


def test_where_nobody_answers_elsewhere_a_proxy_that_is_set_is_named(environment):
    environment.setenv("HTTPS_PROXY", NOWHERE)
    assert "HTTPS_PROXY is set" in proxies.remark("nowhere.invalid")
    assert proxies.remark("localhost") == ""
    environment.setenv("no_proxy", "nowhere.invalid")
    assert proxies.remark("nowhere.invalid") == ""
