"""Whose knock is verified next, so that nobody keeps the others from their turn."""

import ipaddress
import time
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

T = TypeVar("T")


def origin(host: str) -> str:
    """Whom a connection from ``host`` is counted for: its address; in IPv6, the network around it."""
    address = ipaddress.ip_address(host.partition("%")[0])
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.ip_network((address, 64), strict=False))


class Turns(Generic[T]):
    """Those who wait for a turn: the origins one after the other, in a share of the time.

    So an origin that floods delays itself, and all of them together cannot take more of the processor.

    Args:
        share: of the time, which all turns may take.
    """

    def __init__(self, share: float):
        self._share = share
        self._waiting: OrderedDict[str, dict[T, None]] = OrderedDict()
        self._next = 0.0  # when the next turn may be

    def add(self, origin: str, item: T) -> None:
        """``item`` waits from now on."""
        self._waiting.setdefault(origin, {})[item] = None

    def remove(self, origin: str, item: T) -> None:
        """``item`` waits no more, if it did."""
        items = self._waiting.get(origin, {})
        items.pop(item, None)
        if not items:
            self._waiting.pop(origin, None)

    def seconds(self) -> float | None:
        """Until the next turn; None where nobody waits."""
        return max(0.0, self._next - time.monotonic()) if self._waiting else None

    @contextmanager
    def turn(self) -> Iterator[T | None]:
        """Whose turn it is, if it is anybody's; what the block takes is taken off the time of later ones."""
        if self.seconds() != 0.0:
            yield None
            return
        name, items = self._waiting.popitem(last=False)
        item = next(iter(items))
        del items[item]
        if items:
            self._waiting[name] = items  # behind all others
        started = time.thread_time()
        try:
            yield item
        finally:
            took = time.thread_time() - started
            self._next = time.monotonic() + took * (1 / self._share - 1)
