"""Connections that go out through an HTTP proxy, and what proxies may answer."""

import base64
import socket
import threading
from contextlib import suppress

import pytest
from direct_mesh import exchange

from flaremesh.links import LinkKind, tunnel

BOTH = [("a", "b"), ("b", "a")]


class HttpProxy:
    """Answers CONNECT, and passes on if the answer is a good one; keeps what it was asked."""

    def __init__(self, answer=b"HTTP/1.1 200 Connection established\r\nVia: test\r\n\r\n"):
        self._answer, self.requests = answer, []
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.address = self._listening.getsockname()
        self._streams = []
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.address[1]}"

    def close(self):
        self._end(self._listening)
        self._threads[0].join(10)  # no stream and no thread joins those that there are any more
        for stream in self._streams:
            self._end(stream)
        for thread in self._threads:
            thread.join(10)
        for stream in (self._listening, *self._streams):
            stream.close()

    def _end(self, stream):
        with suppress(OSError):  # it has ended by itself
            stream.shutdown(socket.SHUT_RDWR)

    def _accept(self):
        while True:
            try:
                near, _ = self._listening.accept()
            except OSError:
                return
            self._streams.append(near)
            with suppress(OSError):  # who has asked is gone
                self._answer_to(near)

    def _answer_to(self, near):
        request = b""
        while b"\r\n\r\n" not in request:
            piece = near.recv(1000)
            if not piece:
                return
            request += piece
        self.requests.append(request.decode())
        near.sendall(self._answer)
        if b" 200 " not in self._answer:
            near.close()
            return
        host, port = request.split()[1].decode().rsplit(":", 1)
        far = socket.create_connection((host.strip("[]"), int(port)))
        self._streams.append(far)
        for ends in ((near, far), (far, near)):
            self._threads.append(threading.Thread(target=self._pump, args=ends, daemon=True))
            self._threads[-1].start()

    def _pump(self, source, target):
        with suppress(OSError):
            while data := source.recv(1 << 16):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)


