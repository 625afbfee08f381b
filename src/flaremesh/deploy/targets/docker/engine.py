"""The connection to a Docker engine."""

import contextlib
from collections.abc import Iterator

from docker.client import DockerClient
from docker.errors import APIError, DockerException
from requests.exceptions import RequestException

from flaremesh.deploy.targets.base import AT_ONCE, DeployError


def engine(timeout: float = 60.0) -> DockerClient:
    """The engine that the command ``docker`` would use.

    Args:
        timeout: seconds for an answer.

    Raises:
        DeployError: no engine answers.
    """
    try:
        client = DockerClient.from_env(max_pool_size=AT_ONCE, timeout=timeout)
        client.ping()
    except (DockerException, RequestException) as error:
        raise DeployError(
            f"no Docker engine answers: {error}. `docker info` must work; DOCKER_HOST or "
            "`docker context use` chooses an engine."
        ) from None
    return client


@contextlib.contextmanager
def refusals(subject: str) -> Iterator[None]:
    """Turn errors of the engine in the block into a DeployError that begins with ``subject``."""
    try:
        yield
    except APIError as error:
        raise DeployError(f"{subject}: the Docker engine refuses: {error.explanation}") from None
    except (DockerException, RequestException) as error:
        raise DeployError(f"{subject}: the Docker engine does not answer: {error}") from None
