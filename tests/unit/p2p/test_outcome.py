"""What sites, server and admin tell each other of a run, between versions and where it is spoilt."""

import contextlib
import json
import math
import re
from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flaremesh.metrics.names import RunState
from flaremesh.metrics.sink import Evaluation, Iteration
from flaremesh.p2p.outcome import RUN_RESULT, SITE_RESULT, Graph, RunResult, SiteResult
from flaremesh.p2p.progress import RUN_PROGRESS, SITE_PROGRESS, RunProgress, SiteProgress
from flaremesh.p2p.roster import Roster
from flaremesh.printable import printable
from flaremesh.record import RecordError
from flaremesh.topology.links import Carried
from traced import peak_bytes

ARCHITECTURE = Path(__file__).parents[3] / "docs/architecture.md"
NAMES = st.text(max_size=8).map(printable)
NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
COUNTS = st.integers(0, 1 << 53)
SECONDS = st.floats(0, 1e12)
BYTES = st.dictionaries(NAMES, COUNTS, max_size=2)
RECORDS = st.just(Iteration(1, 0.5, 0.1, 0.2, 0.1, 0.1)) | st.just(Evaluation(1, {"loss": 0.5}))
SITES = st.builds(
    SiteResult,
    COUNTS,
    st.dictionaries(NAMES, NUMBERS, max_size=2),
    st.none() | SECONDS,
    BYTES,
    BYTES,
    st.dictionaries(NAMES, st.sampled_from(list(Carried)), max_size=2),
    st.lists(RECORDS, max_size=2),
    st.sampled_from([None, "target", "plateau"]),
)
RESULTS = st.builds(
    RunResult,
    NAMES,
    st.sampled_from([RunState.FINISHED, RunState.FAILED, RunState.ABORTED, "unfinished"]),
    sites=st.dictionaries(NAMES, SITES, max_size=2),
    reason=st.none() | NAMES,
    ended=st.none() | NAMES,
    predicted_contraction=st.none() | NUMBERS,
    graph=st.none() | st.just(Graph(["bonn", "ulm"], [[[0.5, 0.5], [0.5, 0.5]]])),
)
PROGRESS_FIELDS = [field.name for field in fields(SiteProgress)]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(PROGRESS_FIELDS) | st.text(), inner),
)
PROGRESS = st.builds(
    SiteProgress,
    COUNTS,
    st.none() | NUMBERS,
    st.none() | SECONDS,
    st.dictionaries(NAMES, NUMBERS, max_size=2),
    panic=st.none() | NAMES,
    stopped=st.booleans(),
)


@given(result=RESULTS)
def test_a_result_is_read_as_it_was_written(result):
    assert RUN_RESULT.read(RUN_RESULT.json(result), "the file") == result
    assert RUN_RESULT.of(RUN_RESULT.data(result), "the answer") == result


@given(sites=st.dictionaries(NAMES, PROGRESS, max_size=3), result=st.none() | RESULTS)
def test_progress_is_read_as_it_was_told(sites, result):
    progress = RunProgress(RunState.RUNNING, sites, result)
    assert RUN_PROGRESS.of(RUN_PROGRESS.data(progress), "the server") == progress
    for site in sites.values():
        assert SITE_PROGRESS.read(SITE_PROGRESS.json(site), "bonn") == site


def test_a_result_file_has_the_fields_of_the_record_and_is_json_for_others_too():
    site = SiteResult(metrics={"loss": math.nan})
    text = RUN_RESULT.json(RunResult("run-1", RunState.FINISHED, sites={"bonn": site}))
    document = json.loads(text, parse_constant=pytest.fail)
    assert list(document) == [field.name for field in fields(RunResult)]
    assert list(document["sites"]["bonn"]) == [field.name for field in fields(SiteResult)]
    assert document["sites"]["bonn"]["metrics"] == {"loss": None}


@pytest.mark.parametrize(
    ("introduced_by", "record"),
    [
        ("Of an iteration:", Iteration),
        ("Of an evaluation:", Evaluation),
        ("[RunResult](../src/flaremesh/p2p/outcome.py):", RunResult),
        ("Of each of its `sites`:", SiteResult),
    ],
)
def test_the_documentation_lists_the_fields_of_a_record(introduced_by, record):
    text = " ".join(ARCHITECTURE.read_text().split())
    listed = re.findall(r"`(\w+)`", text.partition(introduced_by)[2].partition(". ")[0])
    assert listed == [field.name for field in fields(record)]


