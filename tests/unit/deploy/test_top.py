"""What `flaremesh top` says of pages that a real exporter made."""

import io
import math
import time
from collections.abc import Iterator
from dataclasses import replace
from queue import SimpleQueue
from types import SimpleNamespace

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector
from rich.console import Console

from flaremesh.cli.screen import screen
from flaremesh.deploy.watch.scrapes import Scrape
from flaremesh.deploy.watch.top import Recent
from flaremesh.links.traffic import TrafficCounter
from flaremesh.metrics.names import RELAY, SHAREABLE, AgentMetric, Phase, RunState
from flaremesh.metrics.prometheus import DIRECTORY_VARIABLE, PrometheusSink
from flaremesh.metrics.sink import Evaluation, Iteration, Norms
from flaremesh.p2p.agents.agent import gauge
from flaremesh.p2p.agents.shared import SharedMetrics, Sharing
from flaremesh.topology.links import LinkKind
from flaremesh.topology.neighborhood import Neighborhood
from flaremesh.topology.schema import SERVER, Topology

SITES = ("heidelberg", "bonn", "aachen")
SECONDS = 0.02  # of an iteration
BYTES = 1000  # of a message
PACE = 50.0  # iterations per second of the sites' clock

TOPOLOGY = Topology.model_validate(
    {
        "apiVersion": "flaremesh/v1",
        "name": "ring",
        "server": {"host": "localhost", "org": "lab"},
        "admins": [{"email": "admin@lab.org", "org": "lab"}],
        "sites": [{"name": name, "org": "lab"} for name in SITES],
        "graph": {"kind": "ring"},
        "run": {
            "algorithm": "dgd",
            "iterations": 400,
            "problem": {"path": "flaremesh.problems.consensus.Consensus"},
        },
    }
)


class Own(Collector):
    """What an agent says of itself."""

    def __init__(self, *families: Family):
        self._families = families

    def collect(self) -> Iterator[Family]:
        yield from self._families


class Ring:
    """Three sites and a server that are asked once a look."""

    def __init__(self) -> None:
        self.recent = Recent(TOPOLOGY)
        self.sinks: dict[str, PrometheusSink] = {}
        self.traffic: dict[str, TrafficCounter] = {}
        self.silent: set[str] = set()
        self.relayed = 0.0
        self.clock = 0.0
        self.sharing: set[str] = set()
        self.missing: dict[str, float] = {}

    def time(self) -> float:
        """Unix time of the sites."""
        return 1_700_000_000 + self.clock

    def begin(
        self, run_id: str = "run-1", sites: tuple[str, ...] = SITES, attempt: str | None = None
    ) -> None:
        for name in sites:
            peers = [peer for peer in SITES if peer != name]
            hood = Neighborhood(name, 0.5, dict.fromkeys(peers, 0.25), tuple(peers))
            traffic = TrafficCounter(peers)
            sink = PrometheusSink(run_id, "dgd", "ring", 400, [hood], traffic, 0.1, 0.5, attempt)
            sink.state(RunState.RUNNING)
            for peer in peers:
                traffic.linked(peer, LinkKind.DIRECT, wanted=LinkKind.DIRECT)
            self.sinks[name], self.traffic[name] = sink, traffic

    def iterate(self, first: int, count: int, distance: float = 0.1, loss: float = 0.25) -> None:
        for k in range(first, first + count):
            self.clock += 1 / PACE
            record = Iteration(
                k + 1,
                loss,
                distance,
                seconds=SECONDS,
                wait_seconds=SECONDS / 2,
                gradient_seconds=SECONDS / 4,
                send_seconds=SECONDS / 8,
                finite=math.isfinite(loss),
            )
            for name, sink in self.sinks.items():
                for peer in set(SITES) - {name}:
                    self.traffic[name].sent(peer, BYTES)
                    self.traffic[name].received(peer, BYTES)
                    self.traffic[name].waited(peer, SECONDS / 2 if peer == "bonn" or name == "bonn" else 0.0)
                sink.iteration(record)

    def look(self, when: float = 0.0) -> None:
        served = CounterMetricFamily(AgentMetric.SERVER_BYTES.value.full_name, "Bytes.", labels=["kind"])
        served.add_metric([RELAY], self.relayed)
        missing = gauge(AgentMetric.RUN_MISSING_SINCE)
        for site, since in self.missing.items():
            missing.add_metric(["run-1", site], since)
        own: list[Collector] = [
            Own(
                gauge(AgentMetric.READY, 1),
                gauge(AgentMetric.RUNNING_JOBS, 1),
                gauge(AgentMetric.REGISTERED_SITES, len(SITES)),
                served,
                missing,
            )
        ]
        shown = SharedMetrics(own)
        for name in self.sharing:
            messages: SimpleQueue[bytes] = SimpleQueue()
            Sharing([self.sinks[name]], SHAREABLE.keys(), messages.put)
            shown.take(name, messages.get(timeout=10))
        self._add(SERVER, [shown], when)
        for name in SITES:
            sink = [self.sinks[name]] if name in self.sinks else []
            self._add(name, [Own(gauge(AgentMetric.READY, 1)), *sink], when)

    def view(self, when: float = 0.0):
        return self.recent.view(when)

    def run(self):
        (run,) = self.view().runs
        return run

    def site(self, name: str):
        return {site.name: site for site in self.run().sites}[name]

    def _add(self, name: str, collectors: list[Collector], when: float) -> None:
        registry = CollectorRegistry(support_collectors_without_names=True)
        for collector in collectors:
            registry.register(collector)
        page = generate_latest(registry)
        self.recent.add(name, Scrape(None, when) if name in self.silent else Scrape.of(page, when))


