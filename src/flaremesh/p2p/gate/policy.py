"""What a site's own admin lets in: ``policy.yaml`` beside the kit, which no provisioning writes.

A policy only narrows what the kit allows.
"""

import hashlib
import os
from collections.abc import Iterator
from datetime import UTC, datetime, time, timedelta, tzinfo
from pathlib import Path
from typing import Annotated, Final, Literal, TypeAlias, get_args
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, Field, StringConstraints, WithJsonSchema

from flaremesh.p2p.gate.request import RunRequest
from flaremesh.sandbox import landlock
from flaremesh.topology.document import Document
from flaremesh.topology.links import LinkKind
from flaremesh.topology.mistakes import LineMistake, MistakenFile, shown
from flaremesh.topology.schema import NUMBER, Closed, Email, Org, Privacy, refusal
from flaremesh.topology.text import Unreadable
from flaremesh.topology.text import read as text_of
from flaremesh.topology.validation import validate

POLICY: Final = "policy.yaml"
"""The file in a site's workspace, and in the folder of its kit."""

POLICY_VARIABLE: Final = "FLAREMESH_POLICY"
"""Environment variable with the path of a policy that is not in the workspace; then there must be one."""

_START = "write a rule, such as approval: required, or remove the file"

Day: TypeAlias = Literal["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"]
Role: TypeAlias = Literal["project_admin", "org_admin", "lead", "member"]
Dotted: TypeAlias = Annotated[str, StringConstraints(pattern=r"^\w+(\.\w+)*$", max_length=200)]
Digest: TypeAlias = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]

_DAYS: tuple[Day, ...] = get_args(Day)
_TIMES = r"^([01]\d|2[0-3]):[0-5]\d-([01]\d|2[0-3]):[0-5]\d$"


class PolicyError(MistakenFile):
    """A site's policy cannot be used."""


def _known_zone(name: str) -> str:
    _zone(name)
    return name


def _zone(name: str) -> tzinfo:
    if name == "UTC":
        return UTC  # known without a database of time zones
    try:
        return ZoneInfo(name)
    except (OSError, ValueError, KeyError):
        raise refusal(
            f"there is no time zone {shown(name)} on this machine", "write one such as Europe/Berlin, or UTC"
        ) from None


class Submitters(Closed):
    """Who may submit runs: whoever is in every list that is given."""

    emails: tuple[Email, ...] | None = Field(None, min_length=1, description="names in admins' certificates")
    orgs: tuple[Org, ...] | None = Field(None, min_length=1, description="their organisations")
    roles: tuple[Role, ...] | None = Field(None, min_length=1, description="their roles")


class Hours(Closed):
    """When a run may begin, by the site's own clock."""

    time_zone: Annotated[str, AfterValidator(_known_zone), WithJsonSchema({"type": "string"})] = Field(
        "UTC", description="time zone of the hours, e.g. Europe/Berlin"
    )
    days: tuple[Day, ...] = Field(_DAYS, min_length=1, description="days of the week: Mon, Tue, ...")
    times: tuple[Annotated[str, StringConstraints(pattern=_TIMES)], ...] = Field(
        ("00:00-00:00",),
        min_length=1,
        description="times of day, e.g. 20:00-06:00; the night belongs to the day on which it begins",
    )

    def include(self, now: datetime) -> bool:
        """Whether ``now``, which knows its time zone, is within the hours."""
        here = now.astimezone(_zone(self.time_zone))
        clock = here.time()
        today, yesterday = (_DAYS[(here - timedelta(days=back)).weekday()] in self.days for back in (0, 1))
        for times in self.times:
            start, end = map(time.fromisoformat, times.split("-"))
            if start < end:
                included = today and start <= clock < end
            else:
                included = (today and start <= clock) or (yesterday and clock < end)
            if included:
                return True
        return False


class DataBudget(Closed):
    """What all runs together may spend of a site's data."""

    epsilon: Annotated[float, Field(gt=0, le=10_000), NUMBER] = Field(description="ε, e.g. 20")
    delta: Annotated[float, Field(gt=0, lt=1), NUMBER] = Field(1e-5, description="δ")


Protection: TypeAlias = Literal["noise", "masked_start", "secure_aggregation"]
"""What of run.privacy may have to be on."""


