"""Network namespaces and the TUN devices in them, by system calls: neither `ip` nor a library is needed.

Python has ``os.unshare`` and ``os.setns`` from 3.12 on only.
"""

import ctypes
import errno
import fcntl
import os
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

INTERFACE = "wan0"
"""Name of a site's device, in every namespace the same."""

MTU = 1500
HEADER = struct.Struct("=BBHHHH")
"""What precedes a packet, struct virtio_net_hdr: flags, kind of segments, length of their headers and of
their payloads, where the checksum begins and goes. The kernel hands over up to 64 KiB as one packet and says
here how it would be cut; without that a process could not forward a gigabit per second."""

_CLONE_NEWNET = 0x40000000
_TUNSETIFF, _TUNSETOFFLOAD = 0x400454CA, 0x400454D0
_IFF_TUN, _IFF_NO_PI, _IFF_VNET_HDR = 0x0001, 0x1000, 0x4000
_OFFLOAD_CHECKSUM, _OFFLOAD_TCP4 = 0x01, 0x02
_SIOCSIFFLAGS, _SIOCSIFADDR, _SIOCSIFNETMASK, _SIOCSIFMTU = 0x8914, 0x8916, 0x891C, 0x8922
_IFF_UP = 0x1
_RTM_NEWROUTE, _NLMSG_ERROR = 24, 2
_NLM_FLAGS = 0x1 | 0x4 | 0x400  # a request, to be answered, that creates
_TABLE_MAIN, _PROTOCOL_STATIC, _SCOPE_LINK, _UNICAST = 254, 4, 253, 1
_RTA_DST, _RTA_OIF, _RTA_PREFSRC, _RTA_METRICS, _RTAX_CC_ALGO = 1, 4, 7, 8, 16
_NETWORK, _PREFIX = "10.77.0.0", 16

_libc = ctypes.CDLL(None, use_errno=True)


def unshare() -> int:
    """Put the calling thread into a network namespace of its own; returns a descriptor that keeps it.

    Raises:
        OSError: it has not the right to.
    """
    _checked(_libc.unshare(_CLONE_NEWNET), "unshare")
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


def enter(namespace: str) -> None:
    """Put the calling thread, and what it starts from now on, into a namespace.

    Args:
        namespace: path of a file that stands for it.

    Raises:
        OSError: there is none, or the thread has not the right to.
    """
    descriptor = os.open(namespace, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _checked(_libc.setns(descriptor, _CLONE_NEWNET), "setns")
    finally:
        os.close(descriptor)


@contextmanager
def entered(namespace: str) -> Iterator[None]:
    """As `enter`, and back."""
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        enter(namespace)
        yield
    finally:
        _checked(_libc.setns(before, _CLONE_NEWNET), "setns")
        os.close(before)


def make_device(address: str, congestion: str, *, whole: bool, reached: str | None = None) -> int:
    """A TUN device in the calling thread's namespace, up, that reaches all of 10.77.0.0/16, or one of it.

    Args:
        address: of the site.
        congestion: name of TCP's congestion control on this route.
        whole: whether TCP hands over segments uncut.
        reached: the only address to which there is to be a route; None for all.

    Returns:
        A descriptor, non-blocking, that gives and takes a packet with ``HEADER`` at each call.

    Raises:
        OSError: there is no /dev/net/tun, or it may not be used; or the congestion control is not there.
    """
    device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    flags = _IFF_TUN | _IFF_NO_PI | _IFF_VNET_HDR
    fcntl.ioctl(device, _TUNSETIFF, struct.pack("16sH22x", INTERFACE.encode(), flags))
    fcntl.ioctl(device, _TUNSETOFFLOAD, _OFFLOAD_CHECKSUM | _OFFLOAD_TCP4 if whole else 0)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        for request, host in ((_SIOCSIFADDR, address), (_SIOCSIFNETMASK, "255.255.255.255")):
            fcntl.ioctl(
                control,
                request,
                struct.pack("16sHH4s16x", INTERFACE.encode(), socket.AF_INET, 0, socket.inet_aton(host)),
            )
        fcntl.ioctl(control, _SIOCSIFMTU, struct.pack("16si20x", INTERFACE.encode(), MTU))
        for interface in ("lo", INTERFACE):
            fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sH22x", interface.encode(), _IFF_UP))
    network, prefix = (_NETWORK, _PREFIX) if reached is None else (reached, 32)
    _add_route(network, prefix, address, congestion)
    return device


def _add_route(network: str, prefix: int, address: str, congestion: str) -> None:
    """Reach the others; a route may have any congestion control, a namespace only what the machine allows."""
    route = struct.pack(
        "=BBBBBBBBI", socket.AF_INET, prefix, 0, 0, _TABLE_MAIN, _PROTOCOL_STATIC, _SCOPE_LINK, _UNICAST, 0
    )
    route += _attribute(_RTA_DST, socket.inet_aton(network))
    route += _attribute(_RTA_OIF, struct.pack("=I", socket.if_nametoindex(INTERFACE)))
    route += _attribute(_RTA_PREFSRC, socket.inet_aton(address))
    route += _attribute(_RTA_METRICS, _attribute(_RTAX_CC_ALGO, congestion.encode() + b"\0"))
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as netlink:
        netlink.send(struct.pack("=IHHII", 16 + len(route), _RTM_NEWROUTE, _NLM_FLAGS, 1, 0) + route)
        answer = netlink.recv(4096)
    _, kind, _, _, _, error = struct.unpack_from("=IHHIIi", answer)
    if kind == _NLMSG_ERROR and error:
        raise OSError(-error, f"a route with {congestion}: {os.strerror(-error)}")


def _attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def unavailable() -> str | None:
    """Why no such network can be made here; None if it can. Tried in a process of its own."""
    attempt = (
        "from bench.wan import namespaces as n; n.unshare(); n.make_device('10.77.0.1', 'reno', whole=True)"
    )
    tried = subprocess.run([sys.executable, "-c", attempt], capture_output=True, text=True)
    return tried.stderr.strip().splitlines()[-1] if tried.returncode else None


def _checked(result: int, call: str) -> None:
    if result != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{call}: {errno.errorcode.get(error, error)}: {os.strerror(error)}")
