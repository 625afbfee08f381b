"""Who dials, by what, and for how long: one connector makes the connections of one pair."""

import logging
import math
import threading
import time
from collections.abc import Collection, Sequence

from flaremesh.links import life
from flaremesh.links.carrier import Carrier
from flaremesh.links.dialler import Dialler, Misled
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
_SHORT_SECONDS = 1.0  # a connection that ends within so long counts as a failed attempt, too
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
        self._starts = {each.kind: each.head_start(pair.peer, leads=pair.leads) for each in carriers}
        self._given_up: set[LinkKind] = set()  # better ones that refused this site
        self._cause: str | None = None
        self._misled: str | None = None
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._keep, name=f"link-dial-{pair.peer}", daemon=True)

    @property
    def peer(self) -> str:
        """The neighbour."""
        return self._pair.peer

    @property
    def cause(self) -> str | None:
        """Why the last attempt failed."""
        return self._cause

    @property
    def misled(self) -> str | None:
        """Who or what answered instead of the neighbour in the last such attempt, in words."""
        return self._misled

    def start(self) -> None:
        """Dial from now on."""
        self._thread.start()

    def notice(self) -> None:
        """The pair has got a connection, or lost one."""
        with self._changed:
            self._changed.notify_all()

    def close(self) -> None:
        """Dial no more; waits for an attempt that is under way, which `Dialler.end` ends."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._thread.ident is not None:
            self._thread.join()

    def _keep(self) -> None:
        made, pause = -math.inf, 0.0
        while not self._is_over():
            kind = self._pair.kind
            if kind is None:
                self._pause(pause, kind)
                self._make()
                made = time.monotonic()
            else:
                self._improve(kind)
            # a neighbour that takes connections and ends them would be dialled without a pause
            lasts = time.monotonic() - made > _SHORT_SECONDS
            pause = 0.0 if lasts else min(max(2 * pause, _BACKOFF_SECONDS), _BACKOFF_SECONDS_MAX)

    def _is_over(self) -> bool:
        return self._closed or self._pair.is_over

    @property
    def _has_been(self) -> bool:
        """Whether there ever was a connection."""
        return self._pair.kind is not None or self._pair.broken is not None

    def _pause(self, seconds: float, kind: LinkKind | None) -> None:
        """Wait, unless what carries the pair is not ``kind`` any more, or nothing more is to be done."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._is_over() or self._pair.kind is not kind,
                None if math.isinf(seconds) else seconds,
            )

    def _make(self) -> None:
        """Dial until there is a connection; a worse carrier joins in when those before have failed."""
        begun, pause = self._pair.broken or time.monotonic(), _BACKOFF_SECONDS
        refused_since: float | None = None
        tried: set[LinkKind] = set()
        if self._pair.is_refused:  # it would send the same again, as fast as it is let
            self._pause(_BACKOFF_SECONDS_MAX, None)
        while self._pair.kind is None and not self._is_over():
            is_refused = False
            for carrier in self._due(time.monotonic() - begun, tried):
                if self._pair.kind is not None or self._is_over():
                    return
                tried.add(carrier.kind)
                try:
                    self._dialler.connect(self._pair, carrier, _ATTEMPT_SECONDS)
                    return
                except LinkRefused as error:
                    self._pair.give_up(error)
                    return
                except OSError as error:
                    self._cause = cause_of(error)
                    self._misled = self._cause if isinstance(error, Misled) else self._misled
                    is_refused |= carrier.kind is LinkKind.DIRECT and isinstance(
                        error, ConnectionRefusedError
                    )
            now = time.monotonic()
            refused_since = (refused_since or now) if is_refused else None
            if self._pair.kind is not None:  # the other end has dialled meanwhile
                return
            if now > self._end(begun, refused_since):
                self._pair.give_up(self._lost())
                return
            self._pause(pause, None)
            pause = min(2 * pause, _BACKOFF_SECONDS_MAX)

    def _due(self, late: float, tried: Collection[LinkKind]) -> list[Carrier]:
        """Those to dial after so many seconds; who joins in comes first, since those before have failed."""
        due = [
            carrier
            for number, carrier in enumerate(self._carriers)
            if (start := self._starts[carrier.kind]) is not None and late >= number * _DIAL_SECONDS + start
        ]
        return sorted(due, key=lambda carrier: carrier.kind in tried)

    def _end(self, begun: float, refused_since: float | None) -> float:
        """Until when to go on dialling, by ``time.monotonic``."""
        within = begun + _DIAL_SECONDS * max(1, len(self._carriers))
        kinds = {carrier.kind for carrier in self._carriers}
        if not self._has_been:
            # by other carriers both ends come of their own accord: who is not there yet may still come
            is_direct = kinds <= {LinkKind.DIRECT}
            dials = all(start is not None for start in self._starts.values())
            return within if dials and is_direct else math.inf  # whoever opens the link has a limit
        both = within + (0.0 if self._pair.leads else _DIAL_SECONDS)  # the other end has dialled, too
        if self._tolerance is None:
            return both
        end = begun + max(_DIAL_SECONDS, self._tolerance.redial)
        if self._pair.latest is not LinkKind.DIRECT:
            return end  # who was in between may be gone, and come again
        # an edge that is cut ends in silence: the process is gone where its host has ended the connection and
        # nothing comes by the relay either, or where its host refuses what it took before
        if self._pair.was_hung_up and LinkKind.RELAY in kinds:
            end = min(end, both)
        if refused_since is not None:
            end = min(end, refused_since + _DIAL_SECONDS + _BACKOFF_SECONDS_MAX)  # the next carrier was tried
        return end

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

    def _improve(self, kind: LinkKind) -> None:
        """While there is a connection, dial beside it where it is silent, or where a better one might be."""
        pause = _RETURN_SECONDS
        better = self._better(kind)
        # the other end begins to return at the same time
        head_start = max((self._starts[carrier.kind] or 0.0 for carrier in better), default=math.inf)
        due = time.monotonic() + pause + head_start
        look = life.SILENT_SECONDS / 2 if self._tolerance is not None else math.inf
        while self._pair.kind is kind and not self._is_over():
            self._pause(max(0.0, min(due - time.monotonic(), look)), kind)
            is_silent, is_due = self._pair.is_silent, time.monotonic() >= due
            if self._pair.kind is not kind or not (is_silent or is_due):
                continue
            if any(self._try(carrier) for carrier in (self._dialled() if is_silent else better)):
                return
            better = self._better(kind)
            if is_due:
                pause = min(2 * pause, _RETURN_SECONDS_MAX)
                due = time.monotonic() + pause if better else math.inf

    def _better(self, kind: LinkKind) -> list[Carrier]:
        """Those that are better than ``kind``."""
        return [carrier for carrier in self._dialled() if carrier.kind.rank < kind.rank]

    def _dialled(self) -> list[Carrier]:
        """The carriers by which this end dials."""
        return [
            carrier
            for carrier in self._carriers
            if self._starts[carrier.kind] is not None and carrier.kind not in self._given_up
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
