"""Signatures with the keys of a mesh's certificates, and the documents that carry one.

The keys of kits are RSA, because NVFlare makes them so; a run may have one on an elliptic curve. Signatures
are RSASSA-PSS with SHA-256 (RFC 8017, 8.1).
"""

import base64
import json
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from flaremesh.errors import FlaremeshError

_PADDING: Final = padding.PSS(padding.MGF1(SHA256()), padding.PSS.DIGEST_LENGTH)


class SignatureError(FlaremeshError):
    """What should be signed is not, or not by whom it should be; the message says which."""


def sign(content: bytes, key: bytes | rsa.RSAPrivateKey) -> bytes:
    """The signature of ``content`` with a private key, or with one in PEM, which takes 50 ms to be read.

    Raises:
        SignatureError: it is no RSA key.
    """
    private = load_pem_private_key(key, password=None) if isinstance(key, bytes) else key
    if not isinstance(private, rsa.RSAPrivateKey):
        raise SignatureError("the private key is no RSA key")
    return private.sign(content, _PADDING, SHA256())


def verify(content: bytes, signature: bytes, signer: x509.Certificate) -> None:
    """Check that ``signer`` signed ``content``.

    Raises:
        SignatureError: it did not.
    """
    public = signer.public_key()
    if not isinstance(public, rsa.RSAPublicKey):
        raise SignatureError("the signer's key is no RSA key")
    try:
        public.verify(signature, content, _PADDING, SHA256())
    except InvalidSignature:
        raise SignatureError("the signature is not that of its signer") from None


def is_of_run(content: bytes, signature: bytes, signer: x509.Certificate) -> bool:
    """Whether the holder of a run's certificate signed ``content``: RSASSA-PSS or ECDSA, with SHA-256."""
    try:
        public = signer.public_key()
        if isinstance(public, ec.EllipticCurvePublicKey):
            public.verify(signature, content, ec.ECDSA(SHA256()))
        else:
            verify(content, signature, signer)
    except (InvalidSignature, UnsupportedAlgorithm, ValueError, SignatureError):
        return False
    return True


def sealed(content: str, key: bytes | rsa.RSAPrivateKey) -> str:
    """A document that holds ``content`` and its signature: JSON, which `opened` reads."""
    signature = base64.b64encode(sign(content.encode(), key)).decode()
    return json.dumps({"content": content, "signature": signature}, indent=2) + "\n"


def opened(document: str | bytes, signer: x509.Certificate) -> str:
    """The content of a document that ``signer`` sealed.

    Raises:
        SignatureError: it is no such document, or somebody else's.
    """
    try:
        fields = json.loads(document)
        content, signature = fields["content"], base64.b64decode(fields["signature"], validate=True)
        if not isinstance(content, str):
            raise TypeError
    except (ValueError, TypeError, LookupError, RecursionError):
        raise SignatureError("it is no signed document") from None
    verify(content.encode(), signature, signer)
    return content
