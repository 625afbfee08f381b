"""Proxies in the environment, which many institutions set on all their machines."""

import os
import socket
from collections.abc import Iterator
from typing import Final
from urllib.request import proxy_bypass

_KINDS: Final = ("grpc_proxy", "https_proxy", "http_proxy", "all_proxy")
_HERE: Final = ("localhost", "127.0.0.1", "::1")


def spare(host: str = _HERE[0]) -> None:
    """Let neither this process nor those that it starts reach this machine through a proxy.

    Args:
        host: a further host name; it is dialled without a proxy if it is one of this machine.
    """
    if not _set():
        return
    names = list(dict.fromkeys([*_HERE, host] if _leads_here(host) else _HERE))
    for variable in ("no_proxy", "NO_PROXY", "no_grpc_proxy"):
        # a user who sets one of them means all; gRPC reads its own alone where that is set
        given = os.environ.get(variable) or os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
        known = [name for name in given.split(",") if name.strip()]
        # a lone star spares all hosts already, but gRPC knows no star
        if known != ["*"] or variable == "no_grpc_proxy":
            os.environ[variable] = ",".join([*known, *(name for name in names if name not in known)])


def remark(host: str) -> str:
    """A sentence for messages that nobody answers at ``host``; empty unless a proxy may be the reason."""
    variables = ", ".join(_set())
    if not variables or proxy_bypass(host) or _leads_here(host):
        return ""
    return f" {variables} is set: the way to {host} leads through that proxy unless no_proxy names {host}."


def _set() -> list[str]:
    return [name for kind in _KINDS for name in (kind, kind.upper()) if os.environ.get(name)]


def _leads_here(host: str) -> bool:
    return any(_is_own(family, address) for family, address in _addresses(host))


def _addresses(host: str) -> Iterator[tuple[int, str]]:
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return
    for family, _, _, _, address in found:
        yield family, str(address[0])


def _is_own(family: int, address: str) -> bool:
    """A machine can bind its own addresses only."""
    with socket.socket(family) as probe:
        try:
            probe.bind((address, 0))
        except OSError:
            return False
    return True
