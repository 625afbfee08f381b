"""A site does what the server tells it as far as its own charter goes, whatever the server sends."""

import math
from dataclasses import replace

import numpy as np
import pytest

from flaremesh.p2p.charter import Charter, Peer
from flaremesh.p2p.executors.assignment import (
    CharterError,
    OrderError,
    links_of,
    mode_of,
    part_of,
    require_allowed,
    require_ordered,
    require_places,
)
from flaremesh.p2p.extra import ExtraError
from flaremesh.p2p.gate import order
from flaremesh.p2p.types import LocalConfig, Neighbor
from flaremesh.record import RecordError
from flaremesh.topology.links import LinkKind
from flaremesh.topology.neighborhood import Neighborhood
from flaremesh.topology.schema import Privacy

BOTH = (LinkKind.DIRECT, LinkKind.RELAY)
BONN = Charter(
    mesh="rhein",
    participant="bonn",
    peers={
        "ulm": Peer(sends=True, receives=True, carriers=BOTH, host="ulm.example.org", ports=(8100, 8109)),
        "worms": Peer(sends=False, receives=True, carriers=BOTH),
    },
    host="bonn.example.org",
    ports=(8100, 8109),
)


def direct(charter):
    """The charter of a mesh whose links are direct."""
    peers = {name: replace(peer, carriers=(LinkKind.DIRECT,)) for name, peer in charter.peers.items()}
    return replace(charter, peers=peers)


def part(site="bonn", sources=(), targets=()):
    return LocalConfig([], schedule=[Neighborhood(site, 0.5, dict.fromkeys(sources, 0.5), tuple(targets))])


def test_a_run_may_use_all_that_the_charter_has_and_less():
    require_allowed(part(sources=["ulm", "worms"], targets=["ulm"]), "auto", BONN)
    require_allowed(part(sources=["ulm"]), "relay", BONN)
    require_allowed(part(), "direct", BONN)
    require_places({"ulm": ("ulm.example.org", 8109)}, BONN)


@pytest.mark.parametrize(
    ("asked", "mode", "words"),
    [
        (part(sources=["mallory"]), "auto", "mallory is to be a neighbour of bonn; it is no peer in the kit"),
        (part(targets=["server"]), "auto", "server is to be a neighbour of bonn; it is no peer in the kit"),
        (part(sources=["a\x1b[2J\n"]), "auto", r"'a\x1b[2J\n' is to be a neighbour"),
        (part(targets=["worms"]), "auto", "wants an edge by which bonn sends; worms has no such edge"),
        (part(site="ulm"), "auto", "bonn is given the part of another site"),
    ],
)
def test_a_neighbour_that_the_charter_does_not_have_is_refused_by_name_and_rule(asked, mode, words):
    with pytest.raises(CharterError) as error:
        require_allowed(asked, mode, BONN)
    assert words in str(error.value)


@pytest.mark.parametrize("mode", ["auto", "relay"])
def test_a_run_that_was_signed_as_direct_does_not_travel_otherwise(mode):
    signed = order.order(("bonn", "ulm"), None, "direct")
    with pytest.raises(OrderError, match=rf"tells `links: {mode}` for `links: direct`"):
        require_ordered(part(sources=["ulm"]), mode, signed, "bonn")
    require_ordered(part(sources=["ulm"]), "direct", signed, "bonn")


@pytest.mark.parametrize(
    ("asked", "edge"), [(part(sources=["worms"]), "worms-bonn"), (part(targets=["ulm"]), "bonn-ulm")]
)
def test_an_edge_that_was_not_signed_is_refused_though_the_charter_has_it(asked, edge):
    signed = order.order(("bonn", "ulm", "worms"), {"ulm": ("bonn",)})
    require_allowed(asked, "auto", BONN)
    with pytest.raises(OrderError, match=edge):
        require_ordered(asked, "auto", signed, "bonn")
    require_ordered(part(sources=["ulm"]), "auto", signed, "bonn")


@pytest.mark.parametrize("mode", ["met", "relay"])
def test_no_run_makes_a_direct_mesh_relay(mode):
    with pytest.raises(
        CharterError, match=rf"`links: {mode}` between bonn and ulm; their carriers are direct"
    ):
        require_allowed(part(sources=["ulm"]), mode, direct(BONN))
    require_allowed(part(sources=["ulm"]), "direct", direct(BONN))
    require_allowed(part(sources=["ulm"]), "auto", direct(BONN))  # which takes what the kit has


def test_a_run_that_does_not_say_how_its_messages_travel_takes_what_the_charter_allows():
    assert mode_of({}) == "auto"
    assert mode_of({"links": "relay"}) == "relay"


@pytest.mark.parametrize("mode", ["wireless", None, ["relay"], {}])
def test_what_is_no_mode_is_refused(mode):
    with pytest.raises(ExtraError, match="must be one of auto, direct, met, relay"):
        mode_of({"links": mode})


