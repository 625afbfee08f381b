"""Connections that go out, through the HTTP proxy that the environment names where it names one.

The variables are those that many programs know: ``https_proxy`` or ``HTTPS_PROXY``, else ``all_proxy``; hosts
in ``no_proxy`` are dialled straight. The proxy is asked to CONNECT (RFC 9110, 9.3.6), then passes bytes on.
"""

import base64
import socket
import time
from typing import Final
from urllib.parse import SplitResult, unquote, urlsplit
from urllib.request import getproxies_environment, proxy_bypass_environment  # type: ignore[attr-defined]  # typeshed lacks it

from flaremesh.links.attempts import Attempts
from flaremesh.links.carrier import Address
from flaremesh.printable import printable

_MOST_ANSWER_BYTES: Final = 8192
_END: Final = b"\r\n\r\n"
_PORTS: Final = {"http": 80}


def connect(address: Address, timeout: float, attempts: Attempts | None = None) -> socket.socket:
    """A connection to ``address``; raises OSError where there is none: the message says whose fault it is."""
    attempts = attempts or Attempts()
    try:
        proxy = _proxy_for(address)
        if proxy is None:
            return attempts.connect(address, timeout)
        return _through(proxy, address, timeout, attempts)
    except (ValueError, OverflowError) as error:  # no host or port has such a name
        raise OSError(f"that is no address ({error})") from error


def _proxy_for(address: Address) -> SplitResult | None:
    host, port = address
    proxies = getproxies_environment()
    url = proxies.get("https") or proxies.get("all")
    spared = (host, f"{host}:{port}")
    if not url or any(proxy_bypass_environment(name, proxies) for name in spared):
        return None
    try:
        proxy = urlsplit(url if "://" in url else f"http://{url}")
        is_fit = proxy.scheme in _PORTS and bool(proxy.hostname) and proxy.port != 0
    except ValueError:
        is_fit = False
    if not is_fit:
        # what the variable says may be a secret
        raise OSError("the proxy in https_proxy is not of the form http://HOST:PORT")
    return proxy


def _through(proxy: SplitResult, address: Address, timeout: float, attempts: Attempts) -> socket.socket:
    deadline = time.monotonic() + timeout
    where = proxy.hostname or "", proxy.port or _PORTS[proxy.scheme]
    name = f"the proxy {where[0]}:{where[1]}"
    try:
        stream = attempts.connect(where, timeout)
    except OSError as error:
        raise ConnectionError(f"{name} is not reached: {error.strerror or error}") from error
    try:
        with attempts.on(stream):
            stream.sendall(_request(proxy, address))
            _require_tunnel(_answer(stream, deadline, name), name)
    except BaseException:
        stream.close()
        raise
    return stream


def _request(proxy: SplitResult, address: Address) -> bytes:
    host, port = address
    if any(character <= " " for character in host):
        raise ValueError("a host has no blanks")
    target = f"[{host}]:{port}" if ":" in host else f"{host.encode('idna').decode()}:{port}"
    lines = [f"CONNECT {target} HTTP/1.1", f"Host: {target}"]
    if proxy.username is not None:
        secret = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}"
        lines.append(f"Proxy-Authorization: Basic {base64.b64encode(secret.encode()).decode()}")
    return "\r\n".join([*lines, "", ""]).encode("ascii")


def _answer(stream: socket.socket, deadline: float, name: str) -> bytes:
    """What the proxy says before it passes bytes on; a meeting point itself does not speak first."""
    data = bytearray()
    while _END not in data:
        left = deadline - time.monotonic()
        if left <= 0:
            raise ConnectionError(f"{name} does not answer in time")
        stream.settimeout(left)
        try:
            piece = stream.recv(_MOST_ANSWER_BYTES - len(data))
        except TimeoutError:
            raise ConnectionError(f"{name} does not answer in time") from None
        data += piece
        if not piece or (len(data) >= _MOST_ANSWER_BYTES and _END not in data):
            raise ConnectionError(f"{name} does not answer as an HTTP proxy does")
    return bytes(data)


def _require_tunnel(answer: bytes, name: str) -> None:
    line = answer.partition(b"\r\n")[0].decode("latin-1")
    version, _, status = line.partition(" ")
    if not version.startswith("HTTP/1."):
        raise ConnectionError(f"{name} does not answer as an HTTP proxy does")
    if status[:1] != "2":
        hint = ": give https_proxy its user and password" if status.startswith("407") else ""
        raise ConnectionError(f"{name} refuses: {printable(status, 100)}{hint}")
    if not answer.endswith(_END) or answer.count(_END) != 1:
        raise ConnectionError(f"{name} says more than it should")
