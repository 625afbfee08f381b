"""Names and help of all metrics keep to Prometheus' conventions."""

import re

import pytest

from flaremesh.metrics.names import DURATION_BUCKETS, AgentMetric, RunMetric

DECLARED = [member.value for members in (RunMetric, AgentMetric) for member in members]
TARGET_LABELS = {"site", "cluster", "zone", "env", "stage", "service", "instance", "job"}
BASE_UNITS = ("seconds", "bytes", "ratio")
OTHER_UNITS = re.compile(r"_(milliseconds|ms|minutes|hours|kilobytes|megabytes|mib|percent|perc)(_|$)")


@pytest.fixture(params=DECLARED, ids=lambda metric: metric.name)
def metric(request):
    return request.param


def test_a_name_is_lower_case_words_under_the_prefix(metric):
    assert re.fullmatch(r"flaremesh(_[a-z]+)+", metric.full_name)


def test_a_counter_and_only_a_counter_ends_in_total(metric):
    assert metric.name.endswith("_total") == (metric.kind == "counter")


def test_units_are_base_units_at_the_end_of_the_name(metric):
    assert not OTHER_UNITS.search(metric.name)
    stem = metric.name.removesuffix("_total")
    assert all(stem.endswith(unit) for unit in BASE_UNITS if unit in stem.split("_"))


def test_a_histogram_measures_seconds(metric):
    assert metric.kind != "histogram" or metric.name.endswith("_seconds")


def test_a_point_in_time_is_a_timestamp(metric):
    assert ("timestamp" in metric.name) == metric.name.endswith("_timestamp_seconds")


def test_the_help_is_a_sentence(metric):
    assert metric.help[0].isupper() or metric.help[0].isdigit()
    assert metric.help.endswith(".")


def test_no_label_is_one_that_a_scraper_sets(metric):
    shows_other_sites = {AgentMetric.SHARED.value, AgentMetric.RUN_MISSING_SINCE.value}
    assert TARGET_LABELS & set(metric.labels) == ({"site"} if metric in shows_other_sites else set())


def test_the_run_id_stands_on_one_metric_only_besides_what_a_few_runs_have():
    assert [metric.name for metric in DECLARED if "run_id" in metric.labels] == [
        RunMetric.INFO.value.name,
        AgentMetric.RUN_MISSING_SINCE.value.name,
    ]


def test_names_are_unique():
    assert len({metric.name for metric in DECLARED}) == len(DECLARED)


def test_buckets_rise_from_half_a_millisecond_to_five_minutes():
    assert (DURATION_BUCKETS[0], DURATION_BUCKETS[-1]) == (0.0005, 300.0)
    assert list(DURATION_BUCKETS) == sorted(set(DURATION_BUCKETS))
