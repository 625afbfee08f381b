"""Which congestion control a connection of a pair has: on a far one, that which fills the line both ways."""

import socket
from contextlib import ExitStack
from pathlib import Path

import pytest

from bench.wan.namespaces import entered
from bench.wan.network import joined, path
from flaremesh.links.channel import tune
from networks import own_networks


def allowed():
    return Path("/proc/sys/net/ipv4/tcp_allowed_congestion_control").read_text().split()


def congestion(connection):
    return connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16).rstrip(b"\0").decode()


def test_a_far_connection_takes_bbr_at_both_ends_where_it_is_allowed():
    own_networks()
    if "bbr" not in allowed():
        pytest.skip(
            "this kernel allows no bbr; this brings it: modprobe tcp_bbr, and tcp_allowed_congestion_control"
        )
    with joined(["a", "b"], path(100e6, 0.005), "reno") as network, ExitStack() as stack:
        with entered(network.places["b"].namespace):
            listener = stack.enter_context(socket.create_server((network.places["b"].host, 0)))
        with entered(network.places["a"].namespace):
            dialled = stack.enter_context(socket.create_connection(listener.getsockname()))
        accepted = stack.enter_context(listener.accept()[0])
        for end in (dialled, accepted):
            assert congestion(end) == "reno"
            tune(end)
            assert congestion(end) == "bbr"


def test_a_near_connection_keeps_what_the_machine_has():
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as dialled:
        dialled.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"reno")
        dialled.connect(listener.getsockname())
        tune(dialled)
        assert congestion(dialled) == "reno"
