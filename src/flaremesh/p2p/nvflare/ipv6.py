"""IPv6 between NVFlare's processes.

NVFlare 2.9 dials and listens on IPv4 alone, although gRPC, which does it, knows both families. This replaces
the function with which its drivers write an address for gRPC, in the process that asks for it.
"""

import socket
from collections.abc import Mapping
from typing import Any, Final

from nvflare.fuel.f3.drivers import aio_grpc_driver, grpc_driver, net_utils
from nvflare.fuel.f3.drivers.driver_params import DriverParams

from flaremesh import hosts
from flaremesh.p2p.nvflare.ipv6_names import host_of

_ALL: Final = ("", "0", "0.0.0.0")  # how NVFlare writes that it listens on all addresses


def admit() -> None:
    """Let NVFlare dial the addresses for which its settings have names, and listen on both families.

    Call it before NVFlare dials or listens; once is enough for a process.
    """
    everywhere = "::" if socket.has_dualstack_ipv6() else "0.0.0.0"

    def get_address(params: Mapping[str, Any]) -> str:
        host = host_of(params.get(DriverParams.HOST.value) or "")
        return hosts.at(everywhere if host in _ALL else host, params.get(DriverParams.PORT.value, 0))

    for module in (net_utils, grpc_driver, aio_grpc_driver):
        module.get_address = get_address
