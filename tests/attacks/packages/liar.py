"""A problem whose package a kit lists, and whose author lies about the run from one site's process."""

import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Final

from torch import Tensor

from flaremesh.links import LinkError, Payload
from flaremesh.links.link import Key
from flaremesh.links.mesh_link import MeshLink
from flaremesh.p2p.executors.algorithm_executor import AlgorithmExecutor
from flaremesh.p2p.progress import ProgressReporter
from flaremesh.problems.consensus import Consensus
from flaremesh.problems.protocol import SiteContext

LIAR: Final = "carol"
MARK: Final = "\x1b[2J\x1b]0;owned\x07\n<script>alert(1)</script>[/red]"

_PROGRESS: Final = (
    *(b"", b"{", b"[" * 100_000, b"1" * 100_000, b"\xff\xfe", b'{"iteration": ' + b"9" * 5_000 + b"}"),
    *(
        json.dumps(told).encode()
        for told in (
            {"iteration": -1},
            {"iteration": 10**12},
            {"iteration": "many"},
            {"metrics": {MARK: 1.0}},
            {"metrics": {str(number): 1.0 for number in range(10_000)}},
            {"links": {MARK: MARK}},
            {"waits_for": MARK},
            {"seconds_per_iteration": -1e300},
        )
    ),
)
_GIANT: Final = bytes(16 << 20)
_RESULT: Final = {
    "iterations": 10**12,
    "metrics": {MARK: 1.0},
    "links": {"server": MARK},
    "sent_bytes": {MARK: 1},
    "algorithm": MARK,
}


def _with_giants(send: Callable[..., None]) -> Callable[..., None]:
    """Send a gigabyte of messages for iterations to come before each message."""

    def send_all(link: MeshLink, peer: str, key: Key, buffers: Sequence[Payload]) -> None:
        with suppress(LinkError):
            for later in range(64):
                send(link, peer, key._replace(iteration=key.iteration + later + 1), [_GIANT])
        send(link, peer, key, buffers)

    return send_all


class Liar(Consensus):
    """Lies about ``what`` at one site: its progress, its result, why it fails, or its messages' length."""

    def __init__(self, site: SiteContext, what: str, **args: Any):
        super().__init__(site, **args)
        self._fails = site.name == LIAR and what == "reason"
        if site.name == LIAR and what == "progress":
            ProgressReporter._tell = lambda reporter: [reporter._post(lie) for lie in _PROGRESS]
        if site.name == LIAR and what == "giants":
            MeshLink.send = _with_giants(MeshLink.send)
        if site.name == LIAR and what == "result":
            AlgorithmExecutor._site_result = lambda executor: _RESULT

    def loss_and_gradient(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if self._fails:
            raise RuntimeError(MARK)
        return super().loss_and_gradient(x)
