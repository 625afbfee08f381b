"""Breaks the connections between two processes, as a network does: without a word, and without privileges.

The test takes a second handle of a process's socket (pidfd_getfd, Linux 5.6), of which both are one.
"""

import ctypes
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import psutil

_PIDFD_GETFD = 438  # the number of a system call that Python does not know
_SO_ATTACH_FILTER, _SO_DETACH_FILTER = 26, 27
_DROP = struct.pack("HBBI", 6, 0, 0, 0)  # one instruction of a packet filter: return 0 bytes
_LIBC = ctypes.CDLL(None, use_errno=True)


def cut(one: psutil.Process, other: psutil.Process) -> int:
    """Shut down all connections between two processes; returns how many there were."""
    with _ends(one, other) as ends:
        for end in ends[::2]:  # the other end hears of it
            end.shutdown(socket.SHUT_RDWR)
        return len(ends) // 2


@contextmanager
def deaf(one: psutil.Process, other: psutil.Process) -> Iterator[int]:
    """All connections between two processes, whose number is given, lose what arrives."""
    with _ends(one, other) as ends, _losing(ends):
        yield len(ends) // 2


@contextmanager
def severed(one: psutil.Process, other: psutil.Process) -> Iterator[int]:
    """As `deaf`, and neither of them takes in new connections, from whomever."""
    doors = [(end, p) for p in (one, other) for end in p.net_connections("tcp") if not end.raddr]
    with _ends(one, other) as ends, ExitStack() as handles:
        listening = [handles.enter_context(_handle(process, end.fd)) for end, process in doors]
        with _losing([*ends, *listening]):
            yield len(ends) // 2


@contextmanager
def cut_off(process: psutil.Process) -> Iterator[int]:
    """A process loses whatever arrives from others than its children; gives how many sockets it has for it.

    New connections are not made either: what asks for them arrives at a socket that listens.
    """
    near = {end.laddr for child in process.children() for end in child.net_connections("tcp")}
    descriptors = [end.fd for end in process.net_connections("tcp") if end.raddr not in near]
    with ExitStack() as handles:
        sockets = [handles.enter_context(_handle(process, fd)) for fd in descriptors]
        with _losing(sockets):
            yield len(sockets)


@contextmanager
def _losing(sockets: list[socket.socket]) -> Iterator[None]:
    """What arrives at sockets is lost."""
    program = ctypes.create_string_buffer(_DROP, len(_DROP))
    for one in sockets:
        filter_ = struct.pack("HxxxxxxQ", 1, ctypes.addressof(program))
        one.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, filter_)
    try:
        yield
    finally:
        for one in sockets:
            one.setsockopt(socket.SOL_SOCKET, _SO_DETACH_FILTER, 0)


@contextmanager
def _ends(one: psutil.Process, other: psutil.Process) -> Iterator[list[socket.socket]]:
    """Both ends of all connections between two processes."""
    theirs = {(end.raddr, end.laddr): end.fd for end in other.net_connections("tcp") if end.raddr}
    pairs = [
        (end.fd, theirs[end.laddr, end.raddr])
        for end in one.net_connections("tcp")
        if end.raddr and (end.laddr, end.raddr) in theirs
    ]
    assert pairs, "there is no connection between them"
    with ExitStack() as handles:
        yield [
            handles.enter_context(_handle(process, fd))
            for pair in pairs
            for process, fd in zip((one, other), pair, strict=True)
        ]


def _handle(process: psutil.Process, fd: int) -> socket.socket:
    pidfd = os.pidfd_open(process.pid)
    try:
        return socket.socket(fileno=_socket_of(pidfd, fd))
    finally:
        os.close(pidfd)


def _socket_of(pidfd: int, fd: int) -> int:
    handle = int(_LIBC.syscall(_PIDFD_GETFD, pidfd, fd, 0))
    if handle < 0:
        raise OSError(ctypes.get_errno(), "a process's socket cannot be had")
    return handle
