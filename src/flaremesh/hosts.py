"""Host names and addresses of either family, and how they are written with a port."""

import socket
from ipaddress import IPv4Address, IPv6Address, ip_address


def address_of(host: str) -> IPv4Address | IPv6Address | None:
    """The address that a host is; None for a name."""
    try:
        return ip_address(host)
    except ValueError:
        return None


def canonical(host: str) -> str:
    """The one spelling of a name or an address, by which hosts are compared."""
    address = address_of(host)
    return host.lower() if address is None else address.compressed


def at(host: str, port: int) -> str:
    """Host and port in one text, an IPv6 address in brackets (RFC 3986, 3.2.2)."""
    return f"[{host}]:{port}" if isinstance(address_of(host), IPv6Address) else f"{host}:{port}"


def listening(host: str, port: int, backlog: int | None = None) -> socket.socket:
    """A socket that takes in those who dial ``host``, which leads to this machine.

    With a loopback address, or localhost, only this machine can dial. What any other host leads to is not
    known here, e.g. behind a load balancer, so that the socket is on all of the machine's addresses: of both
    families for a name, and for an address at least of its own.

    Raises:
        OSError: the port cannot be used.
    """
    address = address_of(host)
    if host.lower() == "localhost" or (isinstance(address, IPv4Address) and address.is_loopback):
        return socket.create_server((host, port), backlog=backlog)
    if isinstance(address, IPv6Address) and address.is_loopback:
        return socket.create_server((host, port), family=socket.AF_INET6, backlog=backlog)
    if isinstance(address, IPv4Address):
        return socket.create_server(("", port), backlog=backlog)
    both = socket.has_dualstack_ipv6()
    if address is None and not both:
        return socket.create_server(("", port), backlog=backlog)
    return socket.create_server(("", port), family=socket.AF_INET6, backlog=backlog, dualstack_ipv6=both)
