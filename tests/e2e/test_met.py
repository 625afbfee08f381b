"""A mesh of sites that let nobody in: they meet at the server's meeting point."""

from collections.abc import Iterator

import pytest
import yaml
from cluster import connects, listening, objects
from installed_mesh import EXAMPLE, ITERATIONS, Mesh, installed

NAME = "hidden"
LINK_PORT, MEETING_PORT = 8105, 8003


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    """The example's mesh without an address at any site."""
    example = yaml.safe_load(EXAMPLE.read_text())
    sites = [{"name": site["name"], "org": site["org"]} for site in example["sites"]]
    server = example["server"] | {"host": f"server.{NAME}-server.svc", "meet": {"port": MEETING_PORT}}
    with installed(Mesh(tmp_path_factory.mktemp(NAME), name=NAME, server=server, sites=sites)) as mesh:
        yield mesh


def test_sites_that_let_nobody_in_meet_in_every_pair_and_are_as_accurate_as_on_one_machine(mesh: Mesh):
    result = mesh.run()

    expected = mesh.simulated()
    assert result["outcome"] == "finished"
    for site, figures in result["sites"].items():
        assert figures["iterations"] == ITERATIONS
        assert set(figures["links"].values()) == {"met"}
        assert figures["metrics"]["accuracy"] == pytest.approx(expected[site]["accuracy"], abs=0.01)


def test_a_site_reaches_the_meeting_point_and_no_other_site(mesh: Mesh):
    bonn = mesh.namespaces["bonn"]
    assert connects(bonn, "bonn-0", f"server.{mesh.namespaces['server']}.svc", MEETING_PORT)
    with listening(mesh.namespaces["aachen"], "aachen-0", LINK_PORT):
        assert not connects(bonn, "bonn-0", f"aachen.{mesh.namespaces['aachen']}.svc", LINK_PORT)


def test_the_policies_of_the_sites_let_nobody_in_but_scraper_and_test(mesh: Mesh):
    for site in mesh.topology.sites:
        (policy,) = (
            policy["spec"]
            for policy in objects(mesh.namespaces[site.name], "networkpolicies")
            if policy["metadata"]["name"] == site.name
        )
        assert {port["port"] for rule in policy["ingress"] for port in rule["ports"]} == {9464}
