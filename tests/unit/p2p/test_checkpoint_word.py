"""What a site makes of the server's word about checkpoints."""

from types import SimpleNamespace

import pytest

from flaremesh.p2p.executors.member import Member
from flaremesh.p2p.nvflare.cells import SERVER
from flaremesh.runtime.cuts import Cuts


@pytest.mark.parametrize(
    ("sender", "word", "told"),
    [
        (SERVER, b"40 20", [Cuts(40, 20)]),
        (SERVER, memoryview(b"40 0"), [Cuts(40, 0)]),
        ("bonn", b"40 20", []),
        *((SERVER, word, []) for word in (b"", b"40", b"-1 2", b"1 2 3", b"1 " + b"9" * 30, b"4" * 5000)),
    ],
)
def test_the_server_alone_names_checkpoints_by_two_numbers(sender, word, told):
    heard = []
    cell = SimpleNamespace(listen=lambda topic, deliver: deliver(sender, word))
    Member.hear_checkpoints(SimpleNamespace(cell=cell), heard.append)
    assert heard == told
