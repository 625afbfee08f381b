"""Participants that run with another kit than the one in the mesh's folder, or in the topology file."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from flaremesh.deploy.targets.base import DeployError, Participant, Target, ask_each
from flaremesh.hosts import at
from flaremesh.p2p.agents.kit import PATH, Kit
from flaremesh.provision import firewall
from flaremesh.provision.stamp import digest
from flaremesh.provision.state import previous
from flaremesh.topology.mesh import build
from flaremesh.topology.schema import SERVER, Topology

REMEDY: Final = "Run `flaremesh down`, then `flaremesh up`, or deploy them anew with their kits."


def kits_in_use(target: Target, participants: Sequence[Participant]) -> dict[str, Kit]:
    """The kits with which processes were started, by participant, as far as their agents answer."""
    told = ask_each(target, participants, PATH, Kit.model_validate_json)
    return {name: kit for name, kit in told.items() if kit}


def older_than_kits(in_use: Mapping[str, Kit], mesh: Path) -> list[str]:
    """Participants whose kit in the mesh's folder is newer than their process."""
    return [name for name, kit in in_use.items() if digest(mesh / "kits" / name) not in (None, kit.digest)]


def say_older(names: Sequence[str], mesh: Path) -> str:
    """The message about the participants that ``older_than_kits`` names."""
    return f"{', '.join(names)}: the kit in {mesh / 'kits'} is newer than the process. {REMEDY}"


def dialled(topology: Topology) -> dict[str, dict[str, str]]:
    """The neighbours that each site dials, with their hosts."""
    hosts: dict[str, dict[str, str]] = {site.name: {} for site in topology.sites}
    for rule in firewall.rules(topology, build(topology)):
        if rule.target != SERVER:
            hosts[rule.source][rule.target] = rule.host
    return hosts


def unlike_file(topology: Topology, in_use: Mapping[str, Kit]) -> dict[str, str]:
    """How each participant's kit differs from the topology file: in neighbours, addresses or code.

    The address of a site that has none in the file any more is not compared, since no site dials it.
    """
    dials = dialled(topology)
    links = {
        site.name: {"host": site.link.host, "ports": list(site.link.port_range)}
        for site in topology.sites
        if site.link
    }
    found = {}
    for name, kit in in_use.items():
        wanted = dials.get(name, {})
        if kit.dials.keys() != wanted.keys():
            found[name] = "neighbours"
        elif kit.dials != wanted or kit.link != links.get(name, kit.link):
            found[name] = "addresses"
        elif (kit.files, tuple(kit.packages)) != (topology.code.files, topology.code.packages):
            found[name] = "code"
    return found


def check_server(topology: Topology, mesh: Path) -> None:
    """Check that the kits lead to the server of the topology file.

    Raises:
        DeployError: they lead elsewhere.
    """
    before = previous(mesh)
    if before and (before.server.host, before.server.port) != (topology.server.host, topology.server.port):
        there, now = (at(server.host, server.port) for server in (before.server, topology.server))
        raise DeployError(
            f"the kits in {mesh / 'kits'} lead to the server at {there}, and the topology file has it at "
            f"{now}. {REMEDY}"
        )


def check_code(topology: Topology, in_use: Mapping[str, Kit]) -> None:
    """Check that all kits in use accept the file that the run brings, if it brings one.

    Raises:
        DeployError: a kit does not; NVFlare would say how many sites are missing, and not why.
    """
    run = topology.run
    if run.problem.file and (names := [name for name, kit in in_use.items() if not kit.files]):
        raise DeployError(
            f"{', '.join(names)}: the process was started with a kit that accepts no code of a job, and the "
            f"run brings {run.problem.file.name}. {REMEDY}"
        )
