"""What a mesh's certificates say, and who is let in with one."""

import ssl
from datetime import timedelta
from itertools import pairwise
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.x509.oid import NameOID
from nvflare.lighter.utils import verify_cert_chain

from flaremesh import certificates, issuing
from flaremesh.certificates import CertificateError, Kind, Newest, holder, identify
from flaremesh.issuing import Authority, Profile, key_pem, new_key, pem, run_certificate

BONN = Profile(Kind.SITE, "bonn", "hospitals")
SITE_KEY, RUN_KEY = new_key(), new_key()
DAY = timedelta(days=1)


@pytest.fixture(scope="module")
def root():
    return Authority.new("ring", 100)


@pytest.fixture(scope="module")
def bonn(root):
    return root.issue(BONN, SITE_KEY.public_key(), 30)


@pytest.fixture(scope="module")
def run(root, bonn):
    """What a run of bonn shows: its certificate, and the one that issued it."""
    runs = root.for_runs(bonn)
    return [run_certificate(runs, SITE_KEY, RUN_KEY.public_key(), DAY), runs]


def forged(run, subject=None, *extensions):
    """A certificate that bonn's key issued in another name, or with more in it."""
    template, runs = run
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject or runs.subject)
        .issuer_name(runs.subject)
        .public_key(RUN_KEY.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(template.not_valid_before_utc)
        .not_valid_after(template.not_valid_after_utc)
    )
    for extension in template.extensions:
        if type(extension.value) in map(type, extensions):
            continue
        builder = builder.add_extension(extension.value, extension.critical)
    for value in extensions:
        builder = builder.add_extension(value, critical=False)
    return [builder.sign(SITE_KEY, SHA256()), runs]


def named(*parts):
    return x509.Name([x509.NameAttribute(oid, text) for oid, text in parts])


def context(role, folder, root, chain, key):
    files = {"chain": pem(*chain), "key": key_pem(key), "root": pem(root.certificate)}
    for name, content in files.items():
        (folder / name).write_bytes(content)
    made = ssl.SSLContext(role)
    made.check_hostname, made.verify_mode = False, ssl.CERT_REQUIRED
    made.load_verify_locations(folder / "root")
    made.load_cert_chain(folder / "chain", folder / "key")
    return made