@pytest.mark.parametrize(
    ("addresses", "words"),
    [
        ({"ulm": ("ulm.example.org", 8110)}, "ulm.example.org, ports 8100 to 8109, is its place in the kit"),
        ({"ulm": ("evil.example.org", 8100)}, "the server gives another place where to dial ulm"),
        ({"ulm": ("ULM.example.org", 8100)}, "the server gives another place where to dial ulm"),
        ({"worms": ("worms.example.org", 8100)}, "it has no place in the kit"),
        ({"server": ("server.example.org", 8002)}, "server is to be a neighbour"),
    ],
)
def test_no_neighbour_is_dialled_elsewhere_than_the_charter_says(addresses, words):
    with pytest.raises(CharterError) as error:
        require_places(addresses, BONN)
    assert words in str(error.value)


@pytest.mark.parametrize(
    ("host", "ports"),
    [("bonn.example.org", [22, 8109]), ("bonn.example.org", [8100, 8110]), ("::", [8100, 8109])],
)
def test_a_site_listens_nowhere_else_than_its_charter_says(host, ports):
    told = replace(part(sources=["ulm"]), link={"host": host, "ports": ports})
    with pytest.raises(CharterError, match=r"bonn.example.org, ports 8100 to 8109, is its place in the kit"):
        require_allowed(told, "auto", BONN)
    with pytest.raises(CharterError, match="it has no place"):
        require_allowed(told, "auto", replace(BONN, host=None, ports=None))


def test_a_site_may_open_fewer_ports_than_its_charter_says():
    link = {"host": "bonn.example.org", "ports": [8101, 8102]}
    require_allowed(replace(part(sources=["ulm"]), link=link), "auto", BONN)


HOOD = {"site": "bonn", "self_weight": 0.5, "in_weights": {"ulm": 0.5}, "out": ["ulm"]}
PART = {"neighbors": [{"id": "ulm", "weight": 0.5}], "schedule": [HOOD], "index": 1, "sites": 2}


def test_a_part_is_taken_as_it_is_sent():
    config = part_of(PART | {"extra": {"iterations": 5}, "link": {"host": "bonn", "ports": [1, 2]}}, "bonn")
    assert config.schedule == [Neighborhood("bonn", 0.5, {"ulm": 0.5}, ("ulm",))]
    assert (config.index, config.sites, config.extra) == (1, 2, {"iterations": 5})
    assert config.link == {"host": "bonn", "ports": [1, 2]}
    # as the stock package's controller has it
    assert part_of({"neighbors": []}, "bonn") == LocalConfig([])
    assert part_of({"neighbors": [{"id": "ulm", "weight": np.float32(0.5)}]}, "bonn").neighbors == [
        Neighbor("ulm", 0.5)
    ]


@pytest.mark.parametrize(
    "wrong",
    [
        {"neighbors": 5},
        {"neighbors": [{"id": "x" * 300}]},
        {"neighbors": [{"id": "ulm", "weight": math.nan}]},
        {"schedule": [HOOD | {"self_weight": math.inf}]},
        {"schedule": [HOOD | {"in_weights": ["ulm"]}]},
        {"schedule": [HOOD | {"out": [7]}]},
        {"index": 1 << 40},
        {"extra": "iterations"},
        {"link": {"host": "bonn", "ports": [1, 99_999]}},
        {"link": {"host": "bonn", "ports": [1, 2, 3]}},
        {"labels": {"topology": ["<script>"]}},
        {"run_id": "../run"},
        {"run_id": "x" * 65},
        {"children": "ulm"},
    ],
)
def test_what_is_no_part_of_a_run_is_refused_and_not_repeated(wrong):
    with pytest.raises(
        RecordError, match=r"^what the server sent bonn is not a site's part of a run: "
    ) as error:
        part_of(PART | wrong, "bonn")
    assert "script" not in str(error.value)


@pytest.mark.parametrize(
    "wrong",
    [
        {"addresses": {"ulm": "ulm:8100"}},
        {"addresses": {"ulm": ["ulm", 0]}},
        {"addresses": {"ulm": ["", 8100]}},
        {"addresses": {"ulm": [["ulm"], 8100]}},
        {"addresses": [["ulm", 8100]]},
        {"start_timeout": math.inf},
        {"start_timeout": -1},
        {"by_value": "perhaps"},
    ],
)
def test_what_are_no_addresses_are_refused(wrong):
    right = {"addresses": {"ulm": ["ulm", 8100]}, "start_timeout": 60.0, "by_value": False}
    assert links_of(right, "bonn").addresses == {"ulm": ("ulm", 8100)}
    with pytest.raises(RecordError, match="what the server sent bonn is not a step of its configuration"):
        links_of(right | wrong, "bonn")


BUDGET = {"epsilon": 8, "delta": 1e-5, "clip": 1.0}
RING = {"bonn": ("ulm", "worms"), "ulm": ("bonn", "worms"), "worms": ("bonn", "ulm")}


def signed_ring(**said):
    return order.order(("bonn", "ulm", "worms"), RING, **said)


def told(peers, members=()):
    return replace(part(sources=peers, targets=peers), members=[*members])


def test_a_site_goes_on_without_one_that_the_order_lets_the_run_lose():
    require_ordered(told(["ulm"], ["bonn", "ulm"]), "auto", signed_ring(on_loss="continue", quorum=2), "bonn")
    require_ordered(told(["ulm", "worms"]), "auto", signed_ring(on_loss="continue", quorum=2), "bonn")


