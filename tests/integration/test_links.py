"""Sites exchange over links of their own; the server carries what it must, and nothing in silence."""

import json
import re
import socket
import subprocess
from dataclasses import replace

import pytest
from command_mesh import SITES
from cryptography import x509
from running_mesh import wait_until

from flaremesh.p2p.charter import CHARTER, CHARTER_RECORD, read
from flaremesh.p2p.nvflare.startup import RUNS
from flaremesh.provision.certificates import CERTIFICATES
from flaremesh.signatures import sealed
from flaremesh.topology.links import Carried
from programs import lacking, program

VECTOR = {"path": "faulty.Unhurried", "args": {"dimension": 100_000}}
DIRECT = {site: dict.fromkeys(set(SITES) - {site}, "direct") for site in SITES}
RELAYED = {site: dict.fromkeys(peers, "relayed") for site, peers in DIRECT.items()}


def links_of(result):
    return {name: site["links"] for name, site in result["sites"].items()}


def exchanged_bytes(mesh, run_id):
    """Payload that the sites have sent one another in a run."""
    total = 0.0
    for site in SITES:
        slots = [labels["slot"] for labels, _ in mesh.samples(site, "run_info") if labels["run_id"] == run_id]
        total += sum(v for labels, v in mesh.samples(site, "sent_bytes_total") if labels["slot"] in slots)
    return total


def connections(option, ports):
    """A line for each TCP connection; with the option --kill, of those that are no more."""
    options = ("--tcp", "--numeric", "--no-header", "--oneline", option)
    command = [program("ss"), *options, "state", "established", ports]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


def server_bytes(mesh):
    """What all connections to the server have carried, as the kernel counts it."""
    counts = re.findall(r"\bbytes_(?:sent|received):(\d+)", connections("--info", f"sport = :{mesh.port}"))
    assert counts
    return sum(map(int, counts))


def share_of_the_server(mesh, run_id, payload_bytes):
    """Bytes through the server for each byte exchanged, while so many bytes or more are exchanged."""
    server, exchanged = server_bytes(mesh), exchanged_bytes(mesh, run_id)
    wait_until(lambda: exchanged_bytes(mesh, run_id) > exchanged + payload_bytes, 60)
    return (server_bytes(mesh) - server) / (exchanged_bytes(mesh, run_id) - exchanged)


def links_shown(mesh, run_id):
    """What `flaremesh status` says of a run's links."""
    (run,) = (run for run in mesh.status()["runs"] if run["run_id"] == run_id)
    return links_of(run)


def test_everything_is_relayed_where_the_run_says_so(mesh):
    with mesh.endless(problem=VECTOR, links="relay") as run_id:
        assert share_of_the_server(mesh, run_id, 5e7) > 1
        wait_until(lambda: links_shown(mesh, run_id) == RELAYED, 20)


def test_a_site_without_an_address_reaches_the_others_itself_and_they_are_dialled_back(mesh):
    result = mesh.run(file=mesh.topology("consensus", addresses={"bonn": None}, links="direct"))
    assert links_of(result) == {
        site: {peer: "dialled back" if peer == "bonn" else "direct" for peer in peers}
        for site, peers in DIRECT.items()
    }


@pytest.mark.parametrize("command", ["plan", "run"])
def test_links_direct_is_refused_where_two_neighbours_have_no_address(mesh, command):
    addresses = {"bonn": None, "aachen": None}
    ended = mesh.call(command, file=mesh.topology("consensus", addresses=addresses, links="direct"))
    assert ended.returncode == 2
    assert re.search(
        r"links: direct needs an address at one of two neighbours; \w+ and \w+ have none", ended.stderr
    )


def test_ports_that_are_all_taken_fail_the_run_with_the_site_and_the_ports(mesh):
    low = int(str(mesh.links["bonn"]["ports"]).partition("-")[0])
    one = {"bonn": {"host": "localhost", "ports": low}}  # of those in its kit
    with socket.create_server(("localhost", low)):
        ended = mesh.call("run", "--json", file=mesh.topology("consensus", addresses=one))
    assert ended.returncode == 1
    assert ended.stderr.splitlines()[-1].startswith(f"Error: bonn: port {low} is taken")
    assert json.loads(ended.stdout)["seconds"] < 15


@pytest.fixture
def revoked(mesh):
    """bonn, whose certificate is revoked as aachen knows; to the server and to itself bonn is who it was."""
    startup = mesh.folder / "local/aachen/startup"
    kept = (startup / CHARTER).read_text()
    of_bonn = x509.load_pem_x509_certificate((mesh.folder / "local/bonn/startup" / RUNS).read_bytes())
    charter = replace(read(startup), revoked=(str(of_bonn.serial_number),))
    root_key = json.loads((mesh.folder / CERTIFICATES).read_bytes())["root_pri_key"].encode()
    (startup / CHARTER).write_text(sealed(CHARTER_RECORD.json(charter), root_key))
    yield "bonn"
    (startup / CHARTER).write_text(kept)


def test_a_certificate_that_was_revoked_fails_the_run_and_is_never_relayed(mesh, revoked):
    ended = mesh.call("run", "--json", file=mesh.topology("consensus"))
    assert ended.returncode == 1
    assert re.search(rf"Error: .*\b{revoked}\b.*revoked", ended.stderr)
    result = json.loads(ended.stdout)
    assert result["seconds"] < 15
    for site in SITES:
        log = (mesh.folder / "local" / site / result["run_id"] / "log.txt").read_text()
        # who dials after the first has left finds nobody
        assert not [line for line in log.splitlines() if ": relay" in line and "refused)" not in line]


@pytest.fixture(scope="module")
def run_id(mesh):
    """A run of 0.8 MB messages without end, which iterates."""
    with mesh.endless(problem=VECTOR) as run_id:
        yield run_id


def test_every_link_of_sites_with_addresses_is_direct_wherever_one_looks(mesh, run_id):
    wait_until(lambda: links_shown(mesh, run_id) == DIRECT, 20)
    for site, peers in DIRECT.items():
        carried = {(labels["peer"], labels["kind"]): on for labels, on in mesh.samples(site, "edge_link")}
        assert carried == {(peer, word): word == "direct" for peer in peers for word in Carried}
        log = (mesh.folder / "local" / site / run_id / "log.txt").read_text()
        assert all(f"{site} -> {peer}: direct" in log for peer in peers)


def test_the_server_carries_less_than_a_hundredth_of_what_is_exchanged(mesh, run_id):
    assert share_of_the_server(mesh, run_id, 1e9) < 0.01


def test_a_second_run_at_once_takes_ports_of_its_own(mesh, run_id):
    assert links_of(mesh.run()) == DIRECT


def test_a_run_outlives_the_loss_of_all_its_connections(mesh, run_id):
    first, last = mesh.link_ports
    killed = connections("--kill", f"sport >= :{first} and sport <= :{last}").splitlines()
    if not killed:
        lacking("nobody here may kill a connection", "run the tests as root", ci_has_it=False)
    assert len(killed) == len(SITES)  # one for each pair of three
    assert share_of_the_server(mesh, run_id, 1e9) < 0.01
    assert links_shown(mesh, run_id) == DIRECT
