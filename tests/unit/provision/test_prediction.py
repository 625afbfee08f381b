"""How long iterations take on measured edges, and what is proposed for them."""

from dataclasses import replace
from pathlib import Path

import pytest

from flaremesh.p2p.costs import Cost
from flaremesh.provision import measured
from flaremesh.provision.measured import MeasuredEdge, Measurement, Unmeasured
from flaremesh.provision.prediction import Lines, Load, PredictionError, times, wires_of
from flaremesh.provision.tuning import tune
from flaremesh.record import RecordError
from flaremesh.topology.links import Carried
from flaremesh.topology.mesh import build
from flaremesh.topology.schema import Topology, Wire

MEGABYTE = 1e6


def topology(graph, sites=4, algorithm="consensus", **fields):
    return Topology.model_validate(
        {
            "apiVersion": "flaremesh/v1",
            "name": "measured",
            "server": {"host": "localhost", "org": "lab"},
            "admins": [{"email": "admin@lab.org", "org": "lab"}],
            "sites": [{"name": f"site-{n}", "org": "lab"} for n in range(sites)],
            "graph": graph,
            "run": {
                "algorithm": algorithm,
                "iterations": 100,
                "problem": {"path": "flaremesh.problems.consensus.Consensus"},
            },
        }
        | fields
    )


def measurement(mesh, *, round_trip=0.02, rate=1e7, busy=None, slow=(), costs=None):
    """All edges alike, but ``slow`` ones have a tenth of the rate; each site's line carries ``busy``."""
    edges = []
    for source, target in build(mesh).graph.edges:
        own = rate / 10 if {source, target} in [set(pair) for pair in slow] else rate
        share = own if busy is None else busy / build(mesh).graph.out_degree(source)
        edges.append(MeasuredEdge(source, target, round_trip, own, min(own, share)))
    return Measurement(mesh.name, "2026-11-30T10:00:00+00:00", edges, [], costs or {})


def seconds(mesh, found, load, wire="exact"):
    return Lines(found).seconds(build(mesh), wire, [load])


def test_a_message_takes_half_a_round_trip_and_its_bytes():
    pair = topology({"kind": "path"}, sites=2)
    found = measurement(pair)
    assert seconds(pair, found, Load(0, 1)) == pytest.approx(0.01)
    assert seconds(pair, found, Load(10_000_000, 1)) == pytest.approx(1.01)


def test_neighbours_share_a_line_that_does_not_carry_all_at_once():
    ring = topology({"kind": "ring"})
    assert seconds(ring, measurement(ring), Load(10_000_000, 1)) == pytest.approx(1.01)
    assert seconds(ring, measurement(ring, busy=1e7), Load(10_000_000, 1)) == pytest.approx(2.03)


def test_to_find_a_share_of_the_line_takes_a_round_trip_or_as_long_as_a_short_message():
    ring = topology({"kind": "ring"})
    assert seconds(ring, measurement(ring, busy=1e7), Load(0, 1)) == pytest.approx(0.01)
    assert seconds(ring, measurement(ring, busy=1e7), Load(10_000, 1)) == pytest.approx(0.013)


def test_what_is_relayed_shares_what_the_server_carries_whoever_sends_it():
    ring = topology({"kind": "ring"})
    slow = measurement(ring, rate=1e7, busy=4e6)
    found = replace(slow, edges=[replace(edge, link=Carried.RELAYED) for edge in slow.edges])
    # eight edges, of which each had 2 MB/s while all were in use
    assert seconds(ring, found, Load(10_000_000, 0)) == pytest.approx(0.01 + 5.0 + 0.02)
    one_of_them = replace(slow, edges=[replace(slow.edges[0], link=Carried.RELAYED), *slow.edges[1:]])
    assert seconds(ring, one_of_them, Load(10_000_000, 0)) < 2.1