@pytest.mark.parametrize("on_loss", ["fail", "wait"])
def test_no_site_is_missing_in_a_run_that_needs_all(on_loss):
    with pytest.raises(OrderError, match="tells that worms take part no more"):
        require_ordered(told(["ulm"], ["bonn", "ulm"]), "auto", signed_ring(on_loss=on_loss), "bonn")


def test_a_quorum_alone_lets_a_run_lose_nobody():
    with pytest.raises(OrderError, match="tells that worms take part no more"):
        require_ordered(told(["ulm"], ["bonn", "ulm"]), "auto", signed_ring(on_loss="wait", quorum=2), "bonn")


def test_fewer_sites_than_were_signed_are_too_few():
    with pytest.raises(OrderError, match="tells that worms take part no more"):
        require_ordered(
            told(["ulm"], ["bonn", "ulm"]), "auto", signed_ring(on_loss="continue", quorum=3), "bonn"
        )


@pytest.mark.parametrize("members", [["ulm", "worms"], ["bonn", "ulm", "worms", "mallory"]])
def test_the_sites_that_take_part_are_those_of_the_order_and_this_one_among_them(members):
    with pytest.raises(OrderError, match="of other sites that take part"):
        require_ordered(
            told(["ulm", "worms"], members), "auto", signed_ring(on_loss="continue", quorum=2), "bonn"
        )


@pytest.mark.parametrize("members", [[], ["bonn", "ulm", "worms"]])
def test_no_neighbour_that_takes_part_is_kept_from_a_site(members):
    with pytest.raises(OrderError, match="of no edge bonn-worms, though worms takes part"):
        require_ordered(told(["ulm"], members), "auto", signed_ring(on_loss="continue", quorum=2), "bonn")


@pytest.mark.parametrize("members", [[], ["bonn"]])
def test_a_job_that_does_not_say_its_sites_may_have_one_alone(members):
    require_ordered(told([], members), "auto", order.order((), {}), "bonn")


@pytest.mark.parametrize("told_instead", [{}, {"privacy": BUDGET | {"epsilon": 80}}])
def test_a_run_keeps_data_from_others_as_it_was_signed(told_instead):
    signed = replace(signed_ring(), privacy=Privacy.model_validate(BUDGET))
    with pytest.raises(OrderError, match="tells bonn of another `privacy` than it would have"):
        require_ordered(replace(told(["ulm", "worms"]), extra=told_instead), "auto", signed, "bonn")
    require_ordered(replace(told(["ulm", "worms"]), extra={"privacy": BUDGET}), "auto", signed, "bonn")


def complete(*members, partners, edges=None):
    """An order of four sites that are all neighbours, and what one is told of those that take part."""
    everyone = ("bonn", "jena", "ulm", "worms")
    ordered = edges or {site: tuple(peer for peer in everyone if peer != site) for site in everyone}
    told_of = [site for site in (members or everyone) if site != "bonn"]
    hood = Neighborhood("bonn", 0.25, dict.fromkeys(told_of, 0.25), tuple(told_of), partners)
    asked = order.order(everyone, ordered, on_loss="continue", quorum=2)
    return LocalConfig([], schedule=[hood], members=list(members or everyone)), asked


def test_a_site_takes_its_partners_from_the_order_and_not_from_the_server():
    others = ("jena", "ulm", "worms")
    partners = {user: tuple(peer for peer in others if peer != user) for user in others}
    config, asked = complete(partners=partners)
    require_ordered(config, "auto", asked, "bonn")
    fewer, asked = complete(partners=partners | {"ulm": ("worms",)})
    with pytest.raises(OrderError, match="tells that worms hides what ulm is sent") as refused:
        require_ordered(fewer, "auto", asked, "bonn")
    assert refused.value.peer == "ulm"


def test_those_that_are_lost_are_partners_no_more():
    config, asked = complete("bonn", "jena", "ulm", partners={"jena": ("ulm",), "ulm": ("jena",)})
    require_ordered(config, "auto", asked, "bonn")


def test_who_sends_one_way_alone_is_no_partner():
    edges = {
        "bonn": ("jena", "ulm"),
        "jena": ("bonn", "ulm"),
        "ulm": ("bonn", "jena"),
        "worms": ("bonn", "ulm"),
    }
    hood = Neighborhood("bonn", 0.25, dict.fromkeys(("jena", "ulm", "worms"), 0.25), ("jena", "ulm"))
    asked = order.order(("bonn", "jena", "ulm", "worms"), edges)
    for partners in ({"ulm": ("jena",)}, {"ulm": ("jena", "worms")}):
        config = LocalConfig(
            [], schedule=[replace(hood, partners=partners)], members=["bonn", "jena", "ulm", "worms"]
        )
        if "worms" in partners["ulm"]:
            with pytest.raises(OrderError, match="jena and worms"):
                require_ordered(config, "auto", asked, "bonn")
        else:
            require_ordered(config, "auto", asked, "bonn")
