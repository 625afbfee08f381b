"""Recording rules and alerts: promtool's own tests, and what an alert must bring."""

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from flaremesh.metrics.names import AgentMetric, Metric, RunMetric
from programs import program

REPOSITORY = Path(__file__).parents[2]
CHART = REPOSITORY / "helm" / "flaremesh-monitoring"
RULES = CHART / "files" / "rules.yaml"
RUNBOOKS = REPOSITORY / "docs" / "runbooks.md"
SUITES = sorted(Path(__file__).parent.glob("*.yaml"))

_RULES = [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]
ALERTS = [rule for rule in _RULES if "alert" in rule]
RECORDS = [rule for rule in _RULES if "record" in rule]
_TESTS = [test for suite in SUITES for test in yaml.safe_load(suite.read_text())["tests"]]

every_alert = pytest.mark.parametrize("alert", ALERTS, ids=lambda rule: rule["alert"])
every_record = pytest.mark.parametrize("record", RECORDS, ids=lambda rule: rule["record"])


def _promtool(*arguments: str | Path) -> tuple[int, str]:
    ran = subprocess.run(
        [program("promtool"), *map(str, arguments)], capture_output=True, text=True, timeout=100
    )
    return ran.returncode, ran.stdout + ran.stderr


def _exported() -> set[str]:
    metrics: list[Metric] = [member.value for kind in (RunMetric, AgentMetric) for member in kind]
    suffixes = {"histogram": ("_bucket", "_sum", "_count")}
    return {metric.full_name + suffix for metric in metrics for suffix in suffixes.get(metric.kind, ("",))}


def _names(text: str) -> set[str]:
    """Names of metrics and of records."""
    return set(re.findall(r"[\w:]*\bflaremesh_\w+(?::\w+)?", text))


def test_promtool_finds_nothing_to_improve():
    status, said = _promtool("check", "rules", "--lint=all", "--lint-fatal", RULES)
    assert status == 0, said


@pytest.mark.parametrize("suite", SUITES, ids=lambda suite: suite.stem)
def test_rules_do_what_their_unit_tests_say(suite):
    status, said = _promtool("test", "rules", suite)
    assert status == 0, said


@every_alert
def test_an_alert_says_what_is_wrong_where_and_what_to_do(alert):
    name, annotations = alert["alert"], alert["annotations"]
    assert name.startswith("FlareMesh")
    assert alert["labels"]["severity"] in ("critical", "warning", "info")
    assert annotations.keys() == {"summary", "description", "runbook_url"}
    assert re.fullmatch(r"[A-Z][^.{]*\.", annotations["summary"]), "one sentence that never changes"
    assert "$labels.mesh" in annotations["description"]
    assert annotations["runbook_url"] == f"{RUNBOOKS.relative_to(REPOSITORY)}#{name.lower()}"


def test_the_runbooks_have_a_section_for_every_alert_and_no_other():
    sections = re.findall(r"^## (.*)$", RUNBOOKS.read_text(), re.MULTILINE)
    assert sections == list(dict.fromkeys(alert["alert"] for alert in ALERTS))


def test_the_runbooks_queries_are_promql(tmp_path):
    code = re.findall(r"^    (.*)$", RUNBOOKS.read_text(), re.MULTILINE)
    queries = [line for line in code if not line.startswith(("flaremesh ", "kubectl "))]
    rules = [{"record": f"query:{number}", "expr": query} for number, query in enumerate(queries)]
    file = tmp_path / "queries.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "runbooks", "rules": rules}]}))
    status, said = _promtool("check", "rules", file)
    assert (status, f"{len(queries)} rules found" in said) == (0, True), said


@every_alert
def test_an_alert_is_seen_firing_and_silent(alert):
    name, severity = alert["alert"], alert["labels"]["severity"]
    firing = [
        fires["exp_labels"]
        for test in _TESTS
        for case in test.get("alert_rule_test", ())
        if case["alertname"] == name
        for fires in case["exp_alerts"]
    ]
    assert any(labels["severity"] == severity for labels in firing)
    assert any(name in case["expr"] and "exp_samples" not in case for case in _expressions())


@every_record
def test_a_record_is_tested(record):
    assert any(record["record"] == case["expr"] and "exp_samples" in case for case in _expressions())


@every_record
def test_a_record_is_used(record):
    dashboards = [file.read_text() for file in (CHART / "files" / "dashboards").glob("*.json")]
    texts = [rule["expr"] for rule in _RULES if rule is not record] + dashboards
    assert any(record["record"] in _names(text) for text in texts)


@pytest.mark.parametrize("file", [RULES, RUNBOOKS], ids=lambda file: file.name)
def test_every_name_is_exported_or_recorded(file):
    assert _names(file.read_text()) <= _exported() | {rule["record"] for rule in RECORDS}


def _expressions() -> list[dict[str, Any]]:
    return [case for test in _TESTS for case in test.get("promql_expr_test", ())]
