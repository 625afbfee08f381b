"""How NVFlare makes startup kits.

This hides its projects and participants, and its builders, their order and how they report an error. What
says who a participant is, certificates and keys, comes from the caller.
"""

import contextlib
import io
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TypeAlias

from nvflare.lighter.constants import CtxKey, PropKey
from nvflare.lighter.ctx import ProvisionContext
from nvflare.lighter.entity import Project
from nvflare.lighter.impl.static_file import StaticFileBuilder
from nvflare.lighter.impl.workspace import WorkspaceBuilder
from nvflare.lighter.provisioner import Provisioner
from nvflare.lighter.spec import Builder

from flaremesh.p2p.nvflare.ipv6_names import name_for
from flaremesh.p2p.nvflare.settings import Settings, promote_defaults
from flaremesh.topology.schema import SERVER, Topology

_log = logging.getLogger(__name__)


class KitsRefused(Exception):
    """NVFlare did not make the kits; the message says why."""


Files: TypeAlias = Mapping[str, bytes]
"""What is to lie in a kit's ``startup`` beside NVFlare's own files, by name; keys end in ``.key``."""


class MeshProject:
    """A mesh as NVFlare provisions it.

    Args:
        topology: the mesh.

    Raises:
        ValueError: NVFlare refuses a name.
    """

    def __init__(self, topology: Topology):
        self._project = _project(topology)

    @property
    def participants(self) -> list[str]:
        """The names of server, sites and admins, sorted."""
        return sorted(participant.name for participant in self._project.get_all_participants())

    def make_kits(self, settings: Settings, startup: Mapping[str, Files], folder: Path) -> Path:
        """Make a kit for every participant.

        Args:
            settings: what the kits say.
            startup: certificates, keys and what else makes a kit its owner's, by participant.
            folder: a new one, for all that NVFlare writes.

        Returns:
            The folder with a kit per participant.

        Raises:
            KitsRefused: NVFlare could not make them.
        """
        # builders finish in reverse order
        builders = [
            WorkspaceBuilder(),
            _Finisher(settings),
            StaticFileBuilder(config_folder="config", scheme="grpc", require_signed_jobs=True),
            _Owners(startup),
        ]
        # NVFlare also prints the traceback of an error that it returns
        with contextlib.redirect_stderr(io.StringIO()):
            context = Provisioner(str(folder), builders).provision(self._project, logger=_log)
        if context.get(CtxKey.BUILD_ERROR):
            raise KitsRefused("; ".join(context[CtxKey.ERRORS]))
        return Path(context.get_result_location())


class _Owners(Builder):
    """Puts into each kit what makes it its owner's, in the place of NVFlare's CertBuilder."""

    def __init__(self, startup: Mapping[str, Files]):
        self._startup = startup

    def build(self, project: Project, ctx: ProvisionContext) -> None:
        """Called by NVFlare."""
        for participant in project.get_all_participants():
            folder = Path(ctx.get_kit_dir(participant))
            for name, content in self._startup[participant.name].items():
                file = folder / name
                file.touch(mode=0o600 if file.suffix == ".key" else 0o644)
                file.write_bytes(content)


class _Finisher(Builder):
    """Turns NVFlare's default settings into the final ones.

    It finishes after StaticFileBuilder, so that all files are there, and before WorkspaceBuilder, which moves
    the kits to their place.
    """

    def __init__(self, settings: Settings):
        self._settings = settings

    def finalize(self, project: Project, ctx: ProvisionContext) -> None:
        """Called by NVFlare when all builders have built."""
        for participant in project.get_all_participants():
            promote_defaults(Path(ctx.get_local_dir(participant)))
        self._settings.set_server(Path(ctx.get_local_dir(project.get_server())))
        for client in project.get_clients():
            self._settings.set_site(Path(ctx.get_local_dir(client)), client.name)


def _project(topology: Topology) -> Project:
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
            PropKey.DEFAULT_HOST: name_for(server.host),
        },
    )
    for site in topology.sites:
        result.add_client(site.name, site.org, {PropKey.CAPACITY: {PropKey.NUM_GPUS: site.gpus}})
    for admin in topology.admins:
        result.add_admin(admin.email, admin.org, {PropKey.ROLE: admin.role})
    return result
