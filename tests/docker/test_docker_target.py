"""A mesh as containers: up, run, status, down, and who reaches whom."""

import json
import socket
import subprocess
import sys
import urllib.request

import pytest
from container_mesh import IMAGE, LINK_PORT, VALUES, engine, wait_until

pytestmark = pytest.mark.timeout(300)

SITES = list(VALUES)
MEAN = sum(VALUES.values()) / len(VALUES)
CONNECT = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), 3)"
LISTEN = """
import socket, sys
listener = socket.create_server(("", int(sys.argv[1])))
while True:
    listener.accept()[0].close()
"""


def means(result):
    return {site: outcome["metrics"]["value"] for site, outcome in result["sites"].items()}


def test_a_path_agrees_on_the_mean_over_direct_links_and_leaves_its_results(mesh):
    result = mesh.run("--name", "first")
    assert (result["outcome"], means(result)) == ("finished", pytest.approx(dict.fromkeys(SITES, MEAN)))
    links = {site: outcome["links"] for site, outcome in result["sites"].items()}
    assert links["bonn"] == {"heidelberg": "direct", "aachen": "direct"}
    folder = mesh.folder / "runs" / result["run_id"]
    for site in SITES:
        rows = [json.loads(row) for row in (folder / site / "history.jsonl").read_text().splitlines()]
        assert [row["iteration"] for row in rows if "metrics" not in row] == list(range(1, 61))
        assert (folder / site / "model.safetensors").stat().st_size > 0


def test_up_changes_nothing_where_everything_is_up(mesh):
    before = mesh.labelled("container")
    again = mesh.call("up")
    assert (again.returncode, again.stdout.splitlines()[0]) == (0, "Already up.")
    assert mesh.labelled("container") == before


def test_status_shows_containers_and_metrics_that_the_engines_machine_can_read(mesh):
    status = mesh.status()
    assert status["ready"]
    assert status["registered"] == sorted(SITES)
    places = {participant["name"]: participant["place"] for participant in status["participants"]}
    assert places == {name: mesh.container(name) for name in ["server", *SITES]}
    for participant in status["participants"]:
        with urllib.request.urlopen(participant["metrics"], timeout=10) as reply:
            assert b"flaremesh_build_info" in reply.read()


def listening(mesh, site):
    """Listen at a site as a run would."""
    code = ["python", "-c", LISTEN, str(LINK_PORT)]
    assert engine("exec", "--detach", mesh.container(site), *code).returncode == 0
    wait_until(lambda: mesh.python(site, CONNECT, "127.0.0.1", str(LINK_PORT)).returncode == 0)


def test_a_site_reaches_its_neighbours_and_the_server_and_no_other_site(mesh):
    listening(mesh, "aachen")
    port = str(LINK_PORT)
    assert mesh.python("bonn", CONNECT, "aachen.mesh.test", port).returncode == 0
    assert mesh.python("heidelberg", CONNECT, "server.mesh.test", "8002").returncode == 0
    assert "gaierror" in mesh.python("heidelberg", CONNECT, "aachen.mesh.test", port).stderr
    for address in mesh.addresses("aachen"):
        assert mesh.python("bonn", CONNECT, mesh.addresses("aachen")[0], port).returncode == 0
        assert "Error" in mesh.python("heidelberg", CONNECT, address, port).stderr


def reachable(host, port):
    try:
        socket.create_connection((host, port), 3).close()
    except OSError:
        return False
    return True


@pytest.fixture
def stranger():
    """Address of a container on the engine's default network, which listens on port 8000."""
    code = ["-c", "import http.server as s; s.test(s.SimpleHTTPRequestHandler, port=8000)"]
    container = engine("run", "--detach", "--rm", "--entrypoint", "python", IMAGE, *code).stdout.strip()
    yield engine("inspect", "--format", "{{.NetworkSettings.IPAddress}}", container).stdout.strip()
    engine("rm", "--force", container)