@pytest.fixture
def ring(monkeypatch):
    monkeypatch.delenv(DIRECTORY_VARIABLE, raising=False)
    ring = Ring()
    monkeypatch.setattr("flaremesh.metrics.prometheus.time", SimpleNamespace(time=ring.time))
    return ring


def page(view, width, coloured=False):
    system = "standard" if coloured else None
    console = Console(file=io.StringIO(), width=width, force_terminal=coloured, color_system=system)
    with console.capture() as capture:
        console.print(screen(view, "flaremesh {} ring.yaml".format, console))
    return capture.get()


def running(ring):
    """Two looks at a run."""
    ring.begin()
    ring.iterate(0, 40)
    ring.look()
    ring.iterate(40, 60)
    ring.look()


# figures


def test_rates_are_those_between_two_looks_by_the_sites_own_clock(ring):
    running(ring)
    site = ring.site("bonn")
    assert (site.state, site.iteration, site.max_iterations) == (RunState.RUNNING, 100, 400)
    assert site.iterations_per_second == pytest.approx(PACE)
    assert site.sent_bytes_per_second == site.received_bytes_per_second == pytest.approx(2 * BYTES * PACE)
    assert ring.run().seconds_left == pytest.approx(300 / PACE)


def test_time_is_split_by_phase(ring):
    running(ring)
    shares = ring.site("bonn").shares
    assert shares[Phase.WAIT] == pytest.approx(0.5)
    assert shares[Phase.COMPUTE] == pytest.approx(0.25)
    assert shares[Phase.SEND] == pytest.approx(0.125)


def test_an_evaluation_takes_its_share_of_the_time(ring):
    ring.begin()
    ring.look()
    ring.iterate(0, 10)
    for sink in ring.sinks.values():
        sink.evaluation(Evaluation(10, {"loss": 0.5, "accuracy": 0.75}, seconds=10 * SECONDS))
    ring.look()
    site = ring.site("aachen")
    assert site.shares[Phase.EVALUATE] == pytest.approx(0.5)
    assert site.shares[Phase.WAIT] == pytest.approx(0.25)
    assert (site.accuracy, site.loss) == (0.75, 0.25)


def test_the_neighbour_that_is_waited_for_is_named(ring):
    running(ring)
    assert (ring.site("aachen").waits_for, ring.site("heidelberg").waits_for) == ("bonn", "bonn")
    assert ring.site("aachen").waits_for_share == pytest.approx(0.5)


def test_the_distance_of_the_mesh_is_that_of_all_sites_and_has_an_expected_level(ring):
    running(ring)
    for sink in ring.sinks.values():
        sink.norms(Norms(100, gradient=1.0, innovation=0.01))
    ring.look()
    consensus = ring.run().consensus
    assert consensus.distance == pytest.approx(0.1 * math.sqrt(3))
    assert consensus.expected_level == pytest.approx(2 * 0.01 * math.sqrt(3) / (1 - 0.5))
    assert consensus.predicted_contraction == 0.5


def test_the_distance_of_the_mesh_is_not_told_while_a_site_is_silent(ring):
    running(ring)
    ring.silent.add("bonn")
    ring.look()
    assert ring.run().consensus.distance is None
    assert ring.run().state is RunState.RUNNING


