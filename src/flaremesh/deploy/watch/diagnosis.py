"""What is wrong with a mesh: the reports of its participants, and what shows only in all of them together."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from flaremesh.deploy.outdated import dialled, kits_in_use, older_than_kits, unlike_file
from flaremesh.deploy.targets.base import Participant, Target, ask_each
from flaremesh.p2p.agents.doctor import PATH, Edge, Finding, Report
from flaremesh.provision.certificates import RENEWAL_DAYS
from flaremesh.topology.links import Carried, LinkKind
from flaremesh.topology.mesh import build
from flaremesh.topology.schema import SERVER, Topology
from flaremesh.topology.ways import carried, cut_off


@dataclass(frozen=True)
class MeshEdge:
    """An edge of the mesh, over which the target uses the source's values.

    Attributes:
        source: the site that sends.
        target: the site that receives.
        kind: how its messages would travel in a run.
        address: where the one that dials dialled, empty for an edge that is met or relayed.
        ok: whether a run can use it; None if that could not be tried.
        reason: why not.
    """

    source: str
    target: str
    kind: Carried
    address: str
    ok: bool | None
    reason: str


class OldKits(NamedTuple):
    """Participants whose process was started with another kit than it should have.

    Attributes:
        older: their kit in the mesh's folder is newer.
        unlike_file: in what their kit differs from the topology file, e.g. addresses, by participant.
    """

    older: Collection[str]
    unlike_file: Mapping[str, str]


NO_OLD_KITS = OldKits((), {})


@dataclass(frozen=True)
class Diagnosis:
    """What the doctor found.

    Attributes:
        reports: of the server, then of the sites; None for a participant that gives none.
        links: all edges.
        findings: what is wrong.
        elsewhere: participants that may be on another cluster, as Participant.elsewhere.
    """

    reports: Mapping[str, Report | None]
    links: Sequence[MeshEdge]
    findings: Sequence[Finding]
    elsewhere: Sequence[str]


def diagnose(topology: Topology, target: Target, mesh: Path) -> Diagnosis:
    """Ask all participants at once, and judge the whole.

    Args:
        topology: the mesh.
        target: where it is up.
        mesh: its folder.

    Raises:
        DeployError: the target cannot be asked.
        GraphError, MissingExtra: the mesh cannot be built from the topology.
    """
    participants = target.participants()
    in_use = kits_in_use(target, participants)
    kits = OldKits(older_than_kits(in_use, mesh), unlike_file(topology, in_use))
    reports = ask_each(target, participants, PATH, Report.from_json)
    return judge(topology, participants, reports, kits)


def judge(
    topology: Topology,
    participants: Sequence[Participant],
    reports: Mapping[str, Report | None],
    kits: OldKits = NO_OLD_KITS,
) -> Diagnosis:
    """The diagnosis that the participants' reports add up to.

    Args:
        topology: the mesh.
        participants: as their target sees them.
        reports: of all participants.
        kits: what is known of the kits with which they were started.
    """
    known = {name: report for name, report in reports.items() if report is not None}
    findings = [
        *_silence(participants, known),
        # a peer without a report is one finding already; that nobody can dial it follows
        *(
            f
            for name, report in known.items()
            for f in report.findings
            if f.participant == name and (f.peer is None or f.peer in known)
        ),
        *_old_certificates(known),
        *_skew(known),
        *_cut_off(topology),
        *_old_kits(topology, reports, kits),
    ]
    elsewhere = [participant.name for participant in participants if participant.elsewhere]
    return Diagnosis(reports, list(_links(topology, known)), findings, elsewhere)


def _silence(participants: Sequence[Participant], known: Mapping[str, Report]) -> Iterator[Finding]:
    for participant in participants:
        name = participant.name
        if participant.elsewhere:
            continue
        if not participant.running:
            yield Finding(name, f"{name} does not run.", "Start it: `flaremesh up`.")
        elif name not in known:
            yield Finding(
                name,
                f"{name} runs ({participant.place}), but its agent gives no report.",
                "Read its log; if its version is older than this one, deploy it anew.",
            )


def _old_certificates(known: Mapping[str, Report]) -> Iterator[Finding]:
    for name, report in known.items():
        if 0 <= report.certificate_days < RENEWAL_DAYS:
            yield Finding(
                name,
                f"The certificate of {name} expires in {report.certificate_days:.0f} days.",
                f"`flaremesh provision` renews it: deploy {name} with the new kit.",
            )


def _skew(known: Mapping[str, Report]) -> Iterator[Finding]:
    """Participants whose versions differ from the server's, or from those of the first that answers."""
    if not known:
        return
    model = known.get(SERVER) or next(iter(known.values()))
    for name, report in known.items():
        for package, version in model.versions.items():
            other = report.versions.get(package, "none")
            # what follows a + says for which device it was built
            if other.partition("+")[0] != version.partition("+")[0]:
                yield Finding(
                    name,
                    f"{name} has {package} {other}, and {model.name} has {version}.",
                    "Deploy both with one version of the image.",
                )


def _cut_off(topology: Topology) -> Iterator[Finding]:
    if found := cut_off(topology, build(topology)):
        site, lack, remedy = found
        yield Finding(site, f"{lack[:1].upper()}{lack[1:]}.", f"{remedy[:1].upper()}{remedy[1:]}.")


def _old_kits(topology: Topology, reports: Mapping[str, Report | None], kits: OldKits) -> Iterator[Finding]:
    """One finding for each participant that runs with another kit than it should."""
    dials = dialled(topology)
    for name, report in reports.items():
        other = kits.unlike_file.get(name)
        if report and {edge.peer for edge in report.edges} != dials.get(name, {}).keys():
            other = "neighbours"
        if other:
            what = f"a kit that was made for other {other} than in the topology file"
        elif name in kits.older:
            what = "an older kit than the one that it has now in the mesh's folder"
        else:
            continue
        yield Finding(
            name,
            f"{name} runs with {what}.",
            f"Run `flaremesh down`, then `flaremesh up`, or deploy {name} anew with the kit that "
            "`flaremesh provision` makes.",
        )


def _links(topology: Topology, known: Mapping[str, Report]) -> Iterator[MeshEdge]:
    """Every edge, by the best way that the topology file leaves it."""
    sites = {site.name: site for site in topology.sites}
    untried = Edge("", "", None)
    for source, target in build(topology).graph.edges:
        word = carried(topology, sites[source], sites[target])
        if word is None:  # one of its findings says what to do
            kind = Carried.by(LinkKind(topology.run.links))
            why = f"there is no way for links: {topology.run.links}"
            yield MeshEdge(source, target, kind, "", False, why)
        elif word in (Carried.DIRECT, Carried.DIALLED_BACK):
            # one connection carries both directions, whoever of the two dials
            dialler, dialled_one = (source, target) if word is Carried.DIRECT else (target, source)
            edges = known[dialler].edges if dialler in known else ()
            edge = next((edge for edge in edges if edge.peer == dialled_one), untried)
            yield MeshEdge(source, target, word, edge.address, edge.ok, edge.reason)
        else:
            is_met = word is Carried.MET
            ends = [known.get(source), known.get(target)]
            away = [end.name for end in ends if end and (end.missing or (is_met and end.meets is False))]
            where = "meeting point" if is_met else "server"
            reason = f"{' and '.join(away)} cannot reach the {where}" if away else ""
            yield MeshEdge(source, target, word, "", None if None in ends else not away, reason)
