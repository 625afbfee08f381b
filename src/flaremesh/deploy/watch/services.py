"""Programs and containers that serve beside a mesh while a command runs."""

import contextlib
import subprocess
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from docker.client import DockerClient
from docker.errors import DockerException, ImageNotFound, NotFound
from docker.models.containers import Container
from requests.exceptions import RequestException

from flaremesh.deploy.targets import archives
from flaremesh.deploy.targets.base import DeployError
from flaremesh.deploy.targets.docker.engine import engine, refusals
from flaremesh.deploy.targets.local import last_lines
from flaremesh.waiting import wait_while

_START_SECONDS = 60.0
_STOP_SECONDS = 20
_POLL_SECONDS = 0.2
_LOG_LINES = 8


class NoImage(DeployError):
    """The engine has no image and cannot get it, or there is no engine."""


class Service(Protocol):
    """A program or container that serves."""

    def check(self, name: str) -> None:
        """Raise DeployError with the last lines of its log if it has ended."""


def wait_until_ready(name: str, service: Service, url: str) -> None:
    """Wait until a service answers; raise DeployError if it ends or does not in time."""

    def silent() -> bool:
        service.check(name)
        try:
            urllib.request.urlopen(url, timeout=_POLL_SECONDS * 10).close()
        except OSError:
            return True
        return False

    if wait_while(silent, _START_SECONDS, _POLL_SECONDS):
        raise DeployError(f"{name} is not ready after {_START_SECONDS:.0f} s: {url} does not answer")


class _Process:
    def __init__(self, process: subprocess.Popen[bytes], log: Path):
        self._process = process
        self._log = log

    def check(self, name: str) -> None:
        if self._process.poll() is not None:
            lines = "\n".join(f"  {line}" for line in last_lines(self._log))
            raise DeployError(f"{name} ended. Last lines of {self._log}:\n{lines}")


@contextlib.contextmanager
def program(command: list[str], log: Path) -> Iterator[Service]:
    """A program that writes to a log, until the context ends."""
    with log.open("wb") as output:
        # Ctrl-C must reach this process alone, which then ends the program
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
    try:
        yield _Process(process, log)
    finally:
        process.terminate()
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


class _Container:
    def __init__(self, container: Container):
        self._container = container

    def check(self, name: str) -> None:
        try:
            self._container.reload()
            if self._container.status == "running":
                return
            lines = self._container.logs(tail=_LOG_LINES).decode(errors="replace")
        except (DockerException, RequestException) as error:
            raise DeployError(f"{name} ended: {error}") from None
        raise DeployError(f"{name} ended. Its last lines:\n{lines}")


@contextlib.contextmanager
def container(
    client: DockerClient, image: str, mesh: str, files: Mapping[str, bytes] | None = None, **options: Any
) -> Iterator[Service]:
    """A container in the network of this machine, which reaches what the machine reaches."""
    # no participant has an underscore in its name
    name = f"{mesh}_{image.partition(':')[0].rpartition('/')[2]}"
    with refusals(name):
        # a command that was killed may have left one
        with contextlib.suppress(NotFound):
            client.containers.get(name).remove(force=True, v=True)
        container = client.containers.create(
            image,
            name=name,
            network_mode="host",
            cap_drop=["ALL"],
            security_opt=["no-new-privileges"],
            **options,
        )
        try:
            if files:
                container.put_archive("/", archives.of_files(files))
            container.start()
            yield _Container(container)
        finally:
            with contextlib.suppress(DockerException, RequestException):
                container.stop(timeout=_STOP_SECONDS)
            container.remove(force=True, v=True)


def engine_with(image: str) -> DockerClient:
    """An engine that has the image, pulled if need be.

    Raises:
        NoImage: there is none.
    """
    try:
        client = engine()
    except DeployError as error:
        raise NoImage(str(error)) from None
    try:
        client.images.get(image)
    except ImageNotFound:
        try:
            client.images.pull(image)
        except (DockerException, RequestException) as error:
            reason = getattr(error, "explanation", None) or error
            raise NoImage(
                f"the Docker engine cannot get {image}: {reason}. Bring it with `docker load`, or pull it "
                "where a registry answers, and start again."
            ) from None
    return client