def test_a_result_of_another_version_is_read_with_what_it_has():
    told = '{"run_id": "run-1", "outcome": "finished", "sites": {"bonn": {"iterations": 3}}, "moon": "full"}'
    assert RUN_RESULT.read(told, "the file") == RunResult(
        "run-1", RunState.FINISHED, sites={"bonn": SiteResult(iterations=3)}
    )


@pytest.mark.parametrize(
    ("spoilt", "mistake"),
    [
        ("{", "Invalid JSON"),
        ("[]", "Input should be"),
        ('{"outcome": "finished"}', "run_id: Field required"),
        ('{"run_id": "1", "outcome": "superb"}', "outcome: Input should be"),
        ('{"run_id": "1", "outcome": "running"}', "outcome: Input should be"),
        (
            '{"run_id": "1", "outcome": "failed", "sites": {"bonn": {"iterations": "many"}}}',
            "sites.bonn.iter",
        ),
        (
            '{"run_id": "1", "outcome": "failed", "graph": {"sites": ["bonn"], "matrices": [[[1, 2]]]}}',
            "graph: Value error, a matrix has not 1 rows and columns",
        ),
    ],
)
def test_a_spoilt_result_is_refused_in_one_sentence(spoilt, mistake):
    with pytest.raises(RecordError) as refusal:
        RUN_RESULT.read(spoilt, "build/ring/runs/1/result.json")
    said = str(refusal.value)
    assert said.startswith(f"build/ring/runs/1/result.json is not the result of a run: {mistake}")
    assert "\n" not in said


@pytest.fixture
def roster():
    return Roster(["bonn", "ulm"], planned=300)


@pytest.fixture
def dropped(roster, caplog):
    """Whether a report of a site changes nothing, and that is logged with the site's name."""

    def is_dropped(site, data):
        before = dict(roster.progress)
        caplog.clear()
        return roster.hear(site, data) is None and roster.progress == before and site in caplog.text

    return is_dropped


def test_a_sites_reply_is_its_result(roster):
    told = SiteResult(3, {"loss": 0.5}, history=[Evaluation(3, {"loss": 0.5})])
    roster.end("bonn", {"algorithm": "dgd", **SITE_RESULT.data(told)})
    assert (roster.result("bonn"), roster.algorithm, roster.ended) == (told, "dgd", {"bonn"})


def test_a_reply_that_cannot_be_read_is_no_end(roster):
    with pytest.raises(RecordError, match="what bonn replies is not the result of a site: iterations: "):
        roster.end("bonn", SITE_RESULT.data(SiteResult(3)) | {"iterations": "many"})
    assert roster.ended == set()


def test_an_algorithm_that_is_no_name_is_nobodys_word(roster):
    roster.end("bonn", SITE_RESULT.data(SiteResult(3)) | {"algorithm": {"of": "mine"}})
    assert (roster.algorithm, roster.ended) == (None, {"bonn"})


def test_an_algorithm_with_a_name_of_any_length_leaves_the_result_readable(roster):
    roster.end("bonn", SITE_RESULT.data(SiteResult(3)) | {"algorithm": "\x1b" * 10_000})
    result = RunResult("run-1", "finished", algorithm=roster.algorithm)
    assert RUN_RESULT.read(RUN_RESULT.json(result), "result.json") == result


def test_a_number_too_long_to_calculate_with_is_refused(roster, dropped):
    count = 10**400
    assert dropped("bonn", b'{"iteration": %d}' % count)
    for figure in ({"iterations": count}, {"iterations": 1, "sent_bytes": {"ulm": count}}):
        with pytest.raises(RecordError, match="what bonn replies is not the result of a site: "):
            roster.end("bonn", figure)


def test_words_with_an_undecodable_byte_are_told_all_the_same(roster):
    path = b"data/caf\xe9.csv".decode(errors="surrogateescape")
    panic = roster.hear("bonn", SITE_PROGRESS.json(SiteProgress(panic=f"cannot read {path}")).encode())
    assert panic == r"cannot read data/caf\udce9.csv"
    failed = RunResult("1", RunState.FAILED, reason=f"bonn: cannot read {path}")
    assert RUN_RESULT.read(RUN_RESULT.json(failed), "result.json").reason == f"bonn: {panic}"