def test_computing_comes_on_top_for_each_neighbour():
    ring = topology({"kind": "ring"})
    cost = {"int8": Cost(encode=1e-8, mix=2e-8, decode=3e-8)}
    everywhere = measurement(ring, costs={f"site-{n}": cost for n in range(4)})
    assert seconds(ring, everywhere, Load(0, 1_000_000), "exact") == pytest.approx(0.01)
    assert seconds(ring, everywhere, Load(0, 1_000_000), "int8") == pytest.approx(0.01 + 0.01 + 0.08)
    # what its neighbours sent is there before one slow site comes to it
    one = measurement(ring, costs={"site-2": cost})
    assert seconds(ring, one, Load(0, 1_000_000), "int8") == pytest.approx(0.09)


def test_one_slow_edge_delays_all_and_two_delay_no_more():
    ring = topology({"kind": "ring"}, sites=6)
    one = measurement(ring, slow=[("site-0", "site-1")])
    two = measurement(ring, slow=[("site-0", "site-1"), ("site-3", "site-4")])
    assert seconds(ring, one, Load(1_000_000, 1)) == pytest.approx(1.01)
    assert seconds(ring, two, Load(1_000_000, 1)) == pytest.approx(1.01)


def test_on_a_directed_ring_a_slow_edge_is_shared_by_all_iterations_of_a_round():
    """Who waits for it is waited for only once the delay has gone all the way round."""
    ring = topology({"kind": "ring", "directed": True}, sites=4)
    found = measurement(ring, slow=[("site-0", "site-1")])
    assert seconds(ring, found, Load(1_000_000, 1)) == pytest.approx((3 * 0.11 + 1.01) / 4, rel=0.03)


def test_phases_take_turns_and_use_one_edge_each():
    exponential = topology({"kind": "one-peer-exponential"}, algorithm="sgp", weights="push-sum")
    found = measurement(exponential)
    assert seconds(exponential, found, Load(10_000_000, 1)) == pytest.approx(1.01)


def test_exchanges_of_an_iteration_follow_each_other():
    pair = topology({"kind": "path"}, sites=2)
    lines = Lines(measurement(pair))
    loads = [Load(10_000_000, 1), Load(0, 1)]
    assert lines.seconds(build(pair), "exact", loads) == pytest.approx(1.02)


def test_an_edge_that_was_not_measured_is_named_with_the_reason():
    ring = topology({"kind": "ring"})
    found = measurement(topology({"kind": "path"}))
    with pytest.raises(PredictionError, match=r"site-\d → site-\d is: it is not in the measurement"):
        seconds(ring, found, Load(1, 1))
    known = Measurement(
        "m",
        "now",
        found.edges,
        [Unmeasured("site-3", "site-0", "a run goes on"), Unmeasured("site-0", "site-3", "a run goes on")],
        {},
    )
    with pytest.raises(PredictionError, match="a run goes on"):
        seconds(ring, known, Load(1, 1))


def loads_of(mesh, entries=1_000_000):
    """As many bytes as each wire sends of a vector, roughly."""
    per_entry = {"exact": 4.0, "float32": 4.0, "bfloat16": 2.0, "float16": 2.0, "int8": 1.0, "top-k": 0.6}
    return [(wire, [Load(int(per_entry[wire.encoding] * entries), entries)]) for wire in wires_of(mesh.run)]


def test_each_wire_that_fits_has_its_times_and_the_runs_own_comes_first():
    ring = topology({"kind": "ring"})
    ring = ring.model_copy(update={"run": ring.run.model_copy(update={"wire": Wire.of("int8")})})
    found = times(ring, build(ring), Lines(measurement(ring)), loads_of(ring))
    assert [each.wire for each in found] == ["int8", "exact", "float32", "bfloat16", "float16", "top-k"]
    by_wire = {each.wire: each for each in found}
    assert by_wire["exact"].seconds == pytest.approx(0.41)
    assert by_wire["exact"].run_seconds == pytest.approx(41)
    # a ring of four with weights of a third contracts by a third
    assert by_wire["exact"].mixing_seconds == pytest.approx(7 * 0.41)
    assert by_wire["int8"].mixing_seconds == pytest.approx(7 * 0.11)
    assert by_wire["top-k"].mixing_seconds > 10 * by_wire["top-k"].seconds