@pytest.fixture
def environment(monkeypatch):
    """Sets variables; none is set before."""
    for name in ("https_proxy", "all_proxy", "no_proxy", "http_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    return monkeypatch.setenv


@pytest.fixture
def proxy(proxies):
    proxies.append(HttpProxy())
    return proxies[-1]


@pytest.fixture
def target():
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening


def reaches(target, **options):
    """Whether a connection gets to ``target``."""
    with tunnel.connect(target.getsockname(), 5, **options) as stream:
        far, _ = target.accept()
        with far:
            stream.sendall(b"x")
            far.sendall(b"y")
            return far.recv(1) + stream.recv(1) == b"xy"


def failure(address=("127.0.0.1", 9)):
    with pytest.raises(OSError, match=r".") as caught:
        tunnel.connect(address, 1)
    return str(caught.value)


def test_two_sites_meet_through_a_proxy(place, proxies, proxy, sites, environment):
    environment("HTTPS_PROXY", proxy.url)
    for name, other in BOTH:
        sites.add(name, [other], [other], mode="met", listens=False, meeting=place.meeting(name))
    assert not any(sites.open().values())
    assert exchange(sites, BOTH, 10, lambda sender, k: f"{sender}{k}".encode() * 10_000) == []
    assert sites.observers["a"].links == {"b": LinkKind.MET}
    assert len(proxy.requests) >= 2
    host, port = place.address
    assert {request.splitlines()[0] for request in proxy.requests} == {f"CONNECT {host}:{port} HTTP/1.1"}


@pytest.mark.parametrize("variable", ["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"])
def test_the_usual_variables_name_the_proxy(proxy, target, environment, variable):
    environment(variable, proxy.url)
    assert reaches(target)
    host, port = target.getsockname()
    assert proxy.requests[0].startswith(f"CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n")


@pytest.mark.parametrize("spared", ["127.0.0.1", "*", "10.0.0.1, 127.0.0.1", "127.0.0.1:{port}"])
def test_what_no_proxy_names_is_dialled_straight(proxy, target, environment, spared):
    environment("https_proxy", proxy.url)
    environment("no_proxy", spared.format(port=target.getsockname()[1]))
    assert reaches(target)
    assert proxy.requests == []


def test_a_proxy_for_other_protocols_is_not_used(proxy, target, environment):
    environment("http_proxy", proxy.url)
    assert reaches(target)
    assert proxy.requests == []


def test_user_and_password_are_given_to_the_proxy(proxy, target, environment):
    environment("https_proxy", proxy.url.replace("//", "//sit%40e:pa%2Fss@"))
    assert reaches(target)
    secret = base64.b64encode(b"sit@e:pa/ss").decode()
    assert f"\r\nProxy-Authorization: Basic {secret}\r\n" in proxy.requests[0]


def test_an_address_of_ipv6_is_named_in_brackets(proxy, environment):
    environment("https_proxy", proxy.url)
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as target:
        port = target.getsockname()[1]
        with tunnel.connect(("::1", port), 5):
            target.accept()[0].close()
        assert proxy.requests[0].startswith(f"CONNECT [::1]:{port} HTTP/1.1\r\n")
        environment("no_proxy", "::1")
        with tunnel.connect(("::1", port), 5):
            target.accept()[0].close()
    assert len(proxy.requests) == 1


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"HTTP/1.1 403 Forbidden\r\n\r\n", "refuses: 403 Forbidden"),
        (b"HTTP/1.0 407 Who\x1b[2J?\r\n\r\n", r"refuses: 407 Who\x1b[2J?: give https_proxy its user"),
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", "does not answer as an HTTP proxy does"),
        (b"", "does not answer as an HTTP proxy does"),
        (b"HTTP/1.1 200 OK\r\n" + b"x" * 100_000, "does not answer as an HTTP proxy does"),
        (b"HTTP/1.1 500 " + b"x" * 8100 + b"\r\n\r\n", "refuses: 500 xxx"),
    ],
)
def test_whatever_else_a_proxy_answers_is_told_in_one_line(proxies, environment, answer, words):
    proxies.append(HttpProxy(answer.replace(b" 200 ", b" 200\t")))
    environment("https_proxy", proxies[-1].url)
    told = failure()
    assert words in told
    assert f"the proxy 127.0.0.1:{proxies[-1].address[1]}" in told
    assert "\n" not in told
    assert len(told) < 300


def test_a_proxy_that_says_more_than_its_answer_is_refused(proxies, environment, target):
    proxies.append(HttpProxy(b"HTTP/1.1 200 OK\r\n\r\nG"))
    environment("https_proxy", proxies[-1].url)
    assert "says more than it should" in failure(target.getsockname())


def test_a_proxy_that_says_nothing_is_given_up_in_time(environment, target):
    environment("https_proxy", f"http://127.0.0.1:{target.getsockname()[1]}")
    assert "does not answer in time" in failure()


def test_a_proxy_that_is_not_there_is_named(environment, target):
    port = target.getsockname()[1]
    target.close()
    environment("https_proxy", f"http://user:secret@127.0.0.1:{port}")
    told = failure()
    assert f"the proxy 127.0.0.1:{port} is not reached: Connection refused" in told
    assert "secret" not in told


@pytest.mark.parametrize(
    "url", ["socks5://user:secret@host:1", "http://", "https://secret@host", "http://h:secret"]
)
def test_a_proxy_of_another_kind_is_refused_without_telling_its_secret(environment, url):
    environment("https_proxy", url)
    told = failure()
    assert "secret" not in told
    assert "http://HOST:PORT" in told


def test_what_is_no_address_is_no_accident_of_python(environment):
    for address in (("a b", 1), ("x" * 300, 1), ("127.0.0.1", 1 << 20), ("\0", 1)):
        failure(address)
        environment("https_proxy", "http://127.0.0.1:9")
        failure(address)
        environment("https_proxy", "")
