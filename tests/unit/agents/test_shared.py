"""Metrics that sites share with the server: what leaves a site, and what the server shows."""

import json
import logging
import math
import queue
from logging.handlers import QueueHandler

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as strictly_parsed
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from flaremesh.metrics.names import DURATION_BUCKETS, SHAREABLE, RunMetric
from flaremesh.p2p.agents import shared
from flaremesh.p2p.agents.shared import FRESH_SECONDS, PERIOD_SECONDS, SharedMetrics, Sharing, permitted

SECONDS = 10.0  # for a thread to do its work
LOSS = ["train_loss", {"slot": "0"}, [0.5]]


class Families(Collector):
    def __init__(self, *families):
        self._families = families

    def collect(self):
        return self._families


def gauge(name, value, **labels):
    family = GaugeMetricFamily(f"flaremesh_{name}", "Help.", labels=list(labels))
    family.add_metric(list(labels.values()), value)
    return family


def counter(name, value, **labels):
    family = CounterMetricFamily(f"flaremesh_{name}", "Help.", labels=list(labels))
    family.add_metric(list(labels.values()), value)
    return family


def histogram(name, **labels):
    family = HistogramMetricFamily(f"flaremesh_{name}", "Help.", labels=list(labels))
    buckets = [(floatToGoString(bound), float(bound >= 0.5)) for bound in (*DURATION_BUCKETS, math.inf)]
    family.add_metric(list(labels.values()), buckets, 0.3)
    return family


def sent(*families, share):
    """What a site with these families sends first."""
    messages = queue.SimpleQueue()
    Sharing([Families(*families)], share, messages.put)
    return json.loads(messages.get(timeout=SECONDS))


def page(metrics):
    registry = CollectorRegistry(support_collectors_without_names=True)
    registry.register(metrics)
    return generate_latest(registry).decode()


def values_of(families, **labels):
    """By name and further labels, what has these labels; as text, for NaN is not NaN."""
    return {
        (sample.name, frozenset(sample.labels.items() - labels.items())): str(sample.value)
        for family in families
        for sample in family.samples
        if labels.items() <= sample.labels.items() and "shared_metrics" not in sample.name
    }


