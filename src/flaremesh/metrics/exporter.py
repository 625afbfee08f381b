"""The HTTP side of a participant: metrics for a scraper, health and readiness for its supervisor."""

import json
import logging
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from http import HTTPStatus
from http.server import ThreadingHTTPServer
from ipaddress import IPv6Address
from typing import Any
from urllib.parse import urlsplit

from prometheus_client import CollectorRegistry, MetricsHandler
from prometheus_client.registry import Collector

from flaremesh.hosts import address_of

_log = logging.getLogger(__name__)

_CLIENT_SECONDS = 10.0  # a client that takes longer to ask, or to take the answer, loses its connection
_MOST_OF_ONE = 16  # connections of one address at a time
_MOST_CLIENTS = 64  # of all others

Missing = Callable[[], Sequence[str]]
"""What keeps a participant from taking part in a run, as phrases; empty when it is ready."""

Examine = Callable[[], tuple[bool, bytes]]
"""Whether all is well with a participant, and a report as JSON; may take seconds."""

Document = Callable[[str], bytes]
"""Makes JSON of what a URL says after its question mark; may take seconds."""


class Exporter:
    """Serves ``/metrics``, ``/healthz``, ``/readyz`` and ``/doctor`` from threads that end with the process.

    ``/healthz`` says that the process answers. ``/readyz`` is 200 when nothing is missing and 503 otherwise;
    its body is JSON: ``{"ready": bool, "missing": [phrases]}``. ``/doctor`` is 200 when all is well and 503
    otherwise; ``/doctor?report`` has the same body and is always 200.

    Args:
        host: address to bind; ``::`` is that of all families where the machine has both.
        port: port to bind; 0 takes a free one.
        collectors: the metrics.
        missing: says what keeps the participant from taking part; called for every request.
        examine: makes the report; called for every request.
        documents: further JSON, by path, for those who ask from this machine.

    Raises:
        OSError: the address cannot be bound.
    """

    def __init__(
        self,
        host: str,
        port: int,
        collectors: Iterable[Collector],
        missing: Missing,
        examine: Examine,
        documents: Mapping[str, Document] | None = None,
    ):
        registry = CollectorRegistry(support_collectors_without_names=True)
        for collector in collectors:
            registry.register(collector)

        class Handler(_Handler):
            pass

        Handler.registry = registry
        Handler.missing = staticmethod(missing)
        Handler.examine = staticmethod(examine)
        Handler.documents = documents or {}
        self._server = _Server((host, port), Handler)
        threading.Thread(target=self._server.serve_forever, name="exporter", daemon=True).start()

    @property
    def port(self) -> int:
        """The port that was bound."""
        return int(self._server.server_address[1])

    def close(self) -> None:
        """Stop serving and free the port."""
        self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    """A thread per connection, for a few of each address, which have some seconds to ask."""

    daemon_threads = True

    def __init__(self, address: tuple[str, int], handler: type["_Handler"]):
        self._lock = threading.Lock()
        self._clients: Counter[str] = Counter()
        self._to_ask: dict[Any, float] = {}  # by connection: until when
        if isinstance(address_of(address[0]), IPv6Address):
            self.address_family = socket.AF_INET6
        super().__init__(address, handler)

    def server_bind(self) -> None:
        """Called once, before it listens."""
        if self.address_family == socket.AF_INET6 and socket.has_dualstack_ipv6():
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            # who asks from this machine, as its supervisor does, is not kept out by others
            host, here = client_address[0], _is_here(request)
            others = sum(count for client, count in self._clients.items() if client != host)
            if self._clients[host] >= _MOST_OF_ONE or (others >= _MOST_CLIENTS and not here):
                self.shutdown_request(request)
                return
            self._clients[host] += 1
            self._to_ask[request] = time.monotonic() + _CLIENT_SECONDS
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            with self._lock:
                self._to_ask.pop(request, None)
                self._clients[client_address[0]] -= 1
                self._clients += Counter()  # forgets who is gone

    def has_asked(self, request: Any) -> None:
        """The client has sent all of its request."""
        with self._lock:
            self._to_ask.pop(request, None)

    def service_actions(self) -> None:
        """Called twice a second: part with those who send their request byte by byte."""
        now = time.monotonic()
        with self._lock:
            for request in [late for late, until in self._to_ask.items() if until < now]:
                del self._to_ask[request]
                with suppress(OSError):
                    request.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: object, client_address: object) -> None:
        if not isinstance(sys.exception(), OSError):  # the client is gone
            _log.warning("a request from %s to the metrics port failed", client_address, exc_info=True)


class _Handler(MetricsHandler):
    server: _Server
    missing: Missing
    examine: Examine
    documents: Mapping[str, Document]
    timeout = _CLIENT_SECONDS
    server_version, sys_version = "flaremesh", ""  # strangers learn no version of Python

    def do_GET(self) -> None:  # noqa: N802  (the name is BaseHTTPRequestHandler's)
        """Answer one request."""
        self.server.has_asked(self.connection)
        url = urlsplit(self.path)
        match url.path:
            case "/metrics":
                super().do_GET()
            case "/healthz":
                self._reply(HTTPStatus.OK, _json({"alive": True}))
            case "/readyz":
                missing = list(self.missing())
                self._reply(_status(not missing), _json({"ready": not missing, "missing": missing}))
            case "/doctor":
                well, report = self.examine()
                self._reply(_status(well or url.query == "report"), report)
            case path if path in self.documents and _is_here(self.connection):
                self._reply(HTTPStatus.OK, self.documents[path](url.query))
            case _:
                self.send_error(HTTPStatus.NOT_FOUND)

    def _reply(self, status: HTTPStatus, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def _is_here(connection: socket.socket) -> bool:
    """Whether the other end is on this machine."""
    try:
        return bool(connection.getpeername()[0] == connection.getsockname()[0])
    except OSError:  # it is gone
        return False


def _json(document: object) -> bytes:
    return json.dumps(document).encode() + b"\n"


def _status(well: bool) -> HTTPStatus:
    return HTTPStatus.OK if well else HTTPStatus.SERVICE_UNAVAILABLE