@pytest.mark.parametrize("participant", ["server", "heidelberg"])
def test_no_participant_reaches_the_internet_or_other_containers(mesh, stranger, participant):
    wait_until(lambda: reachable(stranger, 8000))
    for host, port in [(stranger, "8000"), ("1.1.1.1", "443")]:
        assert "Error" in mesh.python(participant, CONNECT, host, port).stderr
    assert "gaierror" in mesh.python(participant, CONNECT, "example.org", "443").stderr


def test_a_participant_has_no_rights_and_cannot_change_image_or_kit(mesh):
    status = mesh.python("bonn", "print(open('/proc/1/status').read())").stdout.split("\n")
    fields = dict(line.split(":\t", 1) for line in status if ":\t" in line)
    assert (fields["Uid"].split(), fields["NoNewPrivs"]) == (["10001"] * 4, "1")
    assert {int(fields[f"Cap{kind}"], 16) for kind in ("Eff", "Prm", "Bnd", "Inh")} == {0}
    for path in ("/opt/x", "/workspace/startup/x", "/workspace/startup/client.key", "/workspace/local/x"):
        assert "Error" in mesh.python("bonn", f"open({path!r}, 'w')").stderr


def running(run):
    """Wait until a run that was just started iterates; returns its id."""
    for line in run.stderr:
        if ": running" in line:
            return line.split()[1].rstrip(":")
    return pytest.fail(f"the run ended with {run.wait()}")


def endless_run(mesh):
    """Ends with the first loss; else it would wait for a mesh that was taken down to come up again."""
    run = mesh.document["run"] | {"on_loss": "fail"}
    return mesh.start("run", "--iterations", str(10**7), file=mesh.topology(run=run))


def ended(run):
    with run:
        run.communicate()
    return run.returncode


def test_an_aborted_run_leaves_no_process(mesh):
    run = endless_run(mesh)
    run_id = running(run)
    assert run_id in engine("top", mesh.container("bonn")).stdout
    run.terminate()
    assert ended(run) == 130
    assert run_id not in "".join(engine("top", mesh.container(site)).stdout for site in SITES)


def test_a_killed_container_is_named_and_started_again(mesh):
    assert engine("kill", mesh.container("aachen")).returncode == 0
    down = [
        participant["name"] for participant in mesh.status()["participants"] if not participant["running"]
    ]
    assert down == ["aachen"]
    refused = mesh.call("run")
    assert (refused.returncode, "not ready: aachen." in refused.stderr) == (1, True)
    up = mesh.call("up", "--json")
    assert (up.returncode, json.loads(up.stdout)["ready"]) == (0, True)


def test_another_mesh_of_the_same_name_is_told_apart(mesh, tmp_path):
    other = mesh.call("up", output=tmp_path / "other")
    assert other.returncode == 1
    assert f"{mesh.container('server')} is that of another mesh called {mesh.name}" in other.stderr


def test_down_ends_a_run_in_progress_and_leaves_nothing_but_volumes(mesh):
    run = endless_run(mesh)
    running(run)
    assert mesh.call("down").stdout == f"Stopped server, {', '.join(SITES)}.\n"
    assert ended(run) == 1
    assert (mesh.labelled("container"), mesh.labelled("network")) == ([], [])
    volumes = {f"{mesh.name}_{name}" for name in ["server", *SITES]}
    assert set(mesh.labelled("volume")) == volumes
    again = mesh.call("down")
    assert (again.returncode, again.stdout) == (0, "Nothing was running.\n")


# what keeps a mesh from coming up


