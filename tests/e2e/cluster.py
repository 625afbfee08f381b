"""What the tests do on the cluster, as an admin does it: with kubectl, helm and shell commands."""

import json
import re
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_COMMAND_SECONDS = 300
_POLL_SECONDS = 0.5


def call(
    *command: str | Path, check: bool = True, folder: Path | None = None, text: str | None = None
) -> str:
    """What a command prints; it must succeed unless ``check`` is off."""
    ended = subprocess.run(
        [str(part) for part in command],
        input=text,
        capture_output=True,
        text=True,
        timeout=_COMMAND_SECONDS,
        cwd=folder,
        check=False,
    )
    output = ended.stdout + ended.stderr
    if check and ended.returncode:
        raise AssertionError(f"{' '.join(map(str, command))} ended with {ended.returncode}:\n{output}")
    return ended.stdout if check else output


def kubectl(namespace: str, *command: str, **options: Any) -> str:
    return call("kubectl", "--namespace", namespace, *command, **options)


def helm(namespace: str, *command: str | Path, **options: Any) -> str:
    return call("helm", *command, "--namespace", namespace, **options)


def objects(namespace: str, kinds: str, *selection: str) -> list[dict[str, Any]]:
    return list(json.loads(kubectl(namespace, "get", kinds, *selection, "--output", "json"))["items"])


def pod(namespace: str, name: str) -> dict[str, Any]:
    return dict(json.loads(kubectl(namespace, "get", "pod", name, "--output", "json")))


def wait_until(condition: Callable[[], Any], seconds: float, otherwise: Callable[[], str] = str) -> Any:
    """Wait for a condition, and return what made it true."""
    deadline = time.monotonic() + seconds
    while not (met := condition()):
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s: {otherwise()}"
        time.sleep(_POLL_SECONDS)
    return met


def ready(namespace: str, name: str, seconds: int = 120) -> None:
    kubectl(namespace, "rollout", "status", f"statefulset/{name}", f"--timeout={seconds}s")


def commands(readme: Path, section: str) -> str:
    """The shell commands of a section of a README."""
    body = re.split(r"^## ", readme.read_text(), flags=re.MULTILINE)
    (text,) = [part for part in body if part.startswith(section)]
    return "\n".join(line[4:] for line in text.splitlines() if line.startswith("    "))


_CONNECT = """
import socket, sys
try:
    socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=4).close()
    print("connected")
except OSError as error:
    print(type(error).__name__)
"""

_LISTEN = """
import socket, sys
listener = socket.create_server(("0.0.0.0", int(sys.argv[1])))
print("listening", flush=True)
while True:
    listener.accept()[0].close()
"""


def connects(namespace: str, pod_name: str, host: str, port: int) -> bool:
    """Whether a TCP connection from a pod is made."""
    return (
        kubectl(namespace, "exec", pod_name, "--", "python", "-c", _CONNECT, host, str(port)).strip()
        == "connected"
    )


@contextmanager
def listening(namespace: str, pod_name: str, port: int) -> Iterator[None]:
    """A listener in a pod, on a port of its site's range: outside of runs there is none."""
    command = ["kubectl", "--namespace", namespace, "exec", pod_name, "--"]
    with subprocess.Popen([*command, "python", "-c", _LISTEN, str(port)], stdout=subprocess.PIPE) as listener:
        try:
            assert listener.stdout
            assert listener.stdout.readline() == b"listening\n"
            yield
        finally:
            # the end of kubectl alone would leave the process in the pod
            kubectl(namespace, "exec", pod_name, "--", "python", "-c", _KILL, str(port))
            listener.terminate()


_KILL = """
import os, pathlib, signal, sys
for process in pathlib.Path("/proc").glob("[0-9]*"):
    arguments = process.joinpath("cmdline").read_bytes().split(b"\\0")
    if b"create_server" in b"".join(arguments) and sys.argv[1].encode() in arguments:
        if int(process.name) != os.getpid():
            os.kill(int(process.name), signal.SIGKILL)
"""


def collect(namespaces: Mapping[str, str], folder: Path) -> None:
    """Write descriptions, logs and events of all pods into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    for namespace in sorted(set(namespaces.values())):
        for name, command in {
            "objects": ("get", "all,networkpolicies,persistentvolumeclaims,secrets,configmaps"),
            "describe": ("describe", "pods"),
            "events": ("get", "events", "--sort-by=.lastTimestamp"),
            "logs": ("logs", "--selector", "app.kubernetes.io/part-of=flaremesh", "--prefix", "--tail=-1"),
            "logs-before": (
                *("logs", "--selector", "app.kubernetes.io/part-of=flaremesh", "--prefix", "--tail=-1"),
                "--previous",
            ),
        }.items():
            (folder / f"{namespace}-{name}.txt").write_text(kubectl(namespace, *command, check=False))
