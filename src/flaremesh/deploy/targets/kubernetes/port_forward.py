"""Ports of this machine that lead into the cluster."""

import contextlib
import re
import socket
import subprocess
import threading
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from flaremesh.deploy.targets.base import DeployError
from flaremesh.deploy.targets.kubernetes.commands import require


@dataclass(frozen=True)
class Forward:
    """A port of this machine that leads into the cluster.

    Attributes:
        port: of this machine.
        process: the kubectl that forwards it.
    """

    port: int
    process: subprocess.Popen[str]

    def check(self, name: str) -> None:
        """Raise DeployError if it does not lead there any more."""
        # kubectl notices a pod's end only at the next connection
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
        if self.process.poll() is not None:
            raise DeployError(f"{name} in the cluster cannot be reached any more: its pod has ended")


@contextlib.contextmanager
def forwarded(namespace: str, what: str, port: int, local: int = 0) -> Iterator[Forward]:
    """A port of this machine that leads to a pod's while the context lasts.

    Args:
        namespace: where it is.
        what: ``pod/<name>`` or ``service/<name>``.
        port: the one to reach.
        local: the one of this machine; 0 takes a free one.

    Raises:
        DeployError: it cannot be reached.
    """
    command = [
        *("kubectl", "--namespace", namespace, "port-forward", "--pod-running-timeout=10s"),
        *(what, f"{local or ''}:{port}"),
    ]
    require("kubectl")
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # Ctrl-C must not end it: the run is aborted through this port
    ) as forward:
        assert forward.stdout
        assert forward.stderr
        listeners = [
            threading.Thread(target=deque, args=(output, 0)) for output in (forward.stdout, forward.stderr)
        ]
        try:
            found = re.search(r"127\.0\.0\.1:(\d+)", forward.stdout.readline())
            if found is None:
                reason = forward.stderr.read().strip()
                raise DeployError(f"{what} in the namespace {namespace} cannot be reached: {reason}")
            # kubectl prints a line for every connection, and would block if nobody read them
            for listener in listeners:
                listener.start()
            yield Forward(int(found[1]), forward)
        finally:
            forward.terminate()
            for listener in listeners:
                if listener.is_alive():
                    listener.join()
