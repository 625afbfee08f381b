"""A run of which the server tells what was not signed, or what a site's kit does not know, never begins."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from attacked_mesh import END_SECONDS, SITES, AttackedMesh, attacked_mesh, seal

from ports import free_port

Told: TypeAlias = dict[str, Any]
"""The configuration of the controller, which the server alone reads."""


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AttackedMesh]:
    """Carol is berta's neighbour, and not adam's."""
    with attacked_mesh(tmp_path_factory.mktemp("mesh"), graph={"kind": "path"}) as mesh:
        yield mesh


def a_weaker_carrier(told: Told) -> None:
    told["extra"]["links"] = "relay"


def a_neighbour_that_the_kit_does_not_know(told: Told) -> None:
    """Adam has berta's place between the others."""
    others = {"adam": "berta", "berta": "adam"}
    for node in told["network"]["nodes"]:
        for named in (node, *node["neighbors"]):
            named["id"] = others.get(named["id"], named["id"])


def a_place_that_the_kit_does_not_know(told: Told) -> None:
    port = free_port()
    told["links"]["berta"] = {"host": "localhost", "ports": [port, port]}


@pytest.mark.parametrize(
    ("lie", "counted"),
    [
        (a_weaker_carrier, {"`links: relay` for `links: direct`": set(SITES)}),
        (
            a_neighbour_that_the_kit_does_not_know,
            # berta, who is told of no edge with carol, has no series of hers
            {"is to be a neighbour of": {"adam", "carol"}, "no edge berta-carol": {""}},
        ),
        (a_place_that_the_kit_does_not_know, {"another place where to dial berta": {"", "berta"}}),
    ],
)
def test_a_lie_of_the_server_ends_the_run_before_it_begins_and_is_named_and_counted(
    mesh: AttackedMesh, tmp_path: Path, lie: Callable[[Told], None], counted: dict[str, set[str]]
) -> None:
    """``counted``: under which peers, by the words with which a site refuses."""
    job = mesh.job(tmp_path / "job", links="direct", iterations=1)
    file = job / "app_server/config/config_fed_server.json"
    config = json.loads(file.read_text())
    lie(config["workflows"][0]["args"]["config"])
    file.write_text(json.dumps(config))
    seal(job)
    with mesh.session() as session:
        run_id = session.submit(job)
        assert session.wait(run_id, 2 * END_SECONDS)
    # the first site that notices ends the run
    logs = {site: mesh.log(site, run_id) for site in SITES}
    noticed = {s: peers for s, log in logs.items() for words, peers in counted.items() if words in log}
    assert noticed, {site: log[-2000:] for site, log in logs.items()}
    # what a site shows of a run takes the place of what it showed of the one before
    assert all(run_id in mesh.get(site, "/metrics").decode() for site in noticed)
    assert all(sum(mesh.refused(site, peer) for peer in peers) for site, peers in noticed.items())
    assert not list(mesh.folder.glob(f"local/*/{run_id}/**/history.jsonl"))
