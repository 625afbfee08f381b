"""What a site's own policy lets in, rule by rule, and how its mistakes are reported."""

import re
from datetime import datetime
from pathlib import Path
from textwrap import dedent
from zoneinfo import ZoneInfo

import pytest

from flaremesh.p2p.gate import policy
from flaremesh.p2p.gate.policy import PolicyError
from flaremesh.sandbox import landlock
from flaremesh.topology.links import LinkKind
from flaremesh.topology.schema import Privacy

A, B = "a" * 64, "b" * 64


def budget(**said):
    usual = {"epsilon": 8, "delta": 1e-5, "clip": 1.0, "sigma": 4.0, "secure_aggregation": True}
    return Privacy.model_validate(usual | said)


RULES = {
    "submitters by email": ("submitters: {emails: [lead@consortium.org]}", {"submitter": "eve@example.org"}),
    "submitters by organisation": ("submitters: {orgs: [consortium]}", {"org": "elsewhere"}),
    "submitters by role": ("submitters: {roles: [lead, project_admin]}", {"role": "member"}),
    "submitters, of whom all lists must hold": (
        "submitters: {orgs: [consortium], roles: [lead]}",
        {"role": "project_admin"},
    ),
    "algorithms": ("algorithms: [gtadam, dgd]", {"algorithm": "sgp"}),
    "algorithms of a package": (
        "algorithms: [gtadam, hospital.algorithms]",
        {"algorithm": "hospital.algorithms_too.Mine"},
    ),
    "problems": ("problems: [hospital.models]", {"problem": "hospital.models2.Segmentation"}),
    "problems, of which a file is not a package": ("problems: [hospital]", {"problem": "hospital.models.py"}),
    "code": (f"code: [{A}]", {"code": {"hospital.models": B}}),
    "code, all of it": (f"code: [{A}]", {"code": {"hospital.models": A, "problem.py": B}}),
    "carriers": ("carriers: [direct]", {"links": "relay", "carriers": (LinkKind.RELAY,)}),
    "carriers, with which auto may come to relay": (
        "carriers: [direct]",
        {"links": "auto", "carriers": (LinkKind.DIRECT, LinkKind.RELAY)},
    ),
    "least_sites": ("least_sites: 3", {"sites": ("heidelberg", "bonn")}),
    "least_sites, also of those that may be left": ("least_sites: 3", {"quorum": 2}),
    "least_sites, each counted once": ("least_sites: 3", {"sites": ("bonn", "heidelberg", "bonn")}),
    "privacy, of a run without a budget": ("privacy: {required: [noise]}", {"privacy": Privacy()}),
    "privacy, of a run that masks nothing": (
        "privacy: {required: [masked_start]}",
        {"privacy": budget(masked_start=False)},
    ),
    "privacy, of a run in which neighbours see single vectors": (
        "privacy: {required: [secure_aggregation]}",
        {"privacy": budget(secure_aggregation=False)},
    ),
    "privacy, of which a rule about ε asks for a budget": (
        "privacy: {largest_epsilon: 100}",
        {"privacy": Privacy()},
    ),
    "privacy.largest_epsilon": ("privacy: {largest_epsilon: 8}", {"privacy": budget(epsilon=8.1)}),
    "privacy.largest_delta": ("privacy: {largest_epsilon: 8}", {"privacy": budget(delta=1e-3)}),
    "privacy.least_noise": ("privacy: {least_noise: 4}", {"privacy": budget(sigma=3.9)}),
    "privacy.least_noise, which must be said": ("privacy: {least_noise: 4}", {"privacy": budget(sigma=None)}),
    "privacy.least_curious": (
        "privacy: {largest_epsilon: 8}",
        {"privacy": budget(noise="correlated", curious=0)},
    ),
}


@pytest.mark.parametrize(("text", "breaking"), RULES.values(), ids=RULES)
def test_a_run_that_breaks_a_rule_is_told_its_name_and_any_other_run_passes(
    text, breaking, workspace, request_of
):
    (workspace / "policy.yaml").write_text(text)
    rules = policy.read(workspace)

    assert rules.broken_rule(request_of(privacy=budget())) is None
    assert re.match(rf"{text.partition(':')[0]}[.\w]*: ", rules.broken_rule(request_of(**breaking)))


