"""Asks an agent: ``python -m flaremesh.metrics.ask /readyz``, or another machine's by its whole URL.

Prints the answer; the exit code is 0 for an answer with status 200, 1 otherwise.
"""

import os
import sys
import urllib.error
import urllib.request
from typing import Final

PORT: Final = 9464
"""The port on which an agent serves by default."""

PORT_VARIABLE: Final = "FLAREMESH_METRICS_PORT"
"""Environment variable that overrides an agent's port; 0 takes a free one."""

HOST_VARIABLE: Final = "FLAREMESH_METRICS_HOST"
"""Environment variable with the address on which an agent serves; all of the machine's without it."""

COMMAND: Final = ("python", "-m", "flaremesh.metrics.ask")

SECONDS: Final = 40.0
"""Longer than the longest answer takes."""

_MOST_BYTES = 64 << 20

_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # agents are asked without a proxy


def ask(url: str) -> int:
    """Print what the agent answers; returns the exit code, 0 if the answer has status 200.

    Args:
        url: what to ask for; a mere path is that of this machine's agent.
    """
    if url.startswith("/"):
        url = f"http://127.0.0.1:{os.environ.get(PORT_VARIABLE, PORT)}{url}"
    try:
        with _DIRECT.open(url, timeout=SECONDS) as reply:
            sys.stdout.write(reply.read(_MOST_BYTES).decode())
            return 0
    except urllib.error.HTTPError as error:
        sys.stdout.write(error.read(_MOST_BYTES).decode(errors="replace"))
    except OSError as error:
        sys.stderr.write(f"Error: no agent answers at {url}: {error}\n")
    return 1


if __name__ == "__main__":
    sys.exit(ask(sys.argv[1]))
