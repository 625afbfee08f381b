"""Who dials, by what, and for how long: one connector makes the connections of one pair."""

import logging
import math
import threading
import time
from collections.abc import Sequence

from flaremesh.links import life
from flaremesh.links.carrier import Carrier
from flaremesh.links.dialler import Dialler
from flaremesh.links.errors import EdgeLost, LinkError, LinkRefused
from flaremesh.links.life import Tolerance
from flaremesh.links.pair import Pair
from flaremesh.links.tls import cause_of
from flaremesh.topology.links import LinkKind

_log = logging.getLogger(__name__)

_DIAL_SECONDS = 5.0  # for which one carrier is tried alone, before the next one is tried, too
_ATTEMPT_SECONDS = 3.0  # for one connection
_BACKOFF_SECONDS = 0.05  # after the first failed attempt; after each further one twice as long
_BACKOFF_SECONDS_MAX = 1.0
_RETURN_SECONDS = 5.0  # after a worse carrier was taken; after each attempt at a better one twice as long
_RETURN_SECONDS_MAX = 120.0


class Connector:
    """Dials whenever the pair has no connection, a silent one, or one by a worse carrier than might be.

    Args:
        site: name of this site.
        pair: the pair.
        carriers: by which one of the two ends may dial the other, the best one first.
        dialler: of this site.
        tolerance: see Edges.
    """

    def __init__(
        self,
        site: str,
        pair: Pair,
        carriers: Sequence[Carrier],
        dialler: Dialler,
        tolerance: Tolerance | None,
    ):
        self._site, self._pair, self._dialler, self._tolerance = site, pair, dialler, tolerance
        self._carriers = carriers
        self._starts = [carrier.head_start(pair.peer, leads=pair.leads) for carrier in carriers]
        self._given_up: set[LinkKind] = set()  # better ones that refused this site
        self._cause: str | None = None
        self._changed = threading.Condition()
        self._closed = False
        self._has_been = False  # whether there ever was a connection
        self._thread = threading.Thread(target=self._keep, name=f"link-dial-{pair.peer}", daemon=True)

    @property
    def cause(self) -> str | None:
        """Why the last attempt failed."""
        return self._cause

    def start(self) -> None:
        """Dial from now on."""
        self._thread.start()

    def notice(self) -> None:
        """The pair has got a connection, or lost one."""
        with self._changed:
            self._changed.notify_all()

    def close(self) -> None:
        """Dial no more; waits for an attempt that is under way."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._thread.ident is not None:
            self._thread.join()

    def _keep(self) -> None:
        while not self._is_over():
            if self._pair.kind is None:
                self._make()
            else:
                self._has_been = True
                self._improve()

    def _is_over(self) -> bool:
        return self._closed or self._pair.is_over

    def _pause(self, seconds: float) -> None:
        """Wait, unless there is news of the pair."""
        with self._changed:
            before = self._pair.kind
            self._changed.wait_for(
                lambda: self._is_over() or self._pair.kind is not before,
                None if math.isinf(seconds) else seconds,
            )

    def _make(self) -> None:
        """Dial until there is a connection; a worse carrier joins in when those before have failed."""
        begun, pause = self._pair.broken or time.monotonic(), _BACKOFF_SECONDS
        refused_since: float | None = None
        if self._pair.is_refused:  # it would send the same again, as fast as it is let
            self._pause(_BACKOFF_SECONDS_MAX)
        while self._pair.kind is None and not self._is_over():
            late = time.monotonic() - begun
            is_refused = False
            for number, (carrier, start) in enumerate(zip(self._carriers, self._starts, strict=True)):
                if start is None or late < number * _DIAL_SECONDS + start:
                    continue
                try:
                    self._dialler.connect(self._pair, carrier, _ATTEMPT_SECONDS)
                    return
                except LinkRefused as error:
                    self._pair.give_up(error)
                    return
                except OSError as error:
                    self._cause = cause_of(error)
                    is_refused |= isinstance(error, ConnectionRefusedError)
            now = time.monotonic()
            refused_since = (refused_since or now) if is_refused else None
            if now > self._end(begun, refused_since):
                self._pair.give_up(self._lost())
                return
            self._pause(pause)
            pause = min(2 * pause, _BACKOFF_SECONDS_MAX)

    def _end(self, begun: float, refused_since: float | None) -> float:
        """Until when to go on dialling, by ``time.monotonic``."""
        by_relay = any(carrier.kind is LinkKind.RELAY for carrier in self._carriers)
        within = begun + _DIAL_SECONDS * max(1, len(self._carriers))
        if not self._has_been:
            dials = all(start is not None for start in self._starts)
            return within if dials and not by_relay else math.inf  # whoever opens the link has a limit
        if self._tolerance is None:
            return within + (0.0 if self._pair.leads else _DIAL_SECONDS)
        if (
            refused_since is not None and not by_relay
        ):  # an edge that is cut answers nothing: its process is gone
            return min(begun + self._tolerance.redial, refused_since + _DIAL_SECONDS)
        return begun + max(_DIAL_SECONDS, self._tolerance.redial)

    def _lost(self) -> LinkError:
        kinds = [carrier.kind for carrier in self._carriers]
        cause = self._cause or "it has not dialled"
        if not self._has_been:
            return LinkError(
                f"{self._site} has no {' or '.join(kinds)} link to {self._pair.peer}: {cause}; "
                "`links: auto` would relay"
            )
        return EdgeLost(
            f"{self._site} lost its {' and '.join(kinds)} link to {self._pair.peer} and cannot make it "
            f"again: {cause}"
        )

    def _improve(self) -> None:
        """While there is a connection, dial beside it where it is silent, or where a better one might be."""
        kind, pause = self._pair.kind, _RETURN_SECONDS
        better = [carrier for carrier in self._dialled() if kind and carrier.kind.rank < kind.rank]
        due = time.monotonic() + pause if better else math.inf
        look = life.SILENT_SECONDS / 2 if self._tolerance is not None else math.inf
        while self._pair.kind is kind and not self._is_over():
            self._pause(max(0.0, min(due - time.monotonic(), look)))
            is_silent, is_due = self._pair.is_silent, time.monotonic() >= due
            if self._pair.kind is not kind or not (is_silent or is_due):
                continue
            if is_due:
                pause = min(2 * pause, _RETURN_SECONDS_MAX)
                due = time.monotonic() + pause
            if any(self._try(carrier) for carrier in (self._dialled() if is_silent else better)):
                return

    def _dialled(self) -> list[Carrier]:
        """The carriers by which this end dials."""
        return [
            carrier
            for carrier, start in zip(self._carriers, self._starts, strict=True)
            if start is not None and carrier.kind not in self._given_up
        ]

    def _try(self, carrier: Carrier) -> bool:
        try:
            self._dialler.connect(self._pair, carrier, _ATTEMPT_SECONDS)
        except LinkRefused as error:
            _log.warning("%s; it is not dialled in this way again", error)
            self._given_up.add(carrier.kind)
            return False
        except OSError:
            return False
        return True
