"""The HTTP side of a participant: metrics for a scraper, health and readiness for its supervisor."""

import json
import logging
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from http import HTTPStatus
from http.server import ThreadingHTTPServer
from urllib.parse import urlsplit

from prometheus_client import CollectorRegistry, MetricsHandler
from prometheus_client.registry import Collector

_log = logging.getLogger(__name__)

_CLIENT_SECONDS = 10.0  # a client that says nothing for longer loses its connection

Missing = Callable[[], Sequence[str]]
"""What keeps a participant from taking part in a run, as phrases; empty when it is ready."""

Examine = Callable[[], tuple[bool, bytes]]
"""Whether all is well with a participant, and a report as JSON; may take seconds."""


class Exporter:
    """Serves ``/metrics``, ``/healthz``, ``/readyz`` and ``/doctor`` from threads that end with the process.

    ``/healthz`` says that the process answers. ``/readyz`` is 200 when nothing is missing and 503 otherwise;
    its body is JSON: ``{"ready": bool, "missing": [phrases]}``. ``/doctor`` is 200 when all is well and 503
    otherwise; ``/doctor?report`` has the same body and is always 200.

    Args:
        host: address to bind.
        port: port to bind; 0 takes a free one.
        collectors: the metrics.
        missing: says what keeps the participant from taking part; called for every request.
        examine: makes the report; called for every request.
        documents: further JSON, by path.

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
        documents: Mapping[str, bytes] | None = None,
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
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        _log.warning("a request from %s to the metrics port failed", client_address, exc_info=True)


class _Handler(MetricsHandler):
    missing: Missing
    examine: Examine
    documents: Mapping[str, bytes]
    timeout = _CLIENT_SECONDS

    def do_GET(self) -> None:  # noqa: N802  (the name is BaseHTTPRequestHandler's)
        """Answer one request."""
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
            case path if path in self.documents:
                self._reply(HTTPStatus.OK, self.documents[path])
            case _:
                self.send_error(HTTPStatus.NOT_FOUND)

    def _reply(self, status: HTTPStatus, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def _json(document: object) -> bytes:
    return json.dumps(document).encode() + b"\n"


def _status(well: bool) -> HTTPStatus:
    return HTTPStatus.OK if well else HTTPStatus.SERVICE_UNAVAILABLE