def series(metrics, name):
    """The values of all series of this name, by their labels in alphabetical order."""
    return {
        tuple(sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(page(metrics))
        for sample in family.samples
        if sample.name == f"flaremesh_{name}"
    }


@pytest.fixture
def server():
    return SharedMetrics([Families(gauge("ready", 1))])


@pytest.fixture
def clock(monkeypatch):
    class Clock:
        now = 1000.0

        def time(self):
            return self.now

        monotonic = time

    clock = Clock()
    monkeypatch.setattr(shared, "time", clock)
    return clock


@pytest.fixture
def complaints():
    """What is logged from now on."""
    records = queue.SimpleQueue()
    handler = QueueHandler(records)
    logging.getLogger(shared.__name__).addHandler(handler)
    yield records
    logging.getLogger(shared.__name__).removeHandler(handler)


# what leaves a site


def test_a_site_shares_what_its_kit_lists():
    assert permitted(["train_loss", "ready"], None) == {"train_loss", "ready"}


@pytest.mark.parametrize("admin", ["off", "", " ", ","])
def test_nothing_is_shared_where_the_sites_admin_says_no(admin):
    assert permitted(["train_loss", "ready"], admin) == set()


def test_the_sites_admin_can_take_metrics_away(caplog):
    assert permitted(["train_loss", "ready"], "ready, train_loss") == {"train_loss", "ready"}
    assert permitted(["train_loss", "ready"], "ready") == {"ready"}
    assert caplog.text == ""


@pytest.mark.parametrize("admin", ["ready,gradient_norm", "ready, on"])
def test_the_sites_admin_cannot_add_metrics_and_is_told_so(caplog, admin):
    assert permitted(["train_loss", "ready"], admin) == {"ready"}
    assert admin[-2:] in caplog.text


def test_a_site_sends_the_listed_metrics_and_no_other():
    families = [
        gauge("train_loss", 0.5, slot="0"),
        gauge("validation_loss", 0.25, slot="0"),
        counter("iterations_total", 7.0, slot="0"),
        counter("sent_bytes_total", 8.0, slot="0", peer="ulm"),
        histogram("iteration_duration_seconds", slot="0"),
        histogram("phase_duration_seconds", slot="0", phase="mix"),
    ]
    listed = ["train_loss", "iterations_total", "iteration_duration_seconds"]
    assert [name for name, _, _ in sent(*families, share=listed)] == listed


def test_news_are_sent_without_waiting_for_the_end_of_the_period():
    messages = queue.SimpleQueue()
    sharing = Sharing([Families(gauge("train_loss", 0.5, slot="0"))], ["train_loss"], messages.put)
    messages.get(timeout=SECONDS)
    sharing.soon()
    messages.get(timeout=PERIOD_SECONDS / 2)


def test_a_site_says_so_when_it_has_more_to_share_than_the_server_takes(complaints):
    messages = queue.SimpleQueue()
    families = [gauge("mixing_weight", 0.1, slot="0", peer=f"site-{i}") for i in range(5001)]
    site = Families(*families)
    sharing = Sharing([site], ["mixing_weight"], messages.put)
    assert "share fewer metrics" in complaints.get(timeout=SECONDS).getMessage()
    site._families = families[:5000]
    sharing.soon()
    assert len(json.loads(messages.get(timeout=SECONDS))) == 5000


# what the server shows


def test_the_server_shows_what_a_site_shares_under_its_name(server):
    server.take("bonn", json.dumps([LOSS]).encode())
    assert series(server, "train_loss") == {(("site", "bonn"), ("slot", "0")): 0.5}


def test_the_server_shows_the_series_that_the_site_shows(server):
    families = [
        gauge("ready", 1.0),
        gauge("train_loss", float("nan"), slot="0"),
        counter("iterations_total", 7.0, slot="0"),
        histogram("phase_duration_seconds", slot="0", phase="mix"),
    ]
    server.take("bonn", json.dumps(sent(*families, share=list(SHAREABLE))).encode())
    shown = list(text_string_to_metric_families(page(server)))
    assert values_of(shown, site="bonn") == values_of(families)


def test_a_family_of_several_sites_and_the_server_stands_once_on_the_page(server):
    for site in ("bonn", "ulm"):
        server.take(site, b'[["ready", {}, [0]], ["iterations_total", {"slot": "0"}, [7]]]')
    assert page(server).count("# TYPE flaremesh_ready gauge") == 1
    assert page(server).count("# TYPE flaremesh_iterations_total counter") == 1
    assert series(server, "ready") == {(): 1, (("site", "bonn"),): 0, (("site", "ulm"),): 0}


def test_what_a_site_sends_replaces_what_it_sent_before(server):
    server.take("bonn", b'[["train_loss", {"slot": "0"}, [1]], ["ready", {}, [1]]]')
    server.take("bonn", b'[["train_loss", {"slot": "0"}, [2]]]')
    assert list(series(server, "train_loss").values()) == [2]
    assert list(series(server, "ready")) == [()]


def test_the_values_of_a_silent_site_vanish_and_its_last_time_stays(server, clock):
    server.take("bonn", json.dumps([LOSS]).encode())
    clock.now += FRESH_SECONDS
    assert series(server, "train_loss")
    clock.now += 0.1
    assert not series(server, "train_loss")
    assert series(server, "shared_metrics_timestamp_seconds") == {(("site", "bonn"),): 1000.0}


# what a site could send

HISTOGRAM = "iteration_duration_seconds"
COUNTS = [0.0] * len(DURATION_BUCKETS)
NOT_OURS = {
    "a metric of another program": ["up", {}, [1]],
    "an unknown metric": ["patients", {}, [1]],
    "a metric of the server": ["registered_sites", {}, [99]],
    "another site's time": ["shared_metrics_timestamp_seconds", {"site": "ulm"}, [1]],
    "a site of its choice": ["train_loss", {"slot": "0", "site": "server"}, [1]],
    "a target's label": ["ready", {"instance": "x"}, [1]],
    "a label too few": ["train_loss", {}, [1]],
    "a label that ends the line": ["train_loss", {"slot": '0"} 1\nup{site="ulm'}, [1]],
    "a label that ends the page": ["train_loss", {"slot": "\0"}, [1]],
    "a label's name that is none": ["train_loss", {'slot="0"} 1 #': "0"}, [1]],
    "a name with a line's end": ["ready 1\nup", {}, [1]],
    "no value": ["ready", {}, []],
    "two values": ["ready", {}, [0, 1]],
    "a counter that falls below nothing": ["iterations_total", {"slot": "0"}, [-1]],
    "an infinite counter": ["iterations_total", {"slot": "0"}, [math.inf]],
    "a counter that is no number": ["iterations_total", {"slot": "0"}, [math.nan]],
    "a histogram with a bucket too few": [HISTOGRAM, {"slot": "0"}, [*COUNTS, 0.5]],
    "a histogram that falls": [HISTOGRAM, {"slot": "0"}, [7, *COUNTS, 0.5]],
    "a histogram of half an iteration": [HISTOGRAM, {"slot": "0"}, [*COUNTS, 0.5, 1]],
    "a histogram that lasted less than nothing": [HISTOGRAM, {"slot": "0"}, [*COUNTS, 1, -1]],
    "a bucket": [f"{HISTOGRAM}_bucket", {"slot": "0", "le": "0.7"}, [1]],
}


@pytest.mark.parametrize("sample", NOT_OURS.values(), ids=NOT_OURS.keys())
def test_what_is_no_series_of_the_contract_is_left_out(server, sample, caplog):
    before = page(server)
    server.take("bonn", json.dumps([sample, LOSS, sample]).encode())
    assert series(server, "train_loss") == {(("site", "bonn"), ("slot", "0")): 0.5}
    server.take("bonn", json.dumps([sample]).encode())
    shown = [line for line in page(server).splitlines() if "shared_metrics" not in line]
    assert shown == [line for line in before.splitlines() if "shared_metrics" not in line]
    assert len(caplog.records) == 1
    assert "bonn" in caplog.text


RUBBISH = {
    "nothing": b"",
    "binary": bytes(range(256)),
    "a page": b"flaremesh_ready 1\n",
    "no list": b'{"ready": [1]}',
    "deep": b"[" * 100_000,
    "endless number": b'[["ready", {}, [' + b"9" * 5000 + b"]]]",
    "half a character": b'[["train_loss", {"slot": "\\ud800"}, [1]]]',
    "too many points": json.dumps([LOSS] * 5001).encode(),
    "too many series": json.dumps([[HISTOGRAM, {"slot": "0"}, [*COUNTS, 1, 1]]] * 300).encode(),
    "too many values": json.dumps([["ready", {}, [1] * 21]]).encode(),
    "too many bytes": b"[" + b" " * (1 << 20) + b"]",
}


@pytest.mark.parametrize("message", RUBBISH.values(), ids=RUBBISH.keys())
def test_rubbish_is_logged_once_and_changes_nothing(server, message, caplog):
    server.take("ulm", json.dumps([LOSS]).encode())
    before = page(server)
    for _ in range(3):
        server.take("bonn", message)
        server.take("ulm", message)
    assert page(server) == before
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * 2
    assert len(caplog.text) < 1500


def test_a_series_that_is_sent_twice_is_shown_once(server):
    server.take("bonn", json.dumps([LOSS, LOSS]).encode())
    assert page(server).count("flaremesh_train_loss{") == 1


@st.composite
def points(draw):
    """Of the contract, or nearly."""
    name, member = draw(st.sampled_from(list(SHAREABLE.items())))
    labels = [*(["slot"] if isinstance(member, RunMetric) else []), *member.value.labels]
    point = {label: draw(st.text(max_size=3)) for label in labels}
    values = draw(st.lists(st.floats(), min_size=1, max_size=1))
    if member.value.kind == "histogram":
        counts = st.lists(st.integers(0, 9), min_size=len(COUNTS) + 1, max_size=len(COUNTS) + 1)
        values = sorted(draw(counts))
        values.append(draw(st.floats()))
    if draw(st.integers(0, 4)) == 0:
        point |= draw(st.dictionaries(st.text(max_size=3), st.text(max_size=3), max_size=1))
        values = values[draw(st.integers(0, 1)) :]
        name += draw(st.text(max_size=1))
    return name, point, values


@settings(deadline=None)  # pages of many families take their time
@given(st.lists(points(), max_size=8), st.binary(max_size=64))
def test_the_page_is_valid_whatever_sites_send(sent, noise):
    server = SharedMetrics([Families(gauge("ready", 1))])
    server.take("bonn", json.dumps(sent).encode())
    server.take("ulm", noise)
    registry = CollectorRegistry(support_collectors_without_names=True)
    registry.register(server)
    strict = list(strictly_parsed(generate_openmetrics(registry).decode()))
    assert len({family.name for family in strict}) == len(strict)
    assert all(
        sample.labels.get("site") in (None, "bonn", "ulm") for family in strict for sample in family.samples
    )
