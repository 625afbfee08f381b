"""``flaremesh meet``: a meeting point by itself, and one line for whatever keeps it from being one."""

import os
import signal
import socket
import subprocess
import sys

import pytest
from meeting_place import MESH, knocked, server, ticket

from flaremesh.meeting.knock import await_go


def command(*arguments):
    return [sys.executable, "-m", "flaremesh", "meet", *map(str, arguments)]


@pytest.fixture
def port():
    """A free one."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


@pytest.fixture
def started(authority, port):
    """The command, and the line that it prints first."""
    arguments = command("--root", authority.file, "--mesh", MESH, "--port", port)
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        yield process, process.stdout.readline()
        process.kill()


def refused(*arguments):
    """The one line that is said by a command that must not go on."""
    done = subprocess.run(command(*arguments), capture_output=True, text=True, timeout=60)
    assert done.returncode not in (0, None)
    assert not done.stdout
    assert "Traceback" not in done.stderr
    return done.stderr


def test_it_says_where_it_listens_joins_a_pair_and_ends_orderly(authority, started, port):
    process, line = started
    assert line == f"Meeting point of {MESH}, on port {port}. Ctrl-C ends it.\n"
    shown = ticket(server(authority), "ab")
    a, b = (knocked(("127.0.0.1", port), authority.issue(name), shown) for name in "ab")
    with a, b:
        assert await_go(a, 10)
        assert await_go(b, 10)
        a.sendall(b"hello")
        assert b.recv(10) == b"hello"
        process.send_signal(signal.SIGTERM)
        a.settimeout(10)
        assert a.recv(10) == b""
    assert process.wait(20) == 0
    assert process.communicate()[1] == ""


def test_it_listens_on_ipv6_too(started, port):
    with socket.create_connection(("::1", port), 10):
        pass


def test_a_port_that_is_taken_is_named(authority, started, port):
    told = refused("--root", authority.file, "--mesh", MESH, "--port", port)
    assert told.startswith(f"Error: port {port} cannot be listened on: ")
    assert len(told.splitlines()) == 1


def test_a_root_that_cannot_be_read_is_named(tmp_path, port):
    nonsense = tmp_path / "rootCA.pem"
    for content, words in (
        (None, "No such file"),
        (b"", "is no certificate"),
        (os.urandom(99), "is no certificate"),
    ):
        if content is not None:
            nonsense.write_bytes(content)
        told = refused("--root", nonsense, "--mesh", MESH, "--port", port)
        assert words in told
        assert str(nonsense) in told
        assert len(told.splitlines()) == 1


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("--revoked", "0x1f", "no serial number in decimal"),
        ("--mesh", " ", "has a name"),
        ("--port", "0", "greater than or equal to 1"),
    ],
)
def test_an_option_that_cannot_be_used_is_named(authority, option, value, words):
    given = {"--root": authority.file, "--mesh": MESH} | {option: value}
    told = refused(*(word for pair in given.items() for word in pair))
    assert words in told
    assert option in told