def handshake(folder: Path, root, listening, dialling):
    """Both ends of a TLS connection in memory; each is a chain and its key."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = context(ssl.PROTOCOL_TLS_SERVER, folder, root, *listening).wrap_bio(
        to_server, to_client, server_side=True
    )
    client = context(ssl.PROTOCOL_TLS_CLIENT, folder, root, *dialling).wrap_bio(to_client, to_server)
    waiting = [client, server]
    for _ in range(10):
        for end in list(waiting):
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
            waiting.remove(end)
    assert not waiting


def test_a_run_is_both_ends_of_a_link(tmp_path, root, run):
    handshake(tmp_path, root, (run, RUN_KEY), (run, RUN_KEY))


@pytest.mark.parametrize(
    "forgery",
    [
        {"subject": named((NameOID.COMMON_NAME, "ulm"), (NameOID.ORGANIZATION_NAME, "hospitals"))},
        {"subject": named((NameOID.COMMON_NAME, "bonn"), (NameOID.ORGANIZATION_NAME, "elsewhere"))},
        {"name": x509.DNSName("mesh.example.org")},
    ],
)
@pytest.mark.parametrize("listens", [True, False])
def test_tls_refuses_what_a_site_issues_in_another_name(tmp_path, root, run, forgery, listens):
    names = [x509.SubjectAlternativeName([forgery["name"]])] if "name" in forgery else []
    false = (forged(run, forgery.get("subject"), *names), RUN_KEY)
    ends = (false, (run, RUN_KEY)) if listens else ((run, RUN_KEY), false)
    with pytest.raises(ssl.SSLCertVerificationError, match="subtree violation"):
        handshake(tmp_path, root, *ends)


def test_the_certificate_in_a_sites_kit_is_no_servers(tmp_path, root, bonn, run):
    with pytest.raises(ssl.SSLCertVerificationError, match="purpose"):
        handshake(tmp_path, root, ([bonn], SITE_KEY), (run, RUN_KEY))


def test_nvflare_takes_no_certificate_that_a_site_issued(root, run):
    with pytest.raises(Exception, match="nameConstraints"):
        verify_cert_chain(run[0], run[1:], root.certificate)


def test_a_run_is_known_by_its_site(root, bonn, run):
    identity = identify(run, root.certificate)
    assert (identity.name, identity.org, identity.kind) == ("bonn", "hospitals", Kind.SITE)
    assert identity.issued == bonn.not_valid_before_utc
    assert identify([*run, root.certificate], root.certificate) == identity


@pytest.mark.parametrize(
    ("parts", "reason"),
    [
        ([(NameOID.COMMON_NAME, "bonn"), (NameOID.COMMON_NAME, "ulm")], "name its holder once"),
        (
            [
                (NameOID.COMMON_NAME, "bonn"),
                (NameOID.ORGANIZATION_NAME, "hospitals"),
                (certificates.ROLE, "lead"),
            ],
            "not its own",
        ),
        ([(NameOID.COMMON_NAME, "ulm"), (NameOID.ORGANIZATION_NAME, "hospitals")], "not its own"),
    ],
)
def test_a_site_speaks_in_its_own_name_alone(root, run, parts, reason):
    with pytest.raises(CertificateError, match=reason):
        identify(forged(run, named(*parts)), root.certificate)


def test_a_certificate_from_a_kit_is_none_of_a_run(root, bonn, run):
    for chain in ([bonn], [run[1]], [bonn, root.certificate], [run[0], bonn], []):
        with pytest.raises(CertificateError):
            identify(chain, root.certificate)


def test_a_run_of_another_mesh_is_nobody(run):
    with pytest.raises(CertificateError, match="not issued by another"):
        identify(run, Authority.new("another", 10).certificate)


@pytest.mark.parametrize("of", [0, 1])
def test_what_is_revoked_is_let_in_nowhere(root, bonn, run, of):
    with pytest.raises(CertificateError, match=r"bonn.*is revoked"):
        identify(run, root.certificate, {str(run[of].serial_number)})
    with pytest.raises(CertificateError, match=r"bonn.*is revoked"):
        holder(bonn, root.certificate, {str(bonn.serial_number)})


def test_the_certificate_for_runs_is_the_same_at_each_call_and_numbered_after_the_sites(root, bonn):
    assert root.for_runs(bonn) == root.for_runs(bonn)
    assert root.for_runs(bonn).serial_number == bonn.serial_number + 1


@pytest.mark.parametrize(
    ("profile", "kind"),
    [
        (BONN, Kind.SITE),
        (Profile(Kind.SERVER, "server", "consortium", hosts=("mesh.example.org",)), Kind.SERVER),
        (Profile(Kind.ADMIN, "ada@example.org", "consortium", "lead"), Kind.ADMIN),
    ],
)
def test_a_certificate_says_what_its_holder_is(root, profile, kind):
    identity = holder(root.issue(profile, SITE_KEY.public_key(), 30), root.certificate)
    assert (identity.name, identity.org, identity.kind, identity.role) == (
        profile.name,
        profile.org,
        kind,
        profile.role,
    )


def test_what_issues_certificates_is_no_holders(root, bonn):
    with pytest.raises(CertificateError, match="does not say what its holder is"):
        holder(root.for_runs(bonn), root.certificate)


def test_a_new_certificate_is_valid_from_a_later_second_on(root, bonn):
    issued = [bonn]
    for _ in range(3):
        issued.append(root.issue(BONN, SITE_KEY.public_key(), 30, before=issued[-1]))
    assert all(one.not_valid_before_utc < other.not_valid_before_utc for one, other in pairwise(issued))


def test_no_certificate_outlives_the_root_nor_a_run_its_site(root, bonn, run):
    longest = root.issue(BONN, SITE_KEY.public_key(), 1000)
    assert longest.not_valid_after_utc == root.certificate.not_valid_after_utc
    for_years = run_certificate(run[1], SITE_KEY, RUN_KEY.public_key(), timedelta(days=1000))
    assert for_years.not_valid_after_utc == bonn.not_valid_after_utc


def identity_of(root, certificate):
    return holder(certificate, root.certificate)


def renewed(root, monkeypatch, certificate):
    """The certificate that replaces one, with which nobody need wait for the next second."""
    new = root.issue(BONN, SITE_KEY.public_key(), 30, before=certificate)

    class Later(certificates.datetime):
        @classmethod
        def now(cls, tz=None):
            return super().now(tz) + timedelta(seconds=10)

    monkeypatch.setattr(certificates, "datetime", Later)
    return new


def test_a_certificate_that_was_replaced_is_let_in_until_the_new_one_was_seen(root, bonn, monkeypatch):
    new = renewed(root, monkeypatch, bonn)
    newest = Newest()
    newest.admit(identity_of(root, bonn))
    newest.admit(identity_of(root, new))
    newest.admit(identity_of(root, new))
    for one in (newest, Newest({"bonn": new.not_valid_before_utc})):
        with pytest.raises(CertificateError, match=r"bonn from .* was replaced by one from"):
            one.admit(identity_of(root, bonn))


@pytest.mark.parametrize(
    "text", [b"", b"-----BEGIN RSA PRIVATE KEY-----\nAAAA\n-----END RSA PRIVATE KEY-----\n"]
)
def test_a_key_that_is_none_is_said(text):
    with pytest.raises(ValueError, match=r"key|PEM"):
        issuing.read_key(text)
