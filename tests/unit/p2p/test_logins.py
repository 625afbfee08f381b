"""Who may log in at the server, and come back after it was started again."""

from datetime import timedelta
from pathlib import Path

import pytest

from flaremesh import certificates
from flaremesh.certificates import CertificateError, Kind
from flaremesh.issuing import Authority, Profile, new_key, pem, run_certificate
from flaremesh.p2p.charter import CHARTER, CHARTER_RECORD, Charter
from flaremesh.p2p.logins import LOGINS, Logins
from flaremesh.signatures import sealed

BONN = Profile(Kind.SITE, "bonn", "hospitals")
KEY = new_key()
ROOT = Authority.new("ring", 10)


@pytest.fixture
def server(tmp_path: Path) -> Path:
    startup = tmp_path / "startup"
    startup.mkdir()
    (startup / "rootCA.pem").write_bytes(pem(ROOT.certificate))
    revoke(tmp_path)
    return tmp_path


def revoke(server: Path, *serials: int) -> None:
    content = CHARTER_RECORD.json(Charter("ring", "server", revoked=tuple(map(str, serials))))
    (server / "startup" / CHARTER).write_text(sealed(content, ROOT.key))


@pytest.fixture
def old():
    return ROOT.issue(BONN, KEY.public_key(), 5)


@pytest.fixture
def new(old, monkeypatch):
    """What replaces it; the clock goes on so that it is valid."""

    class Later(certificates.datetime):
        @classmethod
        def now(cls, tz=None):
            return super().now(tz) + timedelta(seconds=10)

    monkeypatch.setattr(certificates, "datetime", Later)
    return ROOT.issue(BONN, KEY.public_key(), 5, old)


def test_a_site_may_log_in_again_and_again(server, old):
    for _ in range(2):
        logins = Logins(server)
        assert logins.admit(old).name == "bonn"
        assert logins.admit(old).kind is Kind.SITE


def test_a_certificate_that_was_replaced_is_refused_also_after_a_restart(server, old, new):
    Logins(server).admit(old)
    Logins(server).admit(new)
    with pytest.raises(CertificateError, match=r"certificate of bonn .* was replaced"):
        Logins(server).admit(old)


def test_a_revoked_certificate_is_refused(server, old):
    revoke(server, old.serial_number)
    with pytest.raises(CertificateError, match=r"bonn .* is revoked"):
        Logins(server).admit(old)


def test_a_site_comes_back_with_the_token_of_its_last_login_alone(server, old):
    logins = Logins(server)
    for token in ("first", "second"):
        logins.admit(old)
        logins.remember("bonn", token)
    logins.admit(old)  # by which the token stays until there is a new one
    for one in (logins, Logins(server)):
        assert one.knows("bonn", "second")
        assert not one.knows("bonn", "first")
    assert "second" not in (server / LOGINS).read_text()


def test_the_token_of_a_replaced_or_revoked_certificate_is_of_no_use(server, old, new):
    logins = Logins(server)
    logins.admit(old)
    logins.remember("bonn", "token")
    revoke(server, old.serial_number)
    assert not Logins(server).knows("bonn", "token")
    revoke(server)
    logins.admit(new)
    logins.remember("bonn", "another")
    assert not Logins(server).knows("bonn", "token")


def test_admins_and_jobs_have_tokens_that_nobody_notes(server):
    assert Logins(server).knows("ada@example.org", "any")


@pytest.mark.parametrize("damage", ["charter", "foreign charter", "memory"])
def test_a_server_that_cannot_tell_lets_nobody_in(server, old, damage):
    charter = server / "startup" / CHARTER
    if damage == "charter":
        charter.unlink()
    elif damage == "foreign charter":
        charter.write_text(sealed(CHARTER_RECORD.json(Charter("ring", "server")), KEY))
    else:
        (server / LOGINS).write_text("[")
    with pytest.raises(CertificateError, match="the server cannot tell who may log in"):
        Logins(server).admit(old)


def run_of(certificate):
    runs = ROOT.for_runs(certificate)
    return [run_certificate(runs, KEY, new_key().public_key(), timedelta(days=1)), runs]


def test_connections_of_a_site_and_its_runs_are_let_in_before_and_after_its_login(server, old):
    logins = Logins(server)
    for chain in ([old], run_of(old)):
        logins.meet(chain)
        logins.admit(old)
        logins.meet(chain)


def test_connections_of_a_kit_that_was_replaced_and_of_its_runs_are_refused(server, old, new):
    logins, run = Logins(server), run_of(old)
    logins.admit(new)
    for chain in ([old], run):
        with pytest.raises(CertificateError, match=r"bonn .* was replaced"):
            logins.meet(chain)


def test_connections_of_a_revoked_kit_and_of_its_runs_are_refused(server, old):
    revoke(server, old.serial_number, old.serial_number + 1)  # as provisioning writes it
    for chain in ([old], run_of(old)):
        with pytest.raises(CertificateError, match=r"bonn .* is revoked"):
            Logins(server).meet(chain)


def test_what_is_refused_is_named_and_counted(server, caplog):
    logins = Logins(server)
    logins.refused("connection", "the certificate of bonn is revoked")
    assert logins.refusals == {"connection": 1, "login": 0, "message": 0}
    assert "connection refused: the certificate of bonn is revoked" in caplog.text
