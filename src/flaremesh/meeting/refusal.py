"""Why a meeting point hangs up on who dials it."""

from enum import StrEnum


class Reason(StrEnum):
    """The words are sent to who is refused, and count in the meeting point's figures."""

    MALFORMED = "malformed"  # no knock, or bytes that nobody sends there
    EMPTY = "empty"  # it hung up before it said anything, as probes and scanners do
    VERSION = "version"  # a knock of another version of the protocol
    FORGED = "forged"  # no ticket that the server of the mesh signed
    MESH = "mesh"  # a ticket of another mesh
    STALE = "stale"  # a ticket that is over
    UNTRUSTED = "untrusted"  # no certificate of a site's run in this mesh
    REVOKED = "revoked"  # the certificate of a site or of the ticket's server was revoked
    OUTDATED = "outdated"  # a certificate that was replaced by one seen before
    STRANGER = "stranger"  # a site of the mesh that the ticket does not name
    UNPROVEN = "unproven"  # the nonce is not signed with the key of the certificate
    SILENT = "silent"  # the knock took too long
    OVERLOAD = "overload"  # it made room for newer ones
    ALONE = "alone"  # the other end did not come in time
    REPLACED = "replaced"  # the same end has come again
    CLOSING = "closing"  # the meeting point ends


class Refused(Exception):
    """Who dials is refused; ``reason`` says why."""

    def __init__(self, reason: Reason):
        self.reason = reason
        super().__init__(reason)
