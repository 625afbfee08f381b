"""What NVFlare 2.10 issues to a job proves who its process is, in that job and in no other."""

import socket
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from direct_mesh import Sites, exchange
from job_authority import AUTHORITY, CLIENT, SERVER, URIS, JobAuthority, uris_of

from flaremesh.links import Refusal
from flaremesh.links.credentials import Untrusted
from flaremesh.links.tls import peer_name, refusal_of

PAIRS = [("a", "b"), ("b", "a")]


@pytest.fixture(scope="module")
def mesh(tmp_path_factory):
    return JobAuthority(tmp_path_factory.mktemp("certificates") / "mesh")


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory):
    return JobAuthority(tmp_path_factory.mktemp("certificates") / "elsewhere")


def met(listening, dialling):
    """What each end of a connection makes of the other: its name, or why it refuses it."""

    def end(raw, context, credentials, **options):
        raw.settimeout(10)
        try:
            with context.wrap_socket(raw, **options) as connection:
                name = peer_name(connection, credentials)
                connection.sendall(b"x")
                return name if connection.recv(1) else None
        except (Untrusted, OSError) as error:
            return refusal_of(error)

    near, far = socket.socketpair()
    with ThreadPoolExecutor(2) as pool:
        one = pool.submit(end, near, listening.listening(), listening, server_side=True)
        other = pool.submit(end, far, dialling.dialling(), dialling)
        return one.result(), other.result()


def test_both_chains_prove_a_site_whoever_dials(mesh):
    leaf, run = mesh.leaf("a"), mesh.run("b")
    assert met(leaf, run) == ("b", "a")
    assert met(run, leaf) == ("a", "b")
    assert met(leaf, mesh.leaf("c")) == ("c", "a")


def test_links_carry_messages_between_a_leaf_of_the_job_and_a_run_of_a_site(mesh):
    sites = Sites(mesh)
    sites.add("a", "b", "b", mode="direct", credentials=mesh.leaf("a"))
    sites.add("b", "a", "a", mode="direct", credentials=mesh.run("b"))
    try:
        assert not any(sites.open().values())
        assert exchange(sites, PAIRS, 5, lambda sender, k: f"{sender}{k}".encode()) == []
        assert not sites.observers["a"].refusals
        assert not sites.observers["b"].refusals
    finally:
        sites.close(patience=0)


def test_a_link_refuses_the_leaf_of_another_job_and_counts_it(mesh):
    sites = Sites(mesh)
    sites.add("a", "b", "b", mode="direct", credentials=mesh.leaf("a", uris=uris_of("a", "earlier")))
    sites.add("b", "a", "a", mode="direct", credentials=mesh.leaf("b"))
    try:
        assert any(sites.open(timeout=1).values())
        assert {reason for _, reason in sites.observers["b"].refusals} == {Refusal.RUN}
    finally:
        sites.close(patience=0)


def test_a_leaf_below_a_relay_is_the_sites(mesh):
    assert met(mesh.run("b"), mesh.leaf("a", uris=uris_of("a", under="relay-1.")))[0] == "a"


def posing(mesh, **options):
    """A leaf under what only says to be an authority for jobs."""
    return mesh.leaf("a", mesh.sign("false", mesh.root, uris=AUTHORITY, **options))


FALSE = {
    "another job": (lambda m, e: m.leaf("a", uris=uris_of("a", "earlier")), Refusal.RUN),
    "two jobs": (lambda m, e: m.leaf("a", uris=[*uris_of("a"), URIS + "job/earlier"]), Refusal.RUN),
    "this job twice": (lambda m, e: m.leaf("a", uris=[*uris_of("a"), URIS + "job/run"]), Refusal.UNTRUSTED),
    "another root": (
        lambda m, e: replace(e.leaf("a"), root=m.file),
        Refusal.UNTRUSTED,
    ),
    "a site of another mesh as authority": (
        lambda m, e: m.leaf("a", e.sign("job_ca.mesh", e.root, path=0, uris=AUTHORITY)),
        Refusal.UNTRUSTED,
    ),
    "a site as authority": (lambda m, e: posing(m, usages=[CLIENT]), Refusal.UNTRUSTED),
    "the server as authority": (lambda m, e: posing(m, usages=[SERVER]), Refusal.UNTRUSTED),
    "an admin as authority": (lambda m, e: posing(m, usages=[CLIENT], role="lead"), Refusal.UNTRUSTED),
    "an admin that may sign": (
        lambda m, e: posing(m, path=0, role="lead"),
        Refusal.UNTRUSTED,
    ),
    "an authority with others below": (lambda m, e: posing(m, path=1), Refusal.UNTRUSTED),
    "an authority that does not say so": (
        lambda m, e: m.leaf("a", m.sign("job_ca.mesh", m.root, path=0)),
        Refusal.UNTRUSTED,
    ),
    "another site's certificate for its runs": (
        lambda m, e: m.leaf("a", m.sign("z", m.root, path=0)),
        Refusal.UNTRUSTED,
    ),
    "another site's run below the authority": (
        lambda m, e: m.written(m.sign("a", z := m.sign("z", m.jobs, path=0), uris=uris_of("a")), z, m.jobs),
        Refusal.UNTRUSTED,
    ),
    "the root itself": (lambda m, e: m.written(m.sign("a", m.root, uris=uris_of("a"))), Refusal.UNTRUSTED),
    "no names": (lambda m, e: m.leaf("a", uris=()), Refusal.UNTRUSTED),
    "no job": (lambda m, e: m.leaf("a", uris=uris_of("a")[1:]), Refusal.UNTRUSTED),
    "no cell": (lambda m, e: m.leaf("a", uris=uris_of("a")[:1]), Refusal.UNTRUSTED),
    "another site's cell": (lambda m, e: m.leaf("a", uris=uris_of("b")), Refusal.UNTRUSTED),
    "another job's cell": (
        lambda m, e: m.leaf("a", uris=[URIS + "job/run", URIS + "cell/a.earlier"]),
        Refusal.UNTRUSTED,
    ),
    "an end of a name": (
        lambda m, e: m.leaf("a", uris=[URIS + "job/run", URIS + "cell/banana.run"]),
        Refusal.UNTRUSTED,
    ),
    "an authority of its own": (lambda m, e: m.leaf("a", path=0), Refusal.UNTRUSTED),
    "a leaf for one end of a connection": (lambda m, e: m.leaf("a", usages=[CLIENT]), Refusal.UNTRUSTED),
    "an admin's leaf": (lambda m, e: m.leaf("a", role="lead"), Refusal.UNTRUSTED),
    "expired": (lambda m, e: m.leaf("a", days=-1), Refusal.EXPIRED),
    "an authority that has expired": (
        lambda m, e: m.leaf("a", m.sign("job_ca.mesh", m.root, path=0, uris=AUTHORITY, days=-1)),
        Refusal.EXPIRED,
    ),
    "not valid yet": (lambda m, e: m.leaf("a", since=1), Refusal.UNTRUSTED),
}


