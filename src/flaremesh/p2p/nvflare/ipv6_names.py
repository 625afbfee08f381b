"""Names that stand in NVFlare's settings for IPv6 addresses, which it would take apart at their colons.

They are written as Windows transcribes such addresses, and nobody looks them up: `ipv6` puts the address
back.
"""

from ipaddress import IPv6Address
from typing import Final

from flaremesh import hosts

_DOMAIN: Final = ".ipv6-literal.net"


def name_for(host: str) -> str:
    """What NVFlare's settings say for a host: the host itself, unless it is an IPv6 address."""
    address = hosts.address_of(host)
    if not isinstance(address, IPv6Address):
        return host
    return address.exploded.replace(":", "-") + _DOMAIN


def host_of(name: str) -> str:
    """The host for which NVFlare's settings say ``name``."""
    literal = name.removesuffix(_DOMAIN)
    address = hosts.address_of(literal.replace("-", ":"))
    return address.compressed if literal != name and isinstance(address, IPv6Address) else name