class PrivacyRules(Closed):
    """What keeps the site's data from others in a run, at least."""

    largest_epsilon: Annotated[float, Field(gt=0, le=10_000), NUMBER] | None = Field(
        None, description="the greatest ε that a run may spend"
    )
    largest_delta: Annotated[float, Field(gt=0, lt=1), NUMBER] = Field(
        1e-5, description="the greatest δ, where ε or noise is asked for"
    )
    least_noise: Annotated[float, Field(gt=0, le=1e9), NUMBER] | None = Field(
        None, description="the least standard deviation of a site's own noise, in units of clip"
    )
    least_curious: Annotated[int, Field(ge=0), NUMBER] = Field(
        1, description="against so many sites that put together what they know ε must hold"
    )
    required: tuple[Protection, ...] = Field(
        (), description="protections that must be on: noise, masked_start, secure_aggregation"
    )
    budget: DataBudget | None = Field(
        None, description="what all runs together may spend of the data: epsilon, delta"
    )
    data: Annotated[str, StringConstraints(pattern=r"^[\w.-]{1,64}$")] = Field(
        "data", description="what the data is called; runs on other data spend another budget"
    )

    def broken(self, asked: Privacy) -> Iterator[str]:
        """The rules that a run breaks, each a sentence that begins with its name."""
        if "masked_start" in self.required and not asked.masked_start:
            yield "privacy: the run sends raw gradients at its start; masked_start of run.privacy must be on"
        if "secure_aggregation" in self.required and not asked.secure_aggregation:
            yield "privacy: neighbours would see single vectors; secure_aggregation of run.privacy must be on"
        noise = (self.largest_epsilon, self.least_noise, self.budget) != (None, None, None)
        if asked.epsilon is None or asked.delta is None:
            if noise or "noise" in self.required:
                yield "privacy: the run has no privacy budget, epsilon, delta and clip of run.privacy"
            return
        if self.largest_epsilon is not None and asked.epsilon > self.largest_epsilon:
            most = f"{self.largest_epsilon:g} is the most"
            yield f"privacy.largest_epsilon: the run may spend ε {asked.epsilon:g}, and {most}"
        if noise and asked.delta > self.largest_delta:
            most = f"{self.largest_delta:g} is the most"
            yield f"privacy.largest_delta: the run has δ {asked.delta:g}, and {most}"
        if self.least_noise is not None and (asked.sigma or 0.0) < self.least_noise:
            has = "does not say its sigma" if asked.sigma is None else f"has a sigma of {asked.sigma:.4g}"
            yield f"privacy.least_noise: the run {has}, and {self.least_noise:g} is the least"
        if noise and asked.noise == "correlated" and asked.curious < self.least_curious:
            yield (
                f"privacy.least_curious: ε holds against {asked.curious} sites of the run, and must against "
                f"{self.least_curious}"
            )


