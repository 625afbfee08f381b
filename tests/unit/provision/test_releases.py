"""The folder per participant with its Helm release: values, kit, README, and what is refused."""

import stat
from datetime import date
from pathlib import Path

import pytest
import yaml

from flaremesh.provision.kits import provision
from flaremesh.provision.plan import plan
from flaremesh.provision.releases import ReleaseError, releases, values_of
from flaremesh.topology.mesh import build
from flaremesh.topology.schema import Topology

IN_CLUSTER = {"host": "server.ring-server.svc", "org": "o"}


def site(name: str, **fields) -> dict:
    return {"name": name, "org": "o", "link": {"host": f"{name}.ring-{name}.svc", "ports": "8102"}} | fields


@pytest.fixture(scope="module")
def topology(make_topology) -> Topology:
    shared = {"share": ["ready", "train_loss"]}
    sites = [site("bonn", gpus=2, metrics=shared), site("ulm"), site("kiel", link=None)]
    deploy = {
        "image": "registry.example.org:5000/flaremesh:1.2",
        "gpuImage": f"flaremesh@sha256:{'0' * 64}",
        "storage": "fast",
        "values": {"storage": {"size": "50Gi"}, "networkPolicy": {"dns": {"namespace": "dns"}}},
    }
    return make_topology(server=IN_CLUSTER, sites=sites, graph={"kind": "complete"}, deploy=deploy)