def test_contraction_is_measured_while_the_distance_falls(ring):
    ring.begin()
    ring.iterate(0, 10, distance=1.0)
    ring.look()
    ring.iterate(10, 10, distance=0.6**10)
    ring.look()
    assert ring.run().consensus.measured_contraction == pytest.approx(0.6)


@pytest.mark.parametrize(("distance", "innovation"), [(0.9, 0.0), (0.01, 0.01), (1e-8, 0.0)])
def test_contraction_is_not_measured_where_steps_or_round_off_keep_the_distance(ring, distance, innovation):
    ring.begin()
    ring.iterate(0, 10, distance=1.0)
    ring.look()
    ring.iterate(10, 10, distance=distance)
    for sink in ring.sinks.values():
        sink.norms(Norms(20, None, innovation))
    ring.look()
    assert ring.run().consensus.measured_contraction is None


def test_a_run_that_stands_still_does_no_iterations(ring, monkeypatch):
    running(ring)
    for _ in range(6):
        ring.look()
    assert ring.site("bonn").iterations_per_second == 0
    assert ring.site("bonn").sent_bytes_per_second == 0


def test_where_an_iteration_takes_longer_than_the_looks_its_pace_is_that_of_the_run(ring, monkeypatch):
    running(ring)
    for _ in range(6):
        ring.look()
    monkeypatch.setattr(
        "flaremesh.deploy.watch.scrapes.time", SimpleNamespace(time=lambda: ring.time() + SECONDS)
    )
    assert ring.site("bonn").iterations_per_second == pytest.approx(1 / SECONDS)


def test_the_next_run_in_a_slot_is_not_measured_against_the_last_one(ring):
    running(ring)
    ring.begin("run-2")
    ring.iterate(0, 10)
    ring.look()
    ring.iterate(10, 10)
    ring.look()
    assert ring.run().run_id == "run-2"
    assert ring.site("bonn").iterations_per_second == pytest.approx(PACE)


def test_the_next_attempt_of_a_run_is_shown_by_the_runs_id_and_not_measured_against_the_last_one(ring):
    running(ring)
    ring.begin(attempt="job-2")
    ring.iterate(40, 10)
    ring.look()
    ring.iterate(50, 10)
    ring.look()
    run = ring.run()
    assert (run.run_id, run.attempt, run.iteration) == ("run-1", "job-2", 60)
    assert ring.site("bonn").iterations_per_second == pytest.approx(PACE)


def test_a_site_that_still_shows_a_lost_attempt_does_not_make_its_run_a_failure(ring):
    running(ring)
    ring.sinks["aachen"].state(RunState.FAILED)
    ring.begin(sites=("bonn", "heidelberg"), attempt="job-2")
    ring.iterate(40, 10)
    ring.missing["aachen"] = ring.time()
    ring.look()
    assert (ring.run().attempt, ring.run().state) == ("job-2", RunState.RUNNING)


def test_two_runs_at_once_are_both_shown(ring):
    ring.begin("run-1", ("heidelberg",))
    ring.begin("run-2", ("bonn", "aachen"))
    ring.look()
    assert {run.run_id for run in ring.view().runs} == {"run-1", "run-2"}


def test_the_last_run_stays_when_it_has_ended(ring):
    running(ring)
    for sink in ring.sinks.values():
        sink.state(RunState.FINISHED)
    ring.look()
    run = ring.run()
    assert (run.state, run.active, run.iteration) == (RunState.FINISHED, False, 100)
    assert ring.site("bonn").iterations_per_second is None


def test_a_run_that_failed_at_one_site_has_failed(ring):
    running(ring)
    ring.sinks["aachen"].state(RunState.FAILED)
    ring.look()
    assert ring.run().state is RunState.FAILED


def test_the_server_relays_what_grew_since_the_first_look(ring):
    ring.look(when=10)
    ring.relayed = 4000
    ring.look(when=12)
    server = ring.view(12).server
    assert (server.ready, server.registered_sites, server.running_jobs) == (True, 3, 1)
    assert server.relay_bytes_per_second == 2000


def test_who_did_not_answer_is_known_and_nothing_of_before_is_shown(ring):
    running(ring)
    ring.silent.add("bonn")
    ring.look()
    assert not ring.site("bonn").answers
    assert ring.site("bonn").iteration is None


def test_who_says_nothing_for_long_is_silent(ring):
    ring.look(when=0)
    assert all(site.answers for run in ring.view(5).runs for site in run.sites)
    assert not ring.view(60).up