def test_a_site_that_replies_no_result_is_known_by_what_it_told_last(roster):
    roster.hear("bonn", SITE_PROGRESS.json(SiteProgress(2, metrics={"mae": 0.5})).encode())
    roster.end("bonn", {"of": "another family"})
    assert (roster.result("bonn"), roster.ended) == (SiteResult(2, {"mae": 0.5}), {"bonn"})


def test_progress_that_cannot_be_read_leaves_what_was_told_before(roster, dropped):
    roster.hear("bonn", SITE_PROGRESS.json(SiteProgress(2)).encode())
    assert dropped("bonn", b"\xff")
    assert roster.latest("bonn").iteration == 2


@pytest.mark.parametrize(
    "lie",
    [
        {"waits_for": "moon"},
        {"links": {"moon": "relayed"}},
        {"links": {"ulm": "[red]"}},
        {"seconds_per_iteration": -1},
        {"iteration": -1},
        {"iteration": [1]},
        {"metrics": dict.fromkeys(map(str, range(10_000)), 1.0)},
        {"metrics": {"m" * 10_000: 1.0}},
        {"panic": {"of": "the moon"}},
        {"panic": "p" * (1 << 20)},
    ],
    ids=lambda lie: str(lie)[:40],
)
def test_a_lie_is_dropped_with_the_name_of_who_told_it(dropped, lie):
    assert dropped("bonn", json.dumps(lie).encode())


def test_a_lie_of_many_entries_costs_no_memory(roster):
    lie = {"iterations": 1, "metrics": dict.fromkeys(map(str, range(300_000)), "x")}

    def refuse():
        with pytest.raises(
            RecordError, match="metrics: Value error, there are 300000 entries, and 256 are the most"
        ):
            roster.end("bonn", lie)

    assert peak_bytes(refuse) < 1 << 20


def test_a_site_that_lies_again_is_not_logged_again(roster, caplog):
    for _ in range(3):
        roster.hear("bonn", b"{")
        roster.hear("ulm", b"{")
    assert len(caplog.records) == 2


def test_nobody_is_further_than_the_run(roster):
    roster.hear("bonn", b'{"iteration": 1000000000000}')
    roster.end("ulm", {"iterations": 10**12})
    assert (roster.latest("bonn").iteration, roster.result("ulm").iterations) == (300, 300)


def test_a_site_that_panics_twice_ends_the_run_once(roster):
    told = [
        roster.hear("bonn", json.dumps({"panic": panic}).encode()) for panic in ("a", None, "b", None, "c")
    ]
    assert told == ["a", None, None, None, None]


@pytest.mark.parametrize("figure", [{"sent_bytes": {"moon": 1}}, {"links": {"moon": "direct"}}])
def test_a_result_that_names_strangers_is_none(roster, figure):
    with pytest.raises(RecordError, match="what bonn tells names others than the sites of the run"):
        roster.end("bonn", {"iterations": 3, **figure})


@given(data=st.binary() | JSON.map(lambda told: json.dumps(told).encode()))
def test_nothing_that_a_site_tells_harms_the_controller(data):
    roster = Roster(["bonn", "ulm"], planned=3)
    roster.hear("bonn", data)
    told = RUN_PROGRESS.data(RunProgress(RunState.RUNNING, roster.progress))
    assert str(told).isprintable()


@settings(max_examples=50)
@given(reply=st.dictionaries(st.sampled_from([field.name for field in fields(SiteResult)]), JSON))
def test_nothing_that_a_site_replies_harms_the_controller(reply):
    roster = Roster(["bonn", "ulm"], planned=3)
    with contextlib.suppress(RecordError):
        roster.end("bonn", reply)
    assert str(SITE_RESULT.data(roster.result("bonn"))).isprintable()


def test_a_metric_of_any_name_is_a_metric(roster):
    metrics = dict.fromkeys(["panic", "stopped", "waits_for", "iteration"], 1.0)
    assert roster.hear("bonn", SITE_PROGRESS.json(SiteProgress(1, metrics=metrics)).encode()) is None
    assert roster.result("bonn") == SiteResult(1, metrics)
