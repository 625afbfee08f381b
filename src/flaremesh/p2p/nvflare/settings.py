"""What the files in a kit's folder ``local`` say.

This hides their names and fields, which NVFlare writes with defaults when it makes a kit and reads when a
process starts.
"""

import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from nvflare.apis.fl_constant import AdminCommandNames, SystemComponents
from nvflare.security.security import COMMAND_CATEGORIES, CommandCategory

from flaremesh.p2p.nvflare.door import OPENED_BY
from flaremesh.p2p.nvflare.startup import DOOR_RESOURCES
from flaremesh.topology.schema import MOST_SITES

AGENT_RESOURCES: Final = "flaremesh__p_resources.json"
"""File in a kit's ``local`` with the agent and its arguments.

__p_: loaded by the parent process only, never by a job's process.
"""

_HEART_BEAT_TIMEOUT = 30  # seconds of silence after which a site is lost; sites beat every 10 s
_SHUTDOWN_PERIOD = 2  # seconds that a stopping server waits for its sites; they come back to the next one
_JOB_END_POLL = 0.2  # seconds; NVFlare's default of 3 s delays the end of every run
_WATCHED = frozenset(  # rights over a participant's files and logs, which are its own admin's to give
    {
        CommandCategory.SHELL_COMMANDS,
        AdminCommandNames.CONFIGURE_SITE_LOG,
        AdminCommandNames.CONFIGURE_JOB_LOG,
    }
)
_STORAGE = "storage"  # the server's folder for jobs and snapshots, in its workspace


@dataclass(frozen=True)
class Settings:
    """What the kits of a mesh say beside NVFlare's defaults.

    Attributes:
        classes: all that a job may name: dotted paths of classes, or of packages with a dot at their end.
        code: jobs may bring code along.
        server: the arguments of the server's agent.
        agents: those of each site's.
    """

    classes: Collection[str]
    code: bool
    server: Mapping[str, Any]
    agents: Mapping[str, Mapping[str, Any]]

    def set_server(self, local: Path) -> None:
        """Finish the server's files in ``local``."""
        _serve(local / "resources.json")
        _launch(local / "resources.json", "flaremesh.p2p.job_launcher.ServerJobLauncher")
        _add(local / AGENT_RESOURCES, "flaremesh_agent", "flaremesh.p2p.agents.ServerAgent", self.server)
        self._set_participant(local, _WATCHED)

    def set_site(self, local: Path, name: str) -> None:
        """Finish a site's files in ``local``."""
        _launch(local / "resources.json", "flaremesh.p2p.job_launcher.SiteJobLauncher")
        _add(local / AGENT_RESOURCES, "flaremesh_agent", "flaremesh.p2p.agents.SiteAgent", self.agents[name])
        _add(
            local / DOOR_RESOURCES, SystemComponents.APP_DEPLOYER, "flaremesh.p2p.gate.deployer.SiteDoor", {}
        )
        self._set_participant(local, _WATCHED | set(OPENED_BY.values()))

    def _set_participant(self, local: Path, closed: Collection[str]) -> None:
        _allow(local / "resources.json", self.classes)
        _authorize(local / "authorization.json", code=self.code, closed=closed)
        _log(local / "log_config.json")


def promote_defaults(local: Path) -> None:
    """Turn NVFlare's default files in ``local`` into those that count, and remove its samples."""
    for sample in local.glob("*.sample"):
        sample.unlink()
    for default in local.glob("*.default"):
        default.rename(default.with_suffix(""))


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
        resources["app_validator"] = {"path": "flaremesh.p2p.gate.deployer.ServerDoor", "args": {}}
        resources["snapshot_persistor"]["args"]["storage"] = _storage(f"{_STORAGE}/snapshots")
        components = {component["id"]: component for component in resources["components"]}
        components["job_store"] |= _storage(".")
        components["job_manager"]["args"]["uri_root"] = f"{_STORAGE}/jobs"


def _storage(folder: str) -> dict[str, Any]:
    return {"path": "flaremesh.p2p.storage.WorkspaceStorage", "args": {"folder": folder}}


def _add(file: Path, name: str, path: str, arguments: Mapping[str, Any]) -> None:
    components = [{"id": name, "path": path, "args": arguments}]
    document = {"format_version": 2, "components": components}
    file.write_text(json.dumps(document, indent=2) + "\n")


def _launch(path: Path, launcher: str) -> None:
    with _edited(path) as resources:
        components = {component["id"]: component for component in resources["components"]}
        components["process_launcher"]["path"] = launcher


def _allow(path: Path, classes: Iterable[str]) -> None:
    with _edited(path) as resources:
        # NVFlare's default list has classes that run commands, and prefixes of more
        resources["class_allow_list"] = list(classes)


def _authorize(path: Path, *, code: bool, closed: Collection[str]) -> None:
    with _edited(path) as policy:
        roles = policy["permissions"]
        # "any" for a whole role overrides single rights, so the rights are spelt out
        roles["project_admin"] = dict.fromkeys(_rights(), "any") | {"server-predeployed-flwr": "none"}
        for rights in roles.values():
            if "manage_job" in rights:
                # a role that may abort a run may also watch it
                rights["app_command"] = rights["manage_job"]
            rights |= dict.fromkeys(sorted(closed), "none")
            rights["byoc"] = "any" if code and rights.get("submit_job", "none") != "none" else "none"


def _rights() -> list[str]:
    """NVFlare's rights: the categories, and the commands outside every category."""
    commands = {value for name, value in vars(AdminCommandNames).items() if name.isupper()}
    return sorted(set(COMMAND_CATEGORIES.values()) | (commands - COMMAND_CATEGORIES.keys()))


def _log(path: Path) -> None:
    with _edited(path) as config:
        config["filters"]["FLFilter"]["logger_names"].append("flaremesh")