@pytest.fixture(scope="module")
def folder(topology: Topology, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("releases")
    provision(topology, out)
    return out / "helm"


def values(topology: Topology, name: str):
    return values_of(topology, build(topology), name)


def test_there_is_a_release_for_the_server_and_each_site(topology: Topology) -> None:
    assert [(release.name, release.namespace, release.chart) for release in releases(topology)] == [
        ("server", "ring-server", "flaremesh-server"),
        ("bonn", "ring-bonn", "flaremesh-site"),
        ("ulm", "ring-ulm", "flaremesh-site"),
        ("kiel", "ring-kiel", "flaremesh-site"),
    ]


def test_a_site_without_an_address_dials_and_is_not_dialled(topology: Topology) -> None:
    kiel, ulm = (values(topology, name).link for name in ("kiel", "ulm"))
    assert (kiel.first_port, kiel.from_) == (0, ())
    assert [peer.name for peer in kiel.to] == ["bonn", "ulm"]
    assert [peer.name for peer in ulm.from_] == ["bonn", "kiel"]
    assert [peer.name for peer in ulm.to] == ["bonn"]


def test_the_server_knows_every_site(topology: Topology) -> None:
    assert [peer.name for peer in values(topology, "server").sites] == ["bonn", "ulm", "kiel"]


def test_a_site_with_gpus_has_the_image_for_them(topology: Topology) -> None:
    bonn, ulm = values(topology, "bonn"), values(topology, "ulm")
    assert (bonn.gpus.count, bonn.image.name) == (2, f"flaremesh@sha256:{'0' * 64}")
    assert (ulm.gpus.count, ulm.image.name) == (0, "registry.example.org:5000/flaremesh:1.2")


def test_further_values_join_those_that_follow_from_the_topology(topology: Topology) -> None:
    for name in ("server", "bonn"):
        storage, dns = values(topology, name).storage, values(topology, name).network_policy.dns
        assert (storage.class_name, storage.size) == ("fast", "50Gi")
        assert (dns.namespace, dns.labels) == ("dns", {"k8s-app": "kube-dns"})


def test_a_null_takes_a_default_away_and_reaches_helm(make_topology, tmp_path: Path) -> None:
    labels = {"k8s-app": None, "app": "names"}
    further = {"networkPolicy": {"dns": {"labels": labels}}}
    topology = make_topology(deploy={"values": further})
    assert values(topology, "bonn").network_policy.dns.labels == {"app": "names"}
    provision(topology, tmp_path)
    written = yaml.safe_load((tmp_path / "helm/bonn/values.yaml").read_text())
    assert written["networkPolicy"]["dns"]["labels"] == labels


@pytest.mark.parametrize(
    ("further", "message"),
    [
        ({"storge": {}}, r"flaremesh-server refuses deploy\.values\.storge"),
        ({"storage": {"size": "big"}}, r"deploy\.values\.storage\.size"),
        ({"name": {"is": "bonn"}}, r"deploy\.values\.name"),
        ({"gpus": {"count": 1}}, r"flaremesh-server refuses deploy\.values\.gpus"),
        ({"storage": {"class_name": "fast"}}, r"deploy\.values\.storage\.class_name"),
        ({"terminationGracePeriodSeconds": "60"}, r"deploy\.values\.terminationGracePeriodSeconds"),
        ({"resources": {"until": date(2024, 1, 1)}}, r"deploy\.values: .* put dates in quotes"),
    ],
)
def test_a_further_value_that_a_chart_does_not_have_is_refused(
    make_topology, further: dict, message: str
) -> None:
    topology = make_topology(deploy={"values": further})
    with pytest.raises(ReleaseError, match=message):
        values(topology, "server")


def test_a_name_that_kubernetes_cannot_bear_is_refused(make_topology) -> None:
    longest = "b" * 52
    assert releases(make_topology(longest, "ulm", "kiel"))[1].name == longest
    with pytest.raises(ReleaseError, match=f"at most 52 characters: shorten {longest}b"):
        releases(make_topology(f"{longest}b", "ulm", "kiel"))


def test_a_plan_says_what_no_release_can_hold(make_topology) -> None:
    with pytest.raises(ReleaseError, match="at most 52 characters"):
        plan(make_topology("b" * 53, "ulm", "kiel", deploy={}))
    with pytest.raises(ReleaseError, match=r"deploy\.values\.storge"):
        plan(make_topology(deploy={"values": {"storge": {}}}))
    assert plan(make_topology("b" * 53, "ulm", "kiel")).name == "ring"


def test_no_site_has_the_name_of_anothers_test_in_one_namespace(make_topology) -> None:
    names = ("bonn", "bonn-test", "ulm")
    with pytest.raises(ReleaseError, match="bonn-test is what Kubernetes calls the test of bonn"):
        releases(make_topology(*names, deploy={"namespace": "ring"}))
    assert len(releases(make_topology(*names, deploy={}))) == 4


def test_the_private_key_is_in_a_file_for_its_owner_and_nowhere_else(folder: Path) -> None:
    for release in folder.iterdir():
        kit = release / "kit.yaml"
        assert stat.S_IMODE(kit.stat().st_mode) == 0o600
        assert [p for p in release.rglob("*") if p.is_file() and "PRIVATE KEY" in p.read_text()] == [kit]


def test_the_files_hold_the_whole_kit_but_scripts_for_machines(folder: Path) -> None:
    for release in folder.iterdir():
        startup = yaml.safe_load((release / "kit.yaml").read_text())["kit"]["startup"]
        local = yaml.safe_load((release / "values.yaml").read_text())["kit"]["local"]
        kit = folder.parent / "kits" / release.name
        for part, given in (("startup", startup), ("local", local)):
            files = {path.name: path.read_text() for path in (kit / part).iterdir() if path.suffix != ".sh"}
            assert given == files


def test_a_release_holds_its_chart_without_links_to_elsewhere(folder: Path) -> None:
    for release in folder.iterdir():
        (chart,) = release.glob("flaremesh-*")
        assert (chart / "charts/flaremesh-participant/Chart.yaml").is_file()
        assert [path for path in release.rglob("*") if path.is_symlink()] == []


def test_an_admins_own_values_outlive_another_provisioning(make_topology, tmp_path: Path) -> None:
    own = [tmp_path / "helm" / release / "mine.yaml" for release in ("bonn", "monitoring")]
    provision(make_topology(deploy={"monitoring": "watch"}), tmp_path)
    for file in own:
        assert yaml.safe_load(file.read_text()) is None
        file.write_text("metrics: {share: false}\n")
    provision(make_topology(deploy={"monitoring": "watch", "storage": "fast"}), tmp_path)
    assert "fast" in (tmp_path / "helm/bonn/values.yaml").read_text()
    assert [file.read_text() for file in own] == ["metrics: {share: false}\n"] * 2


def test_the_readme_says_how_to_install_this_release(folder: Path) -> None:
    readme = (folder / "bonn/README.md").read_text()
    for words in (
        "kubectl create namespace ring-bonn",
        "helm install bonn ./flaremesh-site --namespace ring-bonn",
        "-f values.yaml -f kit.yaml -f mine.yaml",
        "helm test bonn --namespace ring-bonn",
        f"flaremesh@sha256:{'0' * 64}",
        "| bonn | server | server.ring-server.svc | 8002 |",
        "| kiel | bonn | bonn.ring-bonn.svc | 8102 |",
    ):
        assert words in readme
    assert "| kiel | ulm |" not in readme


def test_the_readme_of_a_site_says_which_metrics_leave_it(folder: Path) -> None:
    assert "show these metrics of the site: `ready`, `train_loss`." in (folder / "bonn/README.md").read_text()
    assert "share" not in (folder / "ulm/README.md").read_text()