def test_sites_without_an_address_meet_at_the_server_and_reach_no_other_site(idle):
    sites = [{"name": site, "org": "consortium"} for site in SITES]
    names = {"names": ["meet.mesh.test"], "meet": {"host": "meet.mesh.test"}}
    server = {"host": "server.mesh.test", "org": "consortium"} | names
    idle.file = idle.topology(sites=sites, server=server, run=idle.document["run"] | {"links": "auto"})
    up = idle.call("up")
    assert up.returncode == 0, up.stderr
    result = idle.run()
    assert (result["outcome"], means(result)) == ("finished", pytest.approx(dict.fromkeys(SITES, MEAN)))
    links = [link for outcome in result["sites"].values() for link in outcome["links"].values()]
    assert links == ["met"] * 4
    assert idle.python("bonn", CONNECT, "meet.mesh.test", "8003").returncode == 0
    listening(idle, "aachen")
    for address in idle.addresses("aachen"):
        assert "Error" in idle.python("bonn", CONNECT, address, str(LINK_PORT)).stderr


def refusal(idle, **kwargs):
    """What ``up`` says, and that nothing is left of it."""
    up = idle.call("up", **kwargs)
    assert up.returncode == 1
    assert (idle.labelled("container"), idle.labelled("network")) == ([], [])
    return up.stderr


def test_a_kit_of_another_site_is_named_and_what_was_started_is_removed(idle):
    # the command would make a right kit again
    code = (
        "import sys; from pathlib import Path; from flaremesh.topology.load import load;"
        "from flaremesh.provision.kits import provision;"
        "from flaremesh.deploy.targets.docker.target import DockerTarget;"
        "topology, mesh = load(Path(sys.argv[1])), Path(sys.argv[2]); provision(topology, mesh);"
        "(mesh / 'kits/bonn').rename(mesh / 'kits/b'); (mesh / 'kits/aachen').rename(mesh / 'kits/bonn');"
        "(mesh / 'kits/b').rename(mesh / 'kits/aachen'); DockerTarget(topology, mesh).up(60)"
    )
    arguments = [str(idle.file), str(idle.folder)]
    up = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    assert "bonn does not start: this is bonn, and the kit is that of aachen." in up.stderr
    assert (idle.labelled("container"), idle.labelled("network")) == ([], [])


def test_a_missing_image_is_named(idle):
    errors = refusal(idle, file=idle.topology(deploy={"image": "flaremesh:absent"}))
    assert "no image flaremesh:absent: `make images` builds it" in errors


@pytest.mark.parametrize("host", ["localhost", "192.0.2.7"])
def test_a_host_that_no_container_can_have_is_refused(idle, host):
    errors = refusal(idle, file=idle.topology(server={"host": host, "org": "consortium"}))
    assert f"server.host is {host}" in errors
    assert "write a name, e.g. `host: server`" in errors


@pytest.mark.parametrize(
    ("names", "remedy"), [([], "write it into server.names"), (["192.0.2.7"], "write a name")]
)
def test_a_meeting_point_where_no_container_can_be_is_refused(idle, names, remedy):
    meet = {"names": names, "meet": {"host": "192.0.2.7"}}
    errors = refusal(idle, file=idle.topology(server={"host": "server", "org": "consortium"} | meet))
    assert "server.meet.host is 192.0.2.7" in errors
    assert remedy in errors


def test_a_host_of_two_participants_is_refused(idle):
    errors = refusal(idle, file=idle.topology(server={"host": "bonn.mesh.test", "org": "consortium"}))
    assert "server and bonn both have the host bonn.mesh.test" in errors


def test_a_container_of_somebody_else_is_left_alone(idle):
    foreign = engine("create", "--name", idle.container("bonn"), IMAGE).stdout.strip()
    try:
        assert f"{idle.container('bonn')} is that of somebody else" in refusal(idle)
        assert engine("inspect", foreign).returncode == 0
    finally:
        engine("rm", "--force", foreign)


def test_an_engine_that_does_not_answer_is_named(idle):
    errors = idle.call("up", env={"DOCKER_HOST": "unix:///nowhere/docker.sock"}).stderr
    assert "no Docker engine answers" in errors
    assert "`docker info` must work" in errors