def test_a_site_that_cannot_be_asked_is_shown_as_far_as_the_server_tells(ring):
    ring.begin()
    ring.silent.add("aachen")
    ring.sharing.add("aachen")
    ring.iterate(0, 40)
    ring.look()
    ring.iterate(40, 60)
    ring.look()
    site = ring.site("aachen")
    assert (site.answers, site.iteration, site.state) == (True, 100, RunState.RUNNING)
    assert site.iterations_per_second == pytest.approx(PACE)
    assert ring.run().consensus.distance == pytest.approx(0.1 * math.sqrt(3))


# the page


@pytest.mark.parametrize("coloured", [True, False])
def test_a_page_of_100_columns_shows_everything(ring, coloured):
    running(ring)
    text = page(ring.view(), 100, coloured)
    for told in (*SITES, "running", "run-1", "dgd", "100", "400", "0.25", "1.0e-01", "2 direct", "100k/100k"):
        assert told in text
    assert "bonn 50%" in text


@pytest.mark.parametrize("width", [40, 60, 80, 100, 140])
def test_no_line_is_wider_than_the_terminal(ring, width):
    running(ring)
    lines = page(ring.view(), width).splitlines()
    assert max(map(len, lines)) <= width
    assert any(line.startswith("aachen") for line in lines)


def test_a_narrow_terminal_drops_the_least_important_columns(ring):
    running(ring)
    narrow, wide = page(ring.view(), 60), page(ring.view(), 100)
    assert "in/out" in wide
    assert "in/out" not in narrow
    assert "it/s" in narrow


def test_a_bar_has_the_shares_of_the_phases(ring):
    running(ring)
    assert "ccsswwwww·" in page(ring.view(), 100)


def test_a_column_that_would_be_empty_is_left_out(ring):
    running(ring)
    assert "nan" not in page(ring.view(), 100)
    assert " acc " not in page(ring.view(), 100)
    ring.iterate(100, 3, distance=math.nan, loss=math.inf)
    ring.look()
    text = page(ring.view(), 100)
    assert " nan " in text
    assert "bonn: NaN or infinite values in 3 iterations" in text


def test_a_relay_that_nobody_wanted_is_told(ring):
    running(ring)
    ring.traffic["bonn"].linked("aachen", LinkKind.RELAY, wanted=LinkKind.DIRECT)
    ring.look()
    text = page(ring.view(), 100)
    assert "1 direct, 1 relayed" in text
    assert "bonn: relayed to aachen, for want of a better way" in text


def test_who_is_missing_from_a_run_is_told_although_it_answers(ring, monkeypatch):
    monkeypatch.setattr("flaremesh.cli.screen.time", SimpleNamespace(time=ring.time, strftime=time.strftime))
    running(ring)
    ring.missing["aachen"] = ring.time() - 125
    ring.look()
    assert [(told.run_id, told.site) for told in ring.view().missing] == [("run-1", "aachen")]
    assert "aachen has been missing from run run-1 for 2 min 5 s" in page(ring.view(), 100)


def test_a_run_between_two_attempts_waits_whatever_became_of_the_last_one(ring):
    running(ring)
    for sink in ring.sinks.values():
        sink.state(RunState.FAILED)
    ring.missing["bonn"] = ring.time()
    ring.silent.add("bonn")
    ring.look()
    assert (ring.run().run_id, ring.run().state) == ("run-1", RunState.WAITING)
    text = page(ring.view(), 100)
    assert "bonn has been missing from run run-1" in text
    assert "Nothing runs" not in text


def test_a_site_that_a_run_misses_and_that_does_not_answer_is_silent(ring):
    ring.missing["bonn"] = 7.0
    ring.silent.add("bonn")
    ring.look()
    assert not ring.site("bonn").answers


def test_an_idle_mesh_says_how_to_start_a_run(ring):
    ring.look()
    text = page(ring.view(), 100)
    assert "Nothing runs. Start a run: flaremesh run ring.yaml" in text
    assert text.count("idle") == len(SITES)


def test_a_mesh_that_is_down_says_how_to_start_it(ring):
    ring.silent.update((SERVER, *SITES))
    ring.look()
    text = page(ring.view(), 100)
    assert "Nothing of this mesh answers. Start it: flaremesh up ring.yaml" in text
    assert text.count("no answer") == len(SITES)


def test_a_problem_with_asking_is_told(ring):
    running(ring)
    view = ring.view()
    sites = [replace(site, answers=False, problem="kubectl is not installed") for site in view.runs[0].sites]
    broken = replace(view, runs=[replace(view.runs[0], sites=sites)])
    assert "bonn: kubectl is not installed" in page(broken, 100)
