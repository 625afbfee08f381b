"""From a topology to startup kits that can be handed out."""

import json
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.x509.oid import NameOID

from flaremesh.class_path import prefix_of
from flaremesh.errors import FlaremeshError
from flaremesh.issuing import Authority, read_key
from flaremesh.p2p.agents.kit import PARTS
from flaremesh.p2p.charter import CHARTER
from flaremesh.p2p.components import CLASSES
from flaremesh.p2p.nvflare.kits import Files, KitsRefused, MeshProject
from flaremesh.p2p.nvflare.settings import Settings
from flaremesh.p2p.nvflare.startup import startup_files
from flaremesh.provision import charters, firewall
from flaremesh.provision.agents import server_agent, site_agents
from flaremesh.provision.certificates import CERTIFICATES, Certificate, CertificateStore, profiles
from flaremesh.provision.kit_readme import README, kit_readme
from flaremesh.provision.releases import (
    KIT_VALUES,
    MONITORING,
    RELEASES,
    releases,
    remove_release,
    replace_releases,
    write_monitoring,
    write_release,
)
from flaremesh.provision.replacement import (
    remove_entries,
    replace_folder,
    replace_text,
    workplace,
)
from flaremesh.provision.requests import Request
from flaremesh.provision.stamp import stamp
from flaremesh.provision.state import LAST_TOPOLOGY
from flaremesh.topology.mesh import Mesh, build
from flaremesh.topology.schema import SERVER, Topology

_KIT = (*PARTS, README)  # NVFlare's third folder, transfer, goes with a kit because it is empty


class ProvisionError(FlaremeshError):
    """The mesh cannot be provisioned; the message says why and what to do."""


@dataclass(frozen=True)
class Provisioned:
    """What a provisioning did.

    Attributes:
        kits: every participant's kit.
        added: participants whose kit is new.
        changed: participants whose kit differs from the one before and must be handed out again.
        removed: participants whose kit and private key were deleted.
        kept: folders of removed participants with what others put beside kit and release.
        reissued: participants of before with a new certificate, and why.
        retired: the former certificates of participants that were removed or renewed on request; they are
            valid until they expire or are revoked.
        certificates: all certificates, the root's first.
        root: SHA-256 of the root's certificate, in hexadecimal, and when it was made.
        root_kept: the folder had the root and its key already.
    """

    kits: Mapping[str, Path]
    added: tuple[str, ...]
    changed: tuple[str, ...]
    removed: tuple[str, ...]
    kept: tuple[Path, ...]
    reissued: Mapping[str, str]
    retired: tuple[Certificate, ...]
    certificates: tuple[Certificate, ...]
    root: tuple[str, datetime]
    root_kept: bool