def test_wires_that_a_changing_graph_cannot_have_have_no_times():
    exponential = topology({"kind": "one-peer-exponential"}, algorithm="sgp", weights="push-sum")
    found = times(exponential, build(exponential), Lines(measurement(exponential)), loads_of(exponential))
    assert {"int8", "top-k"} & {each.wire for each in found} == set()


def test_a_slow_edge_that_nobody_needs_is_left_out_of_the_proposal():
    complete = topology({"kind": "complete"}, sites=5)
    found = measurement(complete, slow=[("site-1", "site-3")])
    tuning = tune(complete, found, loads_of(complete))
    assert tuning.now is not None
    proposal = tuning.proposal
    assert proposal is not None
    mesh = build(complete.model_copy(update={"graph": proposal.graph}))
    assert not mesh.graph.has_edge("site-1", "site-3")
    assert mesh.graph.edges <= build(complete).graph.edges
    assert proposal.time.wire == "int8"
    assert proposal.seconds < tuning.now.seconds / 2


def test_what_is_best_already_is_left_alone():
    pair = topology({"kind": "path"}, sites=2)
    pair = pair.model_copy(update={"run": pair.run.model_copy(update={"wire": Wire.of("int8")})})
    tuning = tune(pair, measurement(pair), loads_of(pair))
    assert tuning.now is not None
    assert tuning.proposal is None


def test_only_what_is_sound_for_the_algorithm_is_proposed():
    """Gradient tracking needs weights that are doubly stochastic, which a directed star has not."""
    complete = topology({"kind": "complete"}, algorithm="gradient-tracking")
    run = complete.run.model_copy(update={"stepsize": 0.1})
    complete = complete.model_copy(update={"run": run})
    tuning = tune(complete, measurement(complete), loads_of(complete))
    for choice in tuning.choices:
        mesh = build(complete.model_copy(update={"graph": choice.graph, "weights": choice.weights}))
        assert mesh.properties.doubly_stochastic
        assert mesh.properties.connected
    kinds = {choice.graph.kind: choice.weights for choice in tuning.choices if hasattr(choice.graph, "kind")}
    assert kinds["base-graph"] == "explicit"


def test_edges_that_hold_no_mesh_together_are_no_choice():
    ring = topology({"kind": "ring"})
    known = measurement(ring)
    half = Measurement(
        "m", "now", [edge for edge in known.edges if "site-3" not in (edge.source, edge.target)], [], {}
    )
    with pytest.raises(PredictionError, match="joins all sites of measured"):
        tune(ring, half, loads_of(ring))


def test_a_measurement_is_read_as_it_was_written(tmp_path):
    ring = topology({"kind": "ring"})
    found = measurement(ring, costs={"site-0": {"exact": Cost(1e-9, 2e-9, 3e-9)}})
    file = tmp_path / measured.FILE
    file.write_text(measured.to_json(found))
    assert measured.read(file) == found


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '{"mesh": "m"}',
        '{"mesh": "m", "taken": "now", "edges": [], "unmeasured": [], "costs": {}, "version": 2}',
        '{"mesh": "m", "taken": "now", "unmeasured": [], "costs": {}, '
        '"edges": [{"source": "a", "target": "b", "round_trip": 0.1, "rate": 0, "busy_rate": 1}]}',
        '{"mesh": "m", "taken": "now", "unmeasured": [], "costs": {}, '
        '"edges": [{"source": "a", "target": "b", "round_trip": NaN, "rate": 1, "busy_rate": 1}]}',
    ],
)
def test_what_is_no_measurement_of_this_version_is_refused_with_what_to_do(tmp_path: Path, text: str) -> None:
    file = tmp_path / "measured.json"
    file.write_text(text)
    with pytest.raises(RecordError, match=r"measured\.json is not a measurement of version 1.*--measure"):
        measured.read(file)
