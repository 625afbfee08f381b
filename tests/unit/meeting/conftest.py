"""Two sites of a run, and connections that are closed in the end."""

import contextlib
import resource

import pytest


@pytest.fixture(scope="session")
def ends(authority):
    """Credentials of the sites of a pair, by name."""
    return {name: authority.issue(name) for name in "ab"}


@pytest.fixture
def closing():
    """Closes what it is given, before the meeting point ends."""
    with contextlib.ExitStack() as stack:
        yield stack.enter_context


@pytest.fixture
def many_files():
    """How many file descriptors this process may have: as many as it may ask for."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (before[1], before[1]))
    yield before[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, before)