class Policy(Closed):
    """The rules of a site; a rule that is not given allows everything."""

    submitters: Submitters | None = Field(None, description="who may submit: emails, orgs, roles")
    algorithms: tuple[Dotted, ...] | None = Field(
        None, min_length=1, description="names of algorithms, or packages and dotted paths of others"
    )
    problems: tuple[Annotated[str, StringConstraints(pattern=r"^[\w./-]+$", max_length=200)], ...] | None = (
        Field(None, min_length=1, description="packages and dotted paths of problems, or the names of files")
    )
    code: tuple[Digest, ...] | None = Field(
        None, description="SHA-256 of files and modules that a run may bring or name beside flaremesh's own"
    )
    carriers: tuple[LinkKind, ...] | None = Field(
        None, min_length=1, description="how messages may travel: direct, met, relay"
    )
    least_sites: Annotated[int, Field(ge=1), NUMBER] | None = Field(
        None, description="the least number of sites that a run must have"
    )
    hours: Hours | None = Field(None, description="when a run may begin: time_zone, days, times")
    approval: Literal["required"] | None = Field(
        None, description="required: a person at the site approves each run"
    )
    privacy: PrivacyRules = Field(
        PrivacyRules(), description="what must keep the site's data from others, e.g. {largest_epsilon: 8}"
    )
    confinement: Literal["required"] | None = Field(
        None, description="required: runs nothing where the kernel cannot confine a run's process"
    )

    def broken_rule(self, request: RunRequest, now: datetime | None = None) -> str | None:
        """Why a run may not begin here.

        Args:
            request: what the run asks.
            now: the time of day, with its zone; None takes this machine's.

        Returns:
            A sentence that begins with the name of the first rule that it breaks; None if it breaks none.
        """
        return next(self._broken(request, now or datetime.now(UTC)), None)

    def _broken(self, request: RunRequest, now: datetime) -> Iterator[str]:
        if self.confinement and not landlock.version():
            yield "confinement: this site's kernel has no Landlock, or does not let the site use it"
        who = self.submitters or Submitters()
        for given, wanted in (
            (request.submitter, who.emails),
            (request.org, who.orgs),
            (request.role, who.roles),
        ):
            if wanted is not None and given not in wanted:
                yield f"submitters: {shown(given)} is not among {_listed(wanted)}"
        for rule, asked, allowed in (
            ("algorithms", request.algorithm, self.algorithms),
            ("problems", request.problem, self.problems),
        ):
            if allowed is not None and not _within(asked, allowed):
                yield f"{rule}: {shown(asked)} is not among {_listed(allowed)}"
        for name, sha256 in sorted(request.code.items()):
            if self.code is not None and sha256 not in self.code:
                yield f"code: {shown(name)} has the SHA-256 {shown(sha256)}, which is not listed"
        for carrier in request.carriers:
            if self.carriers is not None and carrier not in self.carriers:
                yield (
                    f"carriers: with links: {request.links} the run may use {carrier}, and only "
                    f"{_listed(self.carriers)} is allowed"
                )
        sites = len(set(request.sites))
        if self.least_sites is not None and sites < self.least_sites:
            yield f"least_sites: the run has {sites} sites, and at least {self.least_sites} are needed"
        elif self.least_sites is not None and request.quorum and request.quorum < self.least_sites:
            yield (
                f"least_sites: the run may go on with {request.quorum} sites, and at least "
                f"{self.least_sites} are needed"
            )
        yield from self.privacy.broken(request.privacy)
        if self.hours and not self.hours.include(now):
            times, days = _listed(self.hours.times), _listed(self.hours.days)
            yield f"hours: a run may begin on {days} at {times}, {self.hours.time_zone}"


def path_of(workspace: Path) -> Path:
    """Where a site's policy is, or would be."""
    return Path(os.environ.get(POLICY_VARIABLE) or workspace / POLICY)


def read(workspace: Path) -> Policy:
    """The policy of the site whose workspace this is; without a file one that allows everything.

    Raises:
        PolicyError: the file has mistakes, or cannot be read; the message names all of them.
    """
    path = path_of(workspace)
    if path == workspace / POLICY and _is_missing(path):
        return Policy()
    try:
        document = Document(text_of(path, "the file"))
        data = document.fields(_START)
    except Unreadable as error:
        raise PolicyError(path, [LineMistake(error.line, "", error.problem, error.remedy)]) from None
    policy, invalid = validate(Policy, data, document.written)
    found = [*document.mistakes(), *invalid]
    if policy is None or found:
        located = dict.fromkeys(document.located(mistake) for mistake in found)
        raise PolicyError(path, sorted(located, key=lambda mistake: mistake.line))
    return policy


def _is_missing(path: Path) -> bool:
    try:
        path.stat()
    except FileNotFoundError:
        return True
    except OSError:  # it may be there; reading it says what is wrong
        return False
    return False


def digest(workspace: Path) -> str | None:
    """SHA-256 of the policy's file, in hexadecimal; None where there is none that can be read."""
    try:
        return hashlib.sha256(path_of(workspace).read_bytes()).hexdigest()
    except OSError:
        return None


def _within(name: str, allowed: tuple[str, ...]) -> bool:
    """Whether a name is allowed by itself, or, as a dotted path, by a package that holds it."""
    is_path = not name.endswith(".py")
    return any(name == entry or (is_path and name.startswith(f"{entry}.")) for entry in allowed)


def _listed(words: tuple[str, ...]) -> str:
    return ", ".join(words[:10]) + (", …" if len(words) > 10 else "")
