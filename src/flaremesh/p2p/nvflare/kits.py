"""How NVFlare makes startup kits.

This hides its projects and participants, and its builders, their order and how they report an error.
"""

import contextlib
import io
import logging
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from nvflare.lighter.constants import CtxKey, ParticipantType, PropKey
from nvflare.lighter.ctx import ProvisionContext
from nvflare.lighter.entity import Participant, Project
from nvflare.lighter.impl.cert import CertBuilder
from nvflare.lighter.impl.static_file import StaticFileBuilder
from nvflare.lighter.impl.workspace import WorkspaceBuilder
from nvflare.lighter.provisioner import Provisioner
from nvflare.lighter.spec import Builder
from nvflare.lighter.utils import build_subject_alt_names, x509_name

from flaremesh.p2p.nvflare.certificates import CERTIFICATES, Issued
from flaremesh.p2p.nvflare.settings import Settings, promote_defaults
from flaremesh.topology.schema import SERVER, Topology

_log = logging.getLogger(__name__)


class KitsRefused(Exception):
    """NVFlare did not make the kits; the message says why."""


class Made(NamedTuple):
    """What NVFlare's provisioning leaves.

    Attributes:
        kits: folder with a kit per participant.
        state: file with all certificates and private keys, which ``Issued`` reads.
    """

    kits: Path
    state: Path


class MeshProject:
    """A mesh as NVFlare provisions it.

    Args:
        topology: the mesh.

    Raises:
        ValueError: NVFlare refuses a name.
    """

    def __init__(self, topology: Topology):
        self._topology = topology
        self._project = _project(topology)
        self._participants = {p.name: p for p in self._project.get_all_participants()}

    @property
    def participants(self) -> list[str]:
        """The names of server, sites and admins, sorted."""
        return sorted(self._participants)

    def difference(self, certificate: x509.Certificate, name: str) -> str | None:
        """How a participant's certificate differs from the one that it would get now; None if it does not."""
        participant = self._participants[name]
        role = participant.get_prop(PropKey.ROLE) if participant.type == ParticipantType.ADMIN else None
        if certificate.subject != x509_name(name, participant.org, role):
            return "organisation or role"
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        return "host names" if set(names) != _names_for(participant) else None

    def make_kits(self, settings: Settings, issued: Issued, folder: Path) -> Made:
        """Make a kit for every participant.

        Args:
            settings: what the kits say.
            issued: certificates and keys that are used again; participants without one get a new one.
            folder: a new one, for all that NVFlare writes.

        Raises:
            KitsRefused: NVFlare could not make them.
        """
        state = folder / self._topology.name / "state" / CERTIFICATES
        state.parent.mkdir(parents=True)
        issued.write(state)
        # builders finish in reverse order
        builders = [
            WorkspaceBuilder(),
            _Finisher(settings),
            StaticFileBuilder(config_folder="config", scheme="grpc", require_signed_jobs=True),
            CertBuilder(root_valid_days=self._topology.certificates.root_days),
        ]
        # NVFlare also prints the traceback of an error that it returns
        with contextlib.redirect_stderr(io.StringIO()):
            context = Provisioner(str(folder), builders).provision(self._project, logger=_log)
        if context.get(CtxKey.BUILD_ERROR):
            raise KitsRefused("; ".join(context[CtxKey.ERRORS]))
        return Made(Path(context.get_result_location()), state)


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
            PropKey.DEFAULT_HOST: server.host,
            # localhost: an admin of a cluster reaches the server through a forwarded port
            PropKey.HOST_NAMES: list(dict.fromkeys([*server.names, "localhost"])),
        },
    )
    for site in topology.sites:
        result.add_client(site.name, site.org, {PropKey.CAPACITY: {PropKey.NUM_GPUS: site.gpus}})
    for admin in topology.admins:
        result.add_admin(admin.email, admin.org, {PropKey.ROLE: admin.role})
    return result


def _names_for(participant: Participant) -> set[x509.GeneralName]:
    if participant.type != ParticipantType.SERVER:
        return set(build_subject_alt_names(fallback_subject_name=participant.subject))
    return set(
        build_subject_alt_names(participant.get_default_host(), participant.get_prop(PropKey.HOST_NAMES))
    )
