"""A server between sites that does as the test says, and keeps all that it sees."""

import threading
from collections import defaultdict

from direct_mesh import Sites
from streams import Post, hasten

from flaremesh.links import connector, life
from flaremesh.links.carriers import stream
from flaremesh.links.carriers.stream import PieceKind, pack


class Server(Sites):
    """Sites, and the server that relays what they post.

    Attributes:
        seen: all posts.
        meddle: what it brings instead of a post.
    """

    def __init__(self, authority, run_id="run"):
        self.seen, self.meddle = [], lambda post: [post]
        self._held, self._holding = [], threading.Lock()
        super().__init__(authority, run_id)

    def pair(self, mode="relay", **options):
        """Sites a, which leads, and b, which exchange."""
        self.add("a", "b", "b", mode=mode, **options)
        self.add("b", "a", "a", mode=mode, **options)

    def complete(self, **options):
        """Sites a, b and c, each of which exchanges with the other two over the relay."""
        for name in "abc":
            others = [other for other in "abc" if other != name]
            self.add(name, others, others, mode="relay", **options)

    def bring(self, post):
        """Bring it whatever ``meddle`` says."""
        if post.peer in self.delivering:
            self.delivering[post.peer](post.sender, post.data)

    def hold(self, is_held):
        """Hold back what ``is_held`` of it, until `release`."""

        def meddle(post):
            with self._holding:
                if is_held(post):
                    self._held.append(post)
                    return []
            return [post]

        self.meddle = meddle

    def release(self):
        """Bring what was held back, and hold back no more."""
        with self._holding:
            self.meddle = lambda post: [post]
            held, self._held = self._held, []
        for post in held:
            self.bring(post)

    def saw(self, content):
        """Whether ``content`` passed, in a piece or across some."""
        streams = defaultdict(dict)
        for post in self.seen:
            if content in post.data:
                return True
            piece = post.piece
            if piece is not None and piece.kind is PieceKind.PIECE:
                streams[post.sender, post.peer, piece.stream][piece.offset] = bytes(piece.payload)
        return any(content in b"".join(pieces[k] for k in sorted(pieces)) for pieces in streams.values())

    def _deliver(self):
        while (item := self.posts.get()) is not None:
            post = Post(*item)
            self.seen.append(post)
            self.relayed[post.sender, post.peer] += len(post.data)
            for each in self.meddle(post):
                self.bring(each)


def with_piece(post, **changes):
    """The post with another piece in it."""
    return post._replace(data=pack(post.piece._replace(**changes)))


def hasten_all(patch):
    """Acknowledge, repeat, notice and dial sooner."""
    hasten(patch)
    patch.setattr(stream, "_GONE_SECONDS", 2.0)
    patch.setattr(life, "SIGN_SECONDS", 0.1)
    patch.setattr(life, "SILENT_SECONDS", 0.5)
    patch.setattr(life, "_LEAST_SECONDS", 0.025)
    patch.setattr(connector, "_ATTEMPT_SECONDS", 1.0)
