"""Sites of one process with direct links between them, over real sockets on loopback."""

import queue
import socket
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from flaremesh.links import Key
from flaremesh.links.assemble import assemble
from flaremesh.links.edges import Edges, Message
from flaremesh.links.inbox import Inbox
from flaremesh.topology.links import LinkKind
from flaremesh.topology.neighborhood import Neighborhood


def edges_of(site, sources=(), targets=(), **options):
    """The edges of one site, for a carrier by itself."""
    given = {"run_id": "run", "inbox": Inbox(lambda: False), "observer": Observer()} | options
    return Edges(site, sources=frozenset(sources), targets=frozenset(targets), **given)


def message(sender, iteration, *buffers):
    """A message of ``sender``, as carriers get it."""
    return Message(Key(iteration, 0, sender), buffers, sum(map(len, buffers)))


class Observer:
    """Counts refusals by (name, reason) and keeps what carries each edge."""

    def __init__(self):
        self.refusals, self.links, self.wanted = Counter(), {}, {}
        self.dialled_back, self.changes = {}, Counter()
        self.sent_bytes, self.received_bytes, self.waits = Counter(), Counter(), Counter()
        self._changed = threading.Condition()

    def sent(self, peer, payload_bytes):
        self.sent_bytes[peer] += payload_bytes

    def received(self, peer, payload_bytes):
        self.received_bytes[peer] += payload_bytes

    def refused(self, peer, reason):
        with self._changed:
            self.refusals[peer, reason] += 1
            self._changed.notify_all()

    def waited(self, peer, seconds):
        self.waits[peer] += seconds

    def linked(self, peer, kind, wanted, *, is_dialled_back):
        with self._changed:
            self.links[peer], self.wanted[peer] = kind, wanted
            self.dialled_back[peer] = is_dialled_back
            self._changed.notify_all()

    def changed(self, peer, kind):
        with self._changed:
            self.changes[peer, kind] += 1
            self._changed.notify_all()

    def wait_for(self, condition, timeout=15):
        """Whether ``condition()`` comes true; looked at whenever something is refused or linked."""
        with self._changed:
            return self._changed.wait_for(condition, timeout)


class Sites:
    """Links of several sites; ``relayed`` counts the bytes that took the relay, hellos and acks included."""

    def __init__(self, authority, run_id="run"):
        self.authority, self.run_id = authority, run_id
        self.links, self.observers = {}, {}
        self.delivering, self.posts = {}, queue.Queue()
        self.relayed = Counter()
        self.losing, self.repeating = 0, False
        """How many of the next posts are lost, and whether those that are not come twice."""
        self._thread = threading.Thread(target=self._deliver, daemon=True)
        self._thread.start()

    def add(
        self,
        name,
        sources,
        targets,
        *,
        mode="auto",
        credentials=None,
        listens=True,
        direct=True,
        tolerance=None,
        meeting=None,
        carriers=LinkKind,
    ):
        """A site's link, not open yet; it listens on a port of the system's choice, or of a range."""
        observer = self.observers[name] = Observer()
        link = self.links[name] = assemble(
            self.run_id,
            [Neighborhood(name, 0.5, dict.fromkeys(sources, 0.5), tuple(targets))],
            mode,
            observer=observer,
            cancelled=lambda: False,
            transport=_Relayed(self, name),
            credentials=(credentials or self.authority.issue(name)) if direct else None,
            listen=("127.0.0.1", (0, 0) if listens is True else listens) if listens else None,
            tolerance=tolerance,
            meeting=meeting,
            allowed=dict.fromkeys((*sources, *targets), carriers),
        )
        return link

    def open(self, addresses=None, timeout=10):
        """Open all links at once; returns what each raised, None for nothing."""
        known = {name: link.address for name, link in self.links.items() if link.address}
        known |= addresses or {}
        return in_parallel(
            {name: lambda link=link: link.open(known, timeout) for name, link in self.links.items()}
        )

    def close(self, **options):
        in_parallel({n: lambda link=link: link.close(**options) for n, link in self.links.items()})
        self.posts.put(None)
        self._thread.join()

    def _deliver(self):
        while (post := self.posts.get()) is not None:
            sender, peer, data = post
            self.relayed[sender, peer] += len(data)
            if self.losing:
                self.losing -= 1
            elif peer in self.delivering:
                for _ in range(1 + self.repeating):
                    self.delivering[peer](sender, data)


