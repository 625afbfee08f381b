"""What a startup kit holds: the topology as an NVFlare project, and the builder that finishes its kits."""

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nvflare.apis.fl_constant import AdminCommandNames
from nvflare.lighter.constants import PropKey
from nvflare.lighter.ctx import ProvisionContext
from nvflare.lighter.entity import Project
from nvflare.lighter.spec import Builder
from nvflare.security.security import COMMAND_CATEGORIES

from flaremesh.class_path import prefix_of
from flaremesh.p2p.components import COMPONENTS
from flaremesh.provision import firewall
from flaremesh.topology.mesh import build
from flaremesh.topology.schema import MOST_SITES, SERVER, Code, Topology

_HEART_BEAT_TIMEOUT = 30  # seconds of silence after which a site is lost; sites beat every 10 s

_STORAGE = "storage"  # the server's folder for jobs and snapshots, in its workspace

_SHUTDOWN_PERIOD = 2  # seconds that a stopping server waits for its sites; they come back to the next one

_JOB_END_POLL = 0.2  # seconds; NVFlare's default of 3 s delays the end of every run
AGENT_RESOURCES = "flaremesh__p_resources.json"
"""File in a kit's ``local`` with the agent and its arguments.

__p_: loaded by the parent process only, never by a job's process.
"""

_AGENT = "flaremesh_agent"  # id of the agent, and a client's property with the arguments of its own


def project_of(topology: Topology) -> Project:
    """The topology as an NVFlare project."""
    # a site's error log may quote its data: it stays at the site
    settings = {"api_version": 3, PropKey.ALLOW_LOG_STREAMING: False}
    result = Project(name=topology.name, description="", props=settings)
    server = topology.server
    result.set_server(
        SERVER,
        server.org,
        {
            PropKey.FED_LEARN_PORT: server.port,
            PropKey.ADMIN_PORT: server.port,
            PropKey.DEFAULT_HOST: server.host,
            # localhost: an admin of a cluster reaches the server through a forwarded port
            PropKey.HOST_NAMES: list(dict.fromkeys([*server.names, "localhost"])),
        },
    )
    agents = _site_agents(topology)
    for site in topology.sites:
        properties = {PropKey.CAPACITY: {PropKey.NUM_GPUS: site.gpus}, _AGENT: agents[site.name]}
        result.add_client(site.name, site.org, properties)
    for admin in topology.admins:
        result.add_admin(admin.email, admin.org, {PropKey.ROLE: admin.role})
    return result


class KitBuilder(Builder):
    """Turns NVFlare's default settings into the final ones of a flaremesh kit.

    It stands between WorkspaceBuilder and StaticFileBuilder: builders finish in reverse order, so the default
    files are there and the kits have not been moved to their place yet.

    Args:
        code: which code jobs may run beside flaremesh's own.
    """

    def __init__(self, code: Code):
        self._code = code

    def finalize(self, project: Project, ctx: ProvisionContext) -> None:
        """Finish the kits of the project."""
        for participant in project.get_all_participants():
            local = Path(ctx.get_local_dir(participant))
            for sample in local.glob("*.sample"):
                sample.unlink()
            for default in local.glob("*.default"):
                default.rename(default.with_suffix(""))
        server = Path(ctx.get_local_dir(project.get_server()))
        _serve(server / "resources.json")
        _add_agent(server, "flaremesh.p2p.agents.ServerAgent", {})
        sites = [Path(ctx.get_local_dir(client)) for client in project.get_clients()]
        _launch(server / "resources.json", "flaremesh.p2p.job_launcher.ServerJobLauncher")
        for client, site in zip(project.get_clients(), sites, strict=True):
            _launch(site / "resources.json", "flaremesh.p2p.job_launcher.SiteJobLauncher")
            _add_agent(site, "flaremesh.p2p.agents.SiteAgent", client.get_prop(_AGENT))
        for local in [server, *sites]:
            _allow(local / "resources.json", self._code.packages)
            _authorize(local / "authorization.json", files=self._code.files)
            _log(local / "log_config.json")


@contextmanager
def _edited(path: Path) -> Iterator[dict[str, Any]]:
    document = json.loads(path.read_text())
    yield document
    path.write_text(json.dumps(document, indent=2) + "\n")


def _serve(path: Path) -> None:
    with _edited(path) as resources:
        resources["servers"][0] |= {
            "heart_beat_timeout": _HEART_BEAT_TIMEOUT,
            "max_num_clients": MOST_SITES,  # NVFlare's default of 100 would turn the 101st site away
            "shutdown_period": _SHUTDOWN_PERIOD,
            "check_engine_frequency": _JOB_END_POLL,
        }
        resources["snapshot_persistor"]["args"]["storage"] = _storage(f"{_STORAGE}/snapshots")
        components = {component["id"]: component for component in resources["components"]}
        components["job_store"] |= _storage(".")
        components["job_manager"]["args"]["uri_root"] = f"{_STORAGE}/jobs"


def _storage(folder: str) -> dict[str, Any]:
    return {"path": "flaremesh.p2p.storage.WorkspaceStorage", "args": {"folder": folder}}


def _site_agents(topology: Topology) -> dict[str, dict[str, Any]]:
    """The arguments of each site's agent; only direct edges, so that others leave the kit alone."""
    agents: dict[str, dict[str, Any]] = {
        site.name: {
            "link": {"host": site.link.host, "ports": site.link.port_range} if site.link else None,
            "dials": [],
            "admits": [],
            "gpus": site.gpus,
            "share": topology.shared_by(site),
        }
        for site in topology.sites
    }
    for rule in firewall.rules(topology, build(topology)):
        if rule.target != SERVER:
            agents[rule.source]["dials"].append({"site": rule.target, "host": rule.host})
            agents[rule.target]["admits"].append(rule.source)
    return agents


def _add_agent(local: Path, path: str, arguments: dict[str, Any]) -> None:
    components = [{"id": _AGENT, "path": path, "args": arguments}]
    document = {"format_version": 2, "components": components}
    (local / AGENT_RESOURCES).write_text(json.dumps(document, indent=2) + "\n")


def _launch(path: Path, launcher: str) -> None:
    with _edited(path) as resources:
        components = {component["id"]: component for component in resources["components"]}
        components["process_launcher"]["path"] = launcher


def _allow(path: Path, packages: Iterable[str]) -> None:
    with _edited(path) as resources:
        # an explicit list replaces NVFlare's default, so it goes on from it; a trailing dot means a package
        resources["class_allow_list"] += [*COMPONENTS, *map(prefix_of, packages)]


def _authorize(path: Path, *, files: bool) -> None:
    with _edited(path) as policy:
        roles = policy["permissions"]
        # "any" for a whole role overrides single rights, so the rights are spelt out
        roles["project_admin"] = dict.fromkeys(_rights(), "any") | {"server-predeployed-flwr": "none"}
        for rights in roles.values():
            if "manage_job" in rights:
                # who may abort a run may watch it
                rights["app_command"] = rights["manage_job"]
            rights["byoc"] = "any" if files and rights.get("submit_job", "none") != "none" else "none"


def _rights() -> list[str]:
    """NVFlare's rights: the categories, and the commands outside every category."""
    commands = {value for name, value in vars(AdminCommandNames).items() if name.isupper()}
    return sorted(set(COMMAND_CATEGORIES.values()) | (commands - COMMAND_CATEGORIES.keys()))


def _log(path: Path) -> None:
    with _edited(path) as config:
        config["filters"]["FLFilter"]["logger_names"].append("flaremesh")
