"""Networks of a test's own, which not every machine lets its users make."""

from bench.wan import namespaces
from programs import lacking


def own_networks() -> None:
    """Skip the test, or in CI fail it, where network namespaces with TUN devices cannot be made."""
    if reason := namespaces.unavailable():
        remedy = "run the tests as root, or unshare --user --map-root-user make test"
        lacking(f"networks of its own cannot be made here: {reason}", remedy)
