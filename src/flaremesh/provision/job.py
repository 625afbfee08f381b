"""The NVFlare job of a run: the folder that an admin submits."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from flaremesh.p2p.gate import order
from flaremesh.p2p.networks import network_of
from flaremesh.p2p.nvflare.jobs import SERVER_PARAMETERS, SITE_PARAMETERS
from flaremesh.p2p.tasks import Task
from flaremesh.problems.parcel import deliver
from flaremesh.provision.plan import with_sigma
from flaremesh.topology.mesh import Mesh, build
from flaremesh.topology.schema import SERVER, LinkAddress, Run, Topology, quorum_of

_SERVER_APP = "app_server"
_SITE_APP = "app_sites"


def write_job(topology: Topology, folder: Path, *, name: str, continues: str = "") -> None:
    """Write the job that runs ``topology.run`` on all sites of the topology, and on no other.

    Args:
        topology: the mesh and its run.
        folder: the job's folder; an old one is replaced.
        name: of the run, for people.
        continues: id in its order of the run from whose checkpoints it begins; empty for none.

    Raises:
        GraphError, MissingExtra: the mesh cannot be built from the topology.
        DeliveryError: the problem cannot travel to the sites.
    """
    mesh, sites = build(topology), [site.name for site in topology.sites]
    run = topology.run.model_copy(update={"privacy": with_sigma(topology.run, mesh)})
    topology = topology.model_copy(update={"run": run})
    shutil.rmtree(folder, ignore_errors=True)
    _write(
        folder / "meta.json",
        {
            "name": name,
            "resource_spec": {site.name: {"num_of_gpus": site.gpus} for site in topology.sites if site.gpus},
            # "@ALL" would start the job at every site that is online, in the topology or not
            "deploy_map": {_SERVER_APP: [SERVER], _SITE_APP: sites},
            "min_clients": len(sites),
            "mandatory_clients": sites,
        },
    )
    _write(folder / _SERVER_APP / "config/config_fed_server.json", _server_config(topology, mesh, name))
    _write(folder / _SITE_APP / "config/config_fed_client.json", _site_config(run))
    deliver(run.problem, folder / _SITE_APP)
    # each export is a run of its own, which a site lets in once
    quorum = quorum_of(run, len(sites))
    asked = order.order(tuple(sites), _edges(mesh), run.links, topology.name, run.on_loss, quorum)
    asked = replace(asked, continues=continues, privacy=run.privacy)
    order.write(replace(asked, targets=(SERVER,)), folder / _SERVER_APP)
    order.write(replace(asked, targets=asked.sites), folder / _SITE_APP)


def ordered_run(folder: Path) -> str:
    """Id of the run that the job in a folder orders; raises Refused if it orders none."""
    return order.read(folder / _SERVER_APP).run


def _edges(mesh: Mesh) -> dict[str, tuple[str, ...]]:
    """Whose values go to whom, in any phase."""
    return {
        site: tuple(sorted({user for hood in schedule for user in hood.out}))
        for site, schedule in mesh.schedules.items()
    }


def _server_config(topology: Topology, mesh: Mesh, name: str) -> dict[str, Any]:
    return {
        "format_version": 2,
        **SERVER_PARAMETERS,
        "workflows": [
            {
                "id": "controller",
                "path": "flaremesh.p2p.controllers.DistOptController",
                "args": {
                    "config": {
                        "network": asdict(network_of(mesh)),
                        "extra": _extra(topology.run, len(mesh.sites)),
                        "weights": topology.weights,
                        "links": {site.name: _link(site.link) for site in topology.sites if site.link},
                    },
                    "labels": {
                        "name": name,
                        "topology": topology.name,
                        "algorithm": topology.run.algorithm,
                        "predicted_contraction": mesh.predicted_contraction(topology.run),
                    },
                },
            }
        ],
    }


def _site_config(run: Run) -> dict[str, Any]:
    executor = {"path": "flaremesh.p2p.executors.AlgorithmExecutor", "args": {"algorithm": run.algorithm}}
    executors = [{"tasks": list(Task), "executor": executor}]
    return {"format_version": 2, **SITE_PARAMETERS, "executors": executors}


def _link(address: LinkAddress) -> dict[str, Any]:
    return {"host": address.host, "ports": list(address.port_range)}


def _extra(run: Run, sites: int) -> dict[str, Any]:
    """The run's ``extra``, which controller and executors get."""
    said = run.model_copy(update={"quorum": quorum_of(run, sites)})
    return said.model_dump(exclude={"algorithm", "problem", "options"}, exclude_none=True) | run.options


def _write(path: Path, document: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(document, indent=2) + "\n")
