"""Who may meet whom: what a ticket says, and what is none."""

import functools
import json
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import given, settings
from hypothesis import strategies as st
from meeting_place import MESH, server, ticket

from flaremesh.certificates import Kind
from flaremesh.meeting.refusal import Reason, Refused
from flaremesh.meeting.ticket import CLOCK_TOLERANCE, MOST_TICKET_BYTES, verified


@functools.cache
def root_of(authority):
    return x509.load_pem_x509_certificate(authority.file.read_bytes())


@pytest.fixture(scope="module")
def genuine(authority):
    return ticket(server(authority), "ab")


def refused(authority, data, mesh=MESH, revoked=()):
    with pytest.raises(Refused) as caught:
        verified(data, mesh, root_of(authority), revoked)
    return caught.value.reason


def test_a_ticket_says_what_was_minted(authority):
    found, signer = verified(ticket(server(authority), ("b", "a"), "r1"), MESH, root_of(authority))
    assert (found.mesh, found.run, found.pair) == (MESH, "r1", ("a", "b"))
    assert (signer.kind, signer.name) == (Kind.SERVER, "server")


def test_a_pair_is_two_sites(authority):
    for names in (("a", "a"), ("a",), ("a", "b", "c")):
        with pytest.raises(ValueError, match="a pair is two sites"):
            ticket(server(authority), names)


def test_it_counts_a_little_longer_than_it_says_since_clocks_differ(authority):
    signer = server(authority)
    verified(ticket(signer, "ab", lifetime=-CLOCK_TOLERANCE / 2), MESH, root_of(authority))
    late = ticket(signer, "ab", lifetime=-CLOCK_TOLERANCE - timedelta(seconds=2))
    assert refused(authority, late) is Reason.STALE


def test_a_ticket_of_another_mesh_is_refused_although_the_same_root_stands_behind_it(authority):
    assert refused(authority, ticket(server(authority), "ab", mesh="other")) is Reason.MESH


def test_nobody_but_the_server_signs_tickets(authority, foreign_authority):
    client = [ExtendedKeyUsageOID.CLIENT_AUTH]
    for signer in (
        authority.kit("a", client, rsa_key=True),
        authority.kit("server", [*client, ExtendedKeyUsageOID.SERVER_AUTH], rsa_key=True),
        authority.issue("a", rsa_key=True),
        server(foreign_authority),
    ):
        assert refused(authority, ticket(signer, "ab")) is Reason.FORGED


@pytest.mark.parametrize(
    ("before", "after"), [('"b"', '"c"'), ('"run"', '"ran"'), ('not_after":1', 'not_after":2')]
)
def test_a_changed_ticket_is_refused(authority, before, after):
    fields = json.loads(ticket(server(authority), "ab"))
    signed = json.loads(fields["ticket"])
    assert before in signed["content"]
    signed["content"] = signed["content"].replace(before, after)
    fields["ticket"] = json.dumps(signed)
    assert refused(authority, json.dumps(fields).encode()) is Reason.FORGED


def test_the_certificate_of_a_revoked_server_signs_no_tickets(authority):
    signer = server(authority)
    serial = str(signer.chain()[0].serial_number)
    assert refused(authority, ticket(signer, "ab"), revoked=[serial]) is Reason.REVOKED


def test_a_long_one_is_refused_before_it_is_parsed(authority):
    assert refused(authority, b"[" * (MOST_TICKET_BYTES + 1)) is Reason.MALFORMED


@settings(deadline=None)
@given(
    st.binary(max_size=300)
    | st.recursive(st.none() | st.text(), lambda x: st.dictionaries(st.text(), x), max_leaves=5).map(
        lambda value: json.dumps(value).encode()
    )
)
def test_anything_else_is_refused_in_one_word(authority, data):
    assert refused(authority, data) in (Reason.MALFORMED, Reason.FORGED)


@settings(deadline=None)
@given(st.text(max_size=50), st.sampled_from(["ticket", "certificate"]))
def test_a_ticket_of_which_a_part_is_nonsense_is_refused(authority, genuine, text, part):
    fields = json.loads(genuine)
    assert refused(authority, json.dumps(fields | {part: text}).encode()) is Reason.FORGED
