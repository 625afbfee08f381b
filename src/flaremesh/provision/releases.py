"""A folder per participant with all that its admin needs to install it on Kubernetes with Helm."""

import json
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from jinja2 import StrictUndefined, Template
from pydantic import ValidationError

from flaremesh.errors import FlaremeshError
from flaremesh.provision import firewall
from flaremesh.provision.firewall import FirewallRule
from flaremesh.provision.monitoring_values import MonitoringValues
from flaremesh.provision.placement import (
    in_neighbour,
    meeting_peers,
    namespace_of,
    out_neighbour,
    server_peer,
)
from flaremesh.provision.replacement import remove_entries, replace_folder
from flaremesh.provision.values import (
    Gpus,
    Image,
    Kit,
    Link,
    Participant,
    ServerValues,
    SiteValues,
    Storage,
)
from flaremesh.topology.mesh import Mesh
from flaremesh.topology.schema import SERVER, Deploy, Topology

CHARTS = Path(__file__).parents[1] / "charts"
"""The folder of the charts."""

RELEASES = "helm"
"""Folder of the mesh with a folder per participant."""

MONITORING = "monitoring"
"""Folder of RELEASES with the release that watches the mesh, which has the same name."""

MONITORING_CHART = "flaremesh-monitoring"
"""Its chart."""

_CHARTS = ("flaremesh-server", "flaremesh-site", MONITORING_CHART)

RULES = CHARTS / MONITORING_CHART / "files/rules.yaml"
DASHBOARDS = CHARTS / MONITORING_CHART / "files/dashboards"
METRIC_RELABELING = CHARTS / MONITORING_CHART / "files/metric-relabeling.yaml"
"""Files of that chart that Prometheus and Grafana also take outside of it, since they hold no templates."""

VALUES, KIT_VALUES, README = "values.yaml", "kit.yaml", "README.md"

OWN_VALUES = "mine.yaml"
"""What the participant's admin sets beside them."""

_OWN = "# Your own values. They win over those of the other files; provisioning never changes this one.\n"

_LONGEST_NAME = 52
"""Kubernetes appends a hyphen and ten characters to a StatefulSet's name, and a label holds 63."""


_OF_TEST = "-test"
"""Suffix of the objects that a chart makes to test its release, after the release's name."""


class ReleaseError(FlaremeshError):
    """The topology file asks for a release that Helm or Kubernetes would refuse."""

    exit_code = 2


@dataclass(frozen=True)
class Release:
    """How a participant is installed.

    Attributes:
        name: of the release and of the participant.
        namespace: its namespace.
        chart: name of its chart.
    """

    name: str
    namespace: str
    chart: str


def releases(topology: Topology) -> tuple[Release, ...]:
    """The server's release first, then the sites' in the order of the topology.

    Raises:
        PlacementError: a host contradicts the participant or its namespace.
        ReleaseError: a name is too long, or taken.
    """
    names = [SERVER, *(site.name for site in topology.sites)]
    if too_long := [name for name in names if len(name) > _LONGEST_NAME]:
        raise ReleaseError(
            f"Kubernetes needs names of at most {_LONGEST_NAME} characters: shorten {', '.join(too_long)}"
        )
    if MONITORING in names and topology.deploy and topology.deploy.monitoring:
        raise ReleaseError(f"deploy.monitoring makes a release of the name {MONITORING}: rename that site")
    found = tuple(Release(name, namespace_of(topology, name), _chart(name)) for name in names)
    places = {(release.namespace, release.name) for release in found}
    for release in found:
        if (release.namespace, of_test := f"{release.name}{_OF_TEST}") in places:
            raise ReleaseError(
                f"{of_test} is what Kubernetes calls the test of {release.name}: rename that site"
            )
    return found


def check(topology: Topology, mesh: Mesh) -> None:
    """Check that every participant's release can be written.

    Raises:
        PlacementError, ReleaseError: it would contradict the topology, Kubernetes or Helm.
    """
    for release in releases(topology):
        values_of(topology, mesh, release.name)