def provision(
    topology: Topology,
    out: Path,
    *,
    remove: bool = False,
    renew: Collection[str] = (),
    request: Request | None = None,
) -> Provisioned:
    """Make the startup kits of a mesh in ``out/kits``, or bring them up to date.

    The private keys, the root's among them, stay in ``out/state``; a further call reuses them and does not
    touch a kit that needs no change. New kits are made in a scratch folder and then renamed: an interrupted
    call leaves the old kits, and the next call completes it. What lies beside a kit, such as logs and
    downloads of NVFlare, stays.

    The root certificate is valid for ``topology.certificates.root_days``, a participant's for ``days`` and at
    most as long as the root's; in its last 30 days, and where it is revoked, a call issues it anew, for a new
    key. Who made its key itself needs a new request after a revocation.

    Args:
        topology: the mesh.
        out: the mesh's folder.
        remove: delete kit and private key of participants that left the topology. Their certificates stay
            valid until they expire or are listed in ``topology.certificates.revoked``.
        renew: participants that get a new key and certificate.
        request: of a participant that made its key itself: its certificate is for that one, and neither kit
            nor state has the private key.

    Raises:
        ProvisionError: the topology contradicts what was provisioned before, or NVFlare refused it.
        GraphError, MissingExtra: the mesh cannot be built from the topology.
        StateError: what the folder remembers of the last provisioning is damaged.
        PlacementError, ReleaseError: a release would contradict the topology, Kubernetes or Helm.
    """
    mesh = build(topology)
    kits, state = out / "kits", out / "state"
    try:
        project = MeshProject(topology)
    except ValueError as error:
        raise ProvisionError(f"NVFlare refuses a name in the topology file: {error}") from None
    names, wanted = project.participants, profiles(topology)
    own_keys = {request.name: request.key} if request else {}
    if unknown := sorted({*renew, *own_keys}.difference(names)):
        raise ProvisionError(f"not in the topology file: {', '.join(unknown)}. It names {', '.join(names)}.")
    store = CertificateStore(out / CERTIFICATES)
    _check_root(topology, store.authority)
    removed = sorted(store.holders.difference(names))
    if removed and not remove:
        raise ProvisionError(
            f"provisioned before, but no longer in the topology file: {', '.join(removed)}. "
            "Run again with --remove to delete their kits and private keys, or put the entries back."
        )
    if kept_keys := [name for name in renew if store.own_key(name)]:
        raise ProvisionError(
            f"{', '.join(kept_keys)} made the key: `flaremesh request` there makes a new one, and "
            "`flaremesh sign` its certificate."
        )
    asked = {
        **dict.fromkeys(renew, "it was asked for"),
        **{name: "for its own key" for name, key in own_keys.items() if store.own_key(name) != key},
    }
    revoked = {int(serial) for serial in topology.certificates.revoked}
    closed_out = {
        one.holder: "it is revoked"
        for one in store.certificates()
        if one.serial in revoked and one.holder in store.holders and not store.own_key(one.holder)
    }
    reissued = store.stale(wanted) | closed_out | {name: asked[name] for name in asked.keys() & store.holders}
    retired = tuple(one for one in store.certificates() if one.holder in {*removed, *asked})
    store.forget(removed)
    root_kept = store.authority is not None
    authority = store.authority or Authority.new(topology.name, topology.certificates.root_days)
    for name in names:
        if name in reissued or name not in store.holders:
            own_key = own_keys.get(name) or store.own_key(name)
            store.issue(authority, wanted[name], topology.certificates.days, own_key)
    documents = charters.seal(charters.charters(topology, mesh), authority, out / charters.CHARTERS)
    startup = {
        name: store.startup(wanted[name]) | {CHARTER: document.encode()}
        for name, document in documents.items()
    }

    state.mkdir(mode=0o700, parents=True, exist_ok=True)
    kits.mkdir(exist_ok=True)
    with workplace(out, f"{kits.name}/*", f"{kits.name}/*/*", RELEASES, f"{RELEASES}/*/*") as work:
        if (kits / RELEASES / SERVER / KIT_VALUES).exists():
            # not a kit of a site called helm, but the releases that earlier versions wrote here
            (kits / RELEASES).rename(work / "stray")
        built = _make(project, topology, mesh, startup, work / "nvflare")
        for name in names:
            files = startup_files(built / name / PARTS[0])
            (built / name / README).write_text(kit_readme(topology.name, wanted[name], files))
            stamp(built / name, topology.code)
        if topology.deploy:
            _write_releases(topology, mesh, built, work / RELEASES)
        before = {kit.name for kit in kits.iterdir() if (kit / PARTS[0]).exists()}
        kept = []
        for name in removed:
            kept += [kits / name] * remove_entries(kits / name, _KIT, work)
            kept += [out / RELEASES / name] * remove_release(out / RELEASES / name, work)
        # first keys and signatures, which no other call would make alike: if the process ends before the kits
        # are there, the next one makes them from these
        replace_text(store.json(), out / CERTIFICATES, work, mode=0o600)
        replace_text(json.dumps(documents), out / charters.CHARTERS, work, mode=0o600)
        for name in own_keys:
            _remove_former_key(kits / name / PARTS[0], own_keys[name])
        replaced = [name for name in names if replace_folder(built / name, kits / name, work)]
        replace_text(firewall.sheet(topology, mesh), out / "firewall.md", work, mode=0o644)
        if topology.deploy:
            replace_releases(work / RELEASES, out / RELEASES, work)
        # last, since it says that all of the above is done
        replace_text(topology.model_dump_json(), out / LAST_TOPOLOGY, work, mode=0o600)
    return Provisioned(
        kits={name: kits / name for name in names},
        added=tuple(name for name in replaced if name not in before),
        changed=tuple(name for name in replaced if name in before),
        removed=tuple(removed),
        kept=tuple(kept),
        reissued=reissued,
        retired=retired,
        certificates=store.certificates(),
        root=(authority.certificate.fingerprint(SHA256()).hex(), authority.certificate.not_valid_before_utc),
        root_kept=root_kept,
    )


def _remove_former_key(startup: Path, key: rsa.RSAPublicKey) -> None:
    """Remove the key from before the participant made one itself, which would stay beside the new kit."""
    file = startup_files(startup).key
    with suppress(OSError, ValueError):
        if read_key(file.read_bytes()).public_key() != key:
            file.unlink()


def _write_releases(topology: Topology, mesh: Mesh, kits: Path, folder: Path) -> None:
    """Make ``folder`` with a folder per participant."""
    folder.mkdir()
    for release in releases(topology):
        write_release(topology, mesh, release, kits / release.name, folder / release.name)
    if topology.deploy and topology.deploy.monitoring:
        write_monitoring(topology, topology.deploy.monitoring, folder / MONITORING)


def _check_root(topology: Topology, authority: Authority | None) -> None:
    """A root certificate lasts as long as the mesh: refuse what would need another one."""
    if authority is None:
        return
    root = authority.certificate
    name = str(root.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value)
    days = (root.not_valid_after_utc - root.not_valid_before_utc).days
    asked = topology.certificates.root_days
    if name != topology.name:
        conflict = f"this folder holds the mesh {name}, and the topology file names it {topology.name}"
    elif days != asked:
        conflict = f"the root certificate was made for {days} days, and the topology file asks for {asked}"
    elif root.not_valid_after_utc < datetime.now(UTC):
        raise ProvisionError(
            f"the root certificate expired on {root.not_valid_after_utc:%Y-%m-%d}. "
            "Provision into another folder and hand out the new kits to everybody."
        )
    else:
        return
    raise ProvisionError(
        f"{conflict}. It cannot change in a mesh that exists: undo that change, "
        "or provision into another folder (--output) and hand out the new kits to everybody."
    )


def _make(
    project: MeshProject, topology: Topology, mesh: Mesh, startup: Mapping[str, Files], folder: Path
) -> Path:
    """Let NVFlare make all kits."""
    settings = Settings(
        classes=[*CLASSES, *map(prefix_of, topology.code.packages)],
        code=topology.code.files,
        server=server_agent(topology),
        agents=site_agents(topology, mesh),
    )
    try:
        return project.make_kits(settings, startup, folder)
    except KitsRefused as error:
        raise ProvisionError(f"NVFlare could not make the kits: {error}") from error
