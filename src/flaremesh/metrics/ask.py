"""Asks an agent from inside its container: ``python -m flaremesh.metrics.ask URL``.

Prints the answer; the exit code is 0 for an answer with status 200, 1 otherwise.
"""

import sys
import urllib.error
import urllib.request
from typing import Final

COMMAND: Final = ("python", "-m", "flaremesh.metrics.ask")

_SECONDS = 30.0


def ask(url: str) -> int:
    """Print what the agent answers, and say how that went as an exit code."""
    try:
        with urllib.request.urlopen(url, timeout=_SECONDS) as reply:
            sys.stdout.write(reply.read().decode())
            return 0
    except urllib.error.HTTPError as error:
        sys.stdout.write(error.read().decode())
    except OSError as error:
        sys.stderr.write(f"Error: no agent answers at {url}: {error}\n")
    return 1


if __name__ == "__main__":
    sys.exit(ask(sys.argv[1]))