def release_folder(mesh: Path, participant: str) -> Path:
    """The folder that ``write_release`` made in the folder of a provisioned mesh.

    Raises:
        ReleaseError: there is none.
    """
    folder = mesh / RELEASES / participant
    if not folder.is_dir():
        raise ReleaseError(
            f"there is no folder {folder}: write `deploy: {{}}` into the topology file and run "
            "`flaremesh provision`"
        )
    return folder


def values_of(topology: Topology, mesh: Mesh, participant: str) -> ServerValues | SiteValues:
    """The values of a participant's release, without its kit.

    Raises:
        ReleaseError: the participant's chart has no such value.
    """
    values = _derived(topology, mesh, participant)
    merged = _merged(values.model_dump(mode="json", by_alias=True), _further(topology))
    try:
        # as strictly as Helm, which takes no text for a number
        document = json.dumps(_without_nulls(merged))
        return type(values).model_validate_json(document, strict=True, by_alias=True, by_name=False)
    except TypeError as error:
        raise ReleaseError(f"deploy.values: {error}; put dates in quotes") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, ("deploy.values", *first["loc"])))
        raise ReleaseError(
            f"the chart {_chart(participant)} refuses {where}: {first['msg']}; its README lists all values"
        ) from None


def _derived(topology: Topology, mesh: Mesh, participant: str) -> ServerValues | SiteValues:
    deploy = topology.deploy or Deploy()
    base: dict[str, Any] = {
        "name": participant,
        "mesh": topology.name,
        "storage": Storage(class_name=deploy.storage or ""),
        "metrics": {"scraper_namespace": deploy.monitoring or ""},
    }
    if participant == SERVER:
        sites = tuple(in_neighbour(topology, site.name) for site in topology.sites)
        return ServerValues(
            **base,
            image=Image.of(deploy.image),
            port=topology.server.port,
            meet_port=topology.meeting_port or 0,
            sites=sites,
        )
    sites_by_name = {site.name: site for site in topology.sites}
    site = sites_by_name[participant]
    first, last = site.link.port_range if site.link else (0, 0)
    links = [rule for rule in firewall.rules(topology, mesh) if rule.target != SERVER]
    return SiteValues(
        **base,
        image=Image.of(deploy.gpu_image if site.gpus else deploy.image),
        server=server_peer(topology),
        meet=meeting_peers(topology),
        link=Link(
            first_port=first,
            last_port=last,
            from_=tuple(in_neighbour(topology, rule.source) for rule in links if rule.target == participant),
            to=tuple(
                out_neighbour(topology, sites_by_name[rule.target])
                for rule in links
                if rule.source == participant
            ),
        ),
        gpus=Gpus(count=site.gpus),
    )


def write_release(topology: Topology, mesh: Mesh, release: Release, kit: Path, folder: Path) -> None:
    """Write ``folder``: chart, values, the kit as values, and a README that suffices to install them.

    A file for its admin's own values is begun, too.

    Args:
        topology: the mesh.
        mesh: what was built from it.
        release: the participant's release.
        kit: the participant's startup kit.
        folder: the folder to write; must not exist.
    """
    shutil.copytree(CHARTS / release.chart, folder / release.chart)
    values = values_of(topology, mesh, release.name)
    local = Kit(local=_files(kit / "local"))
    derived = _given(_derived(topology, mesh, release.name)) | {"kit": _given(local)}
    write_values(folder / VALUES, _merged(derived, _further(topology)), mode=0o644)
    write_values(folder / KIT_VALUES, {"kit": _given(Kit(startup=_files(kit / "startup")))}, mode=0o600)
    (folder / OWN_VALUES).write_text(_OWN)
    rules = [rule for rule in firewall.rules(topology, mesh) if release.name in (rule.source, rule.target)]
    shared = [topology.shared_by(site) for site in topology.sites if site.name == release.name]
    (folder / README).write_text(_readme(release, values, rules, *shared))


def write_monitoring(topology: Topology, namespace: str, folder: Path) -> None:
    """Write ``folder``: chart, values and README of the release that watches the mesh.

    Args:
        topology: the mesh.
        namespace: the release's, whose pods the participants admit.
        folder: the folder to write; must not exist.
    """
    release = Release(MONITORING, namespace, MONITORING_CHART)
    shutil.copytree(CHARTS / release.chart, folder / release.chart)
    namespaces = sorted({participant.namespace for participant in releases(topology)})
    values = MonitoringValues(meshes=(topology.name,), namespaces=tuple(namespaces))
    write_values(folder / VALUES, _given(values), mode=0o644)
    (folder / OWN_VALUES).write_text(_OWN)
    (folder / README).write_text(_page("monitoring.md.j2", release=release, values=values))