@pytest.mark.parametrize(
    ("when", "open_"),
    [
        ("2027-03-05T21:00", True),  # Friday
        ("2027-03-06T05:59", True),  # the night of Friday
        ("2027-03-06T06:00", False),
        ("2027-03-06T21:00", False),  # Saturday
        ("2027-03-01T05:00", False),  # the night of Sunday
        ("2027-03-01T12:00", True),
        ("2027-03-01T13:00", False),
    ],
)
def test_a_run_may_begin_within_the_hours_and_a_night_belongs_to_the_day_on_which_it_begins(
    when, open_, workspace, request_of
):
    (workspace / "policy.yaml").write_text(
        "hours: {time_zone: Europe/Berlin, days: [Mon, Fri], times: [20:00-06:00, 12:00-13:00]}"
    )
    now = datetime.fromisoformat(when).replace(tzinfo=ZoneInfo("Europe/Berlin"))

    broken = policy.read(workspace).broken_rule(request_of(), now)

    assert (
        (broken is None) if open_ else broken.startswith("hours: a run may begin on Mon, Fri at 20:00-06:00")
    )


def test_without_a_policy_every_run_passes(workspace, request_of):
    assert policy.read(workspace).broken_rule(request_of()) is None


def test_where_runs_cannot_be_confined_a_policy_that_requires_it_lets_none_in(
    workspace, request_of, monkeypatch
):
    monkeypatch.setattr(landlock, "version", lambda: 0)
    assert policy.read(workspace).broken_rule(request_of()) is None
    (workspace / "policy.yaml").write_text("confinement: required")
    assert policy.read(workspace).broken_rule(request_of()).startswith("confinement: ")


def test_a_policy_that_the_environment_names_must_be_there(workspace, monkeypatch):
    monkeypatch.setenv(policy.POLICY_VARIABLE, str(workspace / "elsewhere.yaml"))

    with pytest.raises(PolicyError, match=r"elsewhere\.yaml.*\n.*No such file"):
        policy.read(workspace)


def test_a_change_holds_from_the_next_decision_on(workspace, request_of):
    (workspace / "policy.yaml").write_text("algorithms: [dgd]")
    assert policy.read(workspace).broken_rule(request_of())
    (workspace / "policy.yaml").write_text("algorithms: [gtadam]")
    assert policy.read(workspace).broken_rule(request_of()) is None


MISTAKES = {
    "a misspelt rule": (
        "approvals: required",
        "line 1: approvals: there is no such field; did you mean approval?",
    ),
    "another value": ("\napproval: yes", "line 2: approval: yes is unknown; write one of required"),
    "an unknown day": (
        "hours:\n  days: [Mon, Fry]",
        "line 2: hours.days[1]: 'Fry' is unknown; did you mean Fri?",
    ),
    "a time that is none": ("hours: {times: [25:00-26:00]}", "'25:00-26:00' is not allowed; expected"),
    "no such zone": ("hours: {time_zone: Mars}", "there is no time zone 'Mars'"),
    "a path as a zone": ("hours: {time_zone: ../../etc/passwd}", "there is no time zone"),
    "an unknown carrier": (
        "carriers: [pigeon]",
        "line 1: carriers[0]: 'pigeon' is unknown; write one of direct, met, relay",
    ),
    "no carrier": ("carriers: []", "0 given, at least 1 needed"),
    "an unknown role": ("submitters: {roles: [king]}", "line 1: submitters.roles[0]: 'king' is unknown"),
    "a digest too short": ("code: [abc]", "line 1: code[0]: 'abc' is not allowed"),
    "a number in words": ("least_sites: three", "least_sites: 'three' is no whole number"),
    "a rule twice": ("least_sites: 3\nleast_sites: 4", "line 2: least_sites: the field is already in line 1"),
    "nothing": ("", "the file is empty; write a rule"),
    "no YAML": ("{", "this is not YAML"),
}


@pytest.mark.parametrize(("text", "words"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_told_with_its_line_and_what_to_write_instead(text, words, workspace):
    (workspace / "policy.yaml").write_text(text)

    with pytest.raises(PolicyError) as raised:
        policy.read(workspace)

    assert words in str(raised.value)
    assert str(workspace / "policy.yaml") in str(raised.value)


def test_a_policy_that_may_not_be_read_refuses_everything(workspace):
    (workspace / "policy.yaml").mkdir()

    with pytest.raises(PolicyError, match="the file is a folder or a device"):
        policy.read(workspace)


def test_the_policy_that_the_documentation_shows_is_one(workspace):
    page = Path(__file__).parents[3] / "docs/site-policy.md"
    (example,) = re.findall(r"^    submitters:.*\n(?:    .*\n)+", page.read_text(), re.MULTILINE)
    (workspace / "policy.yaml").write_text(dedent(example))

    given = policy.read(workspace)

    assert given.model_fields_set == set(type(given).model_fields)
