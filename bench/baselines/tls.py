"""Bare sockets of Python's ssl module: TLS 1.3, certificates on both sides, and nothing else.

One connection per directed edge, dialled by the sender. No frames, no acknowledgements, no checks, no
reconnection: the other end is trusted to send vectors of the right length in the right order.
"""

import queue
import socket
import ssl
import threading
from typing import Any

import torch

from bench.meter import Meter
from bench.processes import Round, Site

_LARGE_BYTES = 1 << 16  # more may not fit into the buffers of the sockets, and two that only send would block


def run(site: Site) -> list[dict[str, Any]]:
    outgoing, incoming = _connect(site)
    senders = [_Sender(connection) for connection in outgoing]
    figures = [_iterate(site, each, outgoing, incoming, senders) for each in site.rounds]
    site.gather()  # whoever hung up earlier would take with it what the others have not read yet
    return figures


def _iterate(
    site: Site,
    each: Round,
    outgoing: list[ssl.SSLSocket],
    incoming: dict[str, ssl.SSLSocket],
    senders: list["_Sender"],
) -> dict[str, Any]:
    meter = Meter(each.warm_up, each.iterations)
    x, mixed = torch.rand(each.floats), torch.empty(each.floats)
    received = {peer: torch.empty(each.floats) for peer in incoming}
    edges = [
        (connection, _bytes(received[peer]), received[peer], site.hood.in_weights[peer])
        for peer, connection in incoming.items()
    ]
    large = 4 * each.floats > _LARGE_BYTES
    site.gather()
    meter.tick()
    for _ in range(each.warm_up + each.iterations):
        data = _bytes(x)
        if large:
            for sender in senders:
                sender.queue.put(data)
        else:
            for connection in outgoing:
                connection.sendall(data)
        torch.mul(x, site.hood.self_weight, out=mixed)
        for connection, buffer, vector, weight in edges:
            filled = 0
            while filled < len(buffer):
                filled += connection.recv_into(buffer[filled:]) or _hung_up()
            mixed.add_(vector, alpha=weight)
        if large:
            for sender in senders:
                sender.sent.acquire()
        x, mixed = mixed, x
        meter.tick()
    return meter.figures()


class _Sender:
    """A thread that sends what is queued, for messages that would block the loop."""

    def __init__(self, connection: ssl.SSLSocket):
        self.queue: queue.SimpleQueue[memoryview] = queue.SimpleQueue()
        self.sent = threading.Semaphore(0)
        self._connection = connection
        threading.Thread(target=self._send, daemon=True).start()

    def _send(self) -> None:
        while True:
            self._connection.sendall(self.queue.get())
            self.sent.release()


def _connect(site: Site) -> tuple[list[ssl.SSLSocket], dict[str, ssl.SSLSocket]]:
    """Connections to the out-neighbours, and from the in-neighbours by name."""
    listener = socket.create_server((site.place.host, 0), backlog=len(site.sites))
    addresses = site.gather(listener.getsockname())
    outgoing: list[ssl.SSLSocket] = []
    context = _context(site, ssl.PROTOCOL_TLS_CLIENT)

    def dial() -> None:
        for peer in site.hood.out:
            raw = socket.create_connection(addresses[peer])
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            outgoing.append(context.wrap_socket(raw))

    dialling = threading.Thread(target=dial)
    dialling.start()
    incoming = {}
    accepting = _context(site, ssl.PROTOCOL_TLS_SERVER)
    for _ in site.hood.in_weights:
        raw, _ = listener.accept()
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection = accepting.wrap_socket(raw, server_side=True)
        certificate: Any = connection.getpeercert()
        ((_, name),) = (part[0] for part in certificate["subject"] if part[0][0] == "commonName")
        incoming[name] = connection
    dialling.join()
    return outgoing, incoming


def _context(site: Site, protocol: int) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(site.credentials.root)
    context.load_cert_chain(site.credentials.certificate, site.credentials.key)
    return context


def _bytes(vector: torch.Tensor) -> memoryview:
    return vector.view(torch.uint8).numpy().data


def _hung_up() -> int:
    raise ConnectionError("the peer hung up")