def replace_releases(new: Path, old: Path, work: Path) -> None:
    """Bring the folders of ``old`` up to date with those in ``new``; what their admins put there stays.

    Args:
        new: folder with what write_release and write_monitoring made.
        old: the folder RELEASES of the mesh.
        work: scratch folder, made by replacement.workplace.
    """
    old.mkdir(exist_ok=True)
    folders = sorted(new.iterdir())
    for folder in folders:
        if (old / folder.name / OWN_VALUES).exists():
            (folder / OWN_VALUES).unlink()
        replace_folder(folder, old / folder.name, work, whole=_CHARTS)
    for name in {folder.name for folder in old.iterdir()}.difference(folder.name for folder in folders):
        if any((old / name / chart).exists() for chart in _CHARTS):
            remove_release(old / name, work)


def remove_release(folder: Path, work: Path) -> bool:
    """Remove what was made in a release's folder; says whether something stays, e.g. its admin's values."""
    own = folder / OWN_VALUES
    untouched = own.is_file() and own.read_bytes() == _OWN.encode()
    return remove_entries(folder, [*_CHARTS, VALUES, KIT_VALUES, README, *[OWN_VALUES] * untouched], work)


def _readme(
    release: Release, values: Participant, rules: Sequence[FirewallRule], shared: Sequence[str] = ()
) -> str:
    return _page(
        "release.md.j2",
        release=release,
        values=values,
        rules=rules,
        shared=shared,
        image=values.image.name,
        is_server=release.name == SERVER,
    )


def _page(name: str, **content: Any) -> str:
    template = resources.files("flaremesh.provision").joinpath(name).read_text()
    page: str = Template(template, keep_trailing_newline=True, undefined=StrictUndefined).render(content)
    return page


def _chart(participant: str) -> str:
    return _CHARTS[0] if participant == SERVER else _CHARTS[1]


def _files(folder: Path) -> dict[str, str]:
    # without NVFlare's start scripts, which pods do not use
    return {path.name: path.read_text() for path in sorted(folder.iterdir()) if path.suffix != ".sh"}


def _further(topology: Topology) -> Mapping[str, Any]:
    return topology.deploy.values if topology.deploy else {}


def _merged(values: Mapping[str, Any], further: Mapping[str, Any]) -> dict[str, Any]:
    """Merge as Helm merges a further file of values, but keep nulls, for Helm to act on."""
    result = dict(values)
    for key, value in further.items():
        old = result.get(key)
        result[key] = _merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return result


def _without_nulls(values: Any) -> Any:
    """The values that Helm leaves when a null takes a value away."""
    if not isinstance(values, dict):
        return values
    return {key: _without_nulls(value) for key, value in values.items() if value is not None}


def _given(values: Any) -> dict[str, Any]:
    """What differs from the chart's defaults."""
    return dict(values.model_dump(mode="json", by_alias=True, exclude_defaults=True))


def write_values(path: Path, document: Mapping[str, Any], *, mode: int) -> None:
    """Write a file of values, with quotes wherever some YAML reader would not take a text for text.

    Args:
        path: the file.
        document: its values.
        mode: of the file, for one that does not exist yet.
    """
    path.touch(mode=mode)
    path.write_text(yaml.dump(dict(document), Dumper=_Dumper, sort_keys=False, width=110))


class _Dumper(yaml.SafeDumper):
    """Writes texts of several lines as blocks, and others in quotes where some YAML reader needs them.

    Helm's reader takes 1234e56 and 0934812 for numbers and y for a truth value; PyYAML's does not.
    """


_ONLY_TEXT = re.compile(
    r"(?!(?:y|n|yes|no|on|off|true|false|null)$)[a-z][a-z0-9./_-]*", re.ASCII | re.IGNORECASE
)
"""Texts that need no quotes."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else None if _ONLY_TEXT.fullmatch(text) else '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)