class _Relayed:
    """The transport of one site."""

    def __init__(self, sites, name):
        self._sites, self._name = sites, name

    def post(self, peer, data):
        self._sites.posts.put((self._name, peer, data))

    def listen(self, deliver):
        self._sites.delivering[self._name] = deliver


def in_parallel(calls):
    """What each call raised, by name; None for nothing."""

    def outcome(call):
        try:
            call()
        except Exception as error:  # noqa: BLE001  (told to the test, which looks at it)
            return error
        return None

    with ThreadPoolExecutor(len(calls)) as pool:
        return dict(zip(calls, pool.map(outcome, calls.values()), strict=True))


def exchange(sites, pairs, iterations, payload, start=0):
    """Each of ``pairs`` sends ``payload(sender, k)`` in every iteration; returns the wrong arrivals."""
    names = {name for pair in pairs for name in pair}
    wrong = []

    def run(name):
        link = sites.links[name]
        for k in range(start, start + iterations):
            for sender, receiver in pairs:
                if sender == name:
                    link.send(receiver, Key(k, 0, name), [payload(name, k)])
            keys = [Key(k, 0, sender) for sender, receiver in pairs if receiver == name]
            for key, data in link.receive(keys, 20).items():
                if bytes(data) != bytes(payload(key.sender, k)):
                    wrong.append(key)

    failures = {n: e for n, e in in_parallel({n: lambda n=n: run(n) for n in names}).items() if e}
    assert not failures, failures
    return wrong


class Proxy:
    """Forwards connections to ``address`` until it is told to cut them, or to refuse new ones."""

    def __init__(self, address):
        self._address = address
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.address = self._socket.getsockname()
        self.connections = 0
        self.passing = threading.Event()
        """Whether anything passes."""
        self.passing.set()
        self._open, self._lock = [], threading.Condition()
        self._forgotten = set()
        threading.Thread(target=self._accept, daemon=True).start()

    def carries(self, connections, timeout=30):
        """Whether it has carried so many connections within ``timeout`` seconds."""
        with self._lock:
            return self._lock.wait_for(lambda: self.connections >= connections, timeout)

    def cut(self):
        """Break all connections that there are."""
        with self._lock:
            ends, self._open = self._open, []
        for end in ends:
            with suppress(OSError):  # its pump has closed it
                end.shutdown(socket.SHUT_RDWR)

    def forget(self):
        """Take all that comes over the connections that there are, and pass nothing on."""
        with self._lock:
            self._forgotten |= {id(end) for end in self._open}

    def refuse(self):
        """Take no new connection."""
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def close(self):
        with suppress(OSError):  # refused already
            self.refuse()
        self.passing.set()
        self.cut()

    def _accept(self):
        while True:
            try:
                near, _ = self._socket.accept()
            except OSError:
                return
            try:
                far = socket.create_connection(self._address)
            except OSError:  # nobody there any more
                near.close()
                continue
            with self._lock:
                self._open += [near, far]
                self.connections += 1
                self._lock.notify_all()
            for source, target in ((near, far), (far, near)):
                threading.Thread(target=self._pump, args=(source, target), daemon=True).start()

    def _pump(self, source, target):
        try:
            while data := source.recv(1 << 16):
                self.passing.wait()
                if id(source) not in self._forgotten:
                    target.sendall(data)
            target.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        finally:
            source.close()