@pytest.mark.parametrize("false", FALSE)
def test_what_does_not_prove_the_site_and_the_job_is_refused(mesh, elsewhere, false):
    made, reason = FALSE[false]
    b, credentials = mesh.run("b"), made(mesh, elsewhere)
    assert met(b, credentials)[0] == reason
    with pytest.raises(Untrusted) as refused:  # also where OpenSSL had let it pass
        b.identify(credentials.chain())
    assert refused.value.reason == reason


@pytest.mark.parametrize(
    "malformed",
    [
        URIS + "job/",
        URIS + "job",
        URIS + "job/ru%6E",  # another spelling of this job
        URIS + "job/run/more",
        URIS + "job/%ff",
        URIS + "job/%2",
        URIS + "cell/",
        URIS + "cell/.run",
        URIS + "cell/a..run",
        URIS + "cell/a%20b.run",
        URIS + "cell/a%0A.run",
        URIS + "/run",
        URIS.replace("v1", "v2") + "job/run",
        "https://nvidia.com/nvflare/job/run",
    ],
)
@pytest.mark.parametrize("beside", [True, False])
def test_a_leaf_with_a_malformed_name_is_refused_whatever_else_it_says(mesh, malformed, beside):
    uris = [*uris_of("a"), malformed] if beside else [malformed]
    assert met(mesh.run("b"), mesh.leaf("a", uris=uris))[0] == Refusal.UNTRUSTED


def test_what_others_write_into_names_is_nobodys_business(mesh):
    uris = [*uris_of("a"), "https://example.org/nvflare/v1/job/earlier", URIS + "later/thing"]
    assert met(mesh.run("b"), mesh.leaf("a", uris=uris))[0] == "a"


@pytest.mark.parametrize("of", [0, 1])
def test_a_leaf_is_refused_once_it_or_its_authority_is_revoked(mesh, of):
    leaf = mesh.leaf("a")
    b = replace(mesh.run("b"), revoked=[str(leaf.chain()[of].serial_number)])
    assert met(b, leaf)[0] == Refusal.REVOKED


def test_a_leaf_is_let_in_nowhere_but_in_a_job(mesh):
    """The site's own process, whose certificate is valid for years, tries edges between runs."""
    assert met(replace(mesh.run("b"), job=None), mesh.leaf("a"))[0] == Refusal.RUN


def test_a_run_whose_site_names_another_job_is_refused(mesh):
    assert met(mesh.run("b"), mesh.run("a", uris=[URIS + "job/run"]))[0] == "a"
    assert met(mesh.run("b"), mesh.run("a", uris=[URIS + "job/earlier"]))[0] == Refusal.RUN


def test_of_two_leaves_of_one_job_the_later_one_counts(mesh):
    b, old, new = mesh.run("b"), mesh.leaf("a", since=-2), mesh.leaf("a", since=-1)
    for leaf, outcome in ((old, "a"), (new, "a"), (new, "a"), (old, Refusal.OUTDATED)):
        assert met(b, leaf)[0] == outcome


def test_a_leaf_says_nothing_about_the_kit_nor_about_other_sites(mesh):
    b = mesh.run("b")
    for credentials, name in (
        (mesh.leaf("a", since=-1), "a"),
        (mesh.run("a"), "a"),  # its kit is ten days old
        (mesh.leaf("a", since=-1), "a"),
        (mesh.leaf("c", since=-5), "c"),
    ):
        assert met(b, credentials)[0] == name


def test_an_end_whose_own_leaf_is_another_jobs_is_told_so(mesh):
    """It is the other one that refuses; this one only learns that it is not let in."""
    with_job = mesh.leaf("a", uris=uris_of("a", "earlier"))
    assert met(with_job, mesh.run("b"))[1] == Refusal.RUN
