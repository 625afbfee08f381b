"""The orders of a job that NVFlare's FedJob has written."""

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

from flaremesh.p2p.extra import (
    ExtraError,
    checkpoint_interval_of,
    on_loss_of,
    privacy_of,
    quorum_of,
    tolerance_of,
)
from flaremesh.p2p.gate import order
from flaremesh.topology.links import LinkMode
from flaremesh.topology.schema import SERVER

_ALL = "@ALL"


def write_orders(job: Path) -> None:
    """Put an order into each app of a job: its sites and edges are those of the network in its Config.

    Args:
        job: its folder.

    Raises:
        ExtraError: what its ``extra`` says of losses or of privacy is none of that, or its sites are not
            known for it.
    """
    deployed = json.loads((job / "meta.json").read_text())["deploy_map"]
    config = next((found for app in deployed for found in _configs(job / app)), None)
    edges = None if config is None else _edges(config)
    sites = {str(site) for targets in deployed.values() for site in targets} - {SERVER}
    if _ALL in sites:
        sites = {*(edges or {}), *(user for users in (edges or {}).values() for user in users)}
    extra = _of((config or {}).get("extra") or {})
    links, modes = extra.get("links"), get_args(LinkMode)
    mode: LinkMode = next((mode for mode in modes if mode == links), "auto")  # wrong words are refused later
    on_loss = on_loss_of(extra)
    if on_loss != "fail":
        if not sites:
            raise ExtraError(f"a run with on_loss: {on_loss} needs to know its sites: give Config a network")
        tolerance_of(extra)
        checkpoint_interval_of(extra)
    quorum = quorum_of(extra, len(sites))
    asked = order.order(tuple(sorted(sites)), edges, mode, on_loss=on_loss, quorum=quorum)
    for app, targets in deployed.items():
        named = () if _ALL in targets else tuple(map(str, targets))
        order.write(replace(asked, targets=named, privacy=privacy_of(extra)), job / app)


def extra_of(app: Path) -> Mapping[str, Any]:
    """The run's ``extra`` in the server's app of a job; empty where there is none."""
    return _of(next(_configs(app), {}).get("extra") or {})


def _configs(app: Path) -> Iterator[Mapping[str, Any]]:
    file = app / "config" / "config_fed_server.json"
    if file.is_file():
        yield from _with_network(json.loads(file.read_text()))


def _with_network(value: Any) -> Iterator[Mapping[str, Any]]:
    """The mappings in a document that are a Config, which alone has a network."""
    if isinstance(value, dict):
        if "network" in value:
            yield value
        for entry in value.values():
            yield from _with_network(entry)
    elif isinstance(value, list):
        for entry in value:
            yield from _with_network(entry)


def _edges(config: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    """Whose values go to whom, in any phase."""
    network = _of(config["network"])
    users: defaultdict[str, set[str]] = defaultdict(set)
    for phase in [network.get("nodes") or [], *(network.get("phases") or [])]:
        for node in map(_of, phase):
            for neighbor in map(_of, node.get("neighbors") or []):
                users[str(neighbor["id"])].add(str(node["id"]))
    return {site: tuple(sorted(users[site])) for site in sorted(users)}


def _of(value: Any) -> Mapping[str, Any]:
    """An object's fields, which FedJob writes as a class and its arguments."""
    found: Mapping[str, Any] = value.get("args", {}) if "path" in value else value
    return found
