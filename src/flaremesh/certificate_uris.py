"""What a certificate says in NVFlare's URIs, from NVFlare 2.10 on.

They are subject alternative names of the form ``https://nvidia.com/nvflare/v1/KIND/VALUE`` (NVFlare #5263): a
job's leaf names its job and the cells in whose name its process may speak, and the authority that signs such
leaves says that it is one.
"""

from typing import Final
from urllib.parse import quote, unquote

from cryptography import x509

_ROOT: Final = "https://nvidia.com/nvflare/"
_VERSION: Final = _ROOT + "v1/"


def uri(kind: str, value: str) -> str:
    """The URI that says ``value`` of this kind."""
    return f"{_VERSION}{kind}/{quote(value, safe='')}"


def names_job_authority(certificate: x509.Certificate) -> bool:
    """Whether it says that its holder signs leaves of jobs; raises ValueError as `jobs` does."""
    return _values(certificate, "ca") == ["job"]


def jobs(certificate: x509.Certificate) -> list[str]:
    """The ids of the jobs that it is for.

    Raises:
        ValueError: NVFlare would not have written one of its URIs like this.
    """
    return _values(certificate, "job")


def cells(certificate: x509.Certificate) -> list[str]:
    """The cells in whose name its holder may speak, each with its ancestors' names before its own.

    Raises:
        ValueError: as `jobs` does, or a cell or one of its ancestors has no name.
    """
    found = _values(certificate, "cell")
    for cell in found:
        if not all(cell.split(".")) or not cell.isprintable() or " " in cell:
            raise ValueError(f"{cell!r} is no cell")
    return found


def _values(certificate: x509.Certificate, kind: str) -> list[str]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    found = []
    for text in names.get_values_for_type(x509.UniformResourceIdentifier):
        if not text.startswith(_ROOT):
            continue
        what, _, written = text.removeprefix(_VERSION).partition("/")
        value = unquote(written, errors="strict")
        # one spelling for each value: what this reads otherwise than NVFlare does must not pass here
        if not what or not value or uri(what, value) != text:
            raise ValueError(f"{text!r} is no URI of NVFlare")
        if what == kind:
            found.append(value)
    return found
