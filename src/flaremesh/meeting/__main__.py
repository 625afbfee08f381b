"""A meeting point as a process of its own, which ends when its standard input does, and at SIGTERM.

Each second it says its figures on its standard output.
"""

import argparse
import select
import signal
import sys
from pathlib import Path
from typing import Final

from cryptography import x509

from flaremesh.meeting.point import MeetingPoint, allow_many_files, listen

_SECONDS: Final = 1.0  # from one line of figures to the next


def main() -> None:
    """Join pairs until the end; the server's agent starts this."""
    parser = argparse.ArgumentParser(prog="flaremesh.meeting", description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--mesh", required=True)
    parser.add_argument("--root", type=Path, required=True, help="certificate of the mesh's root")
    parser.add_argument("--revoked", action="append", default=[], help="serial number, in decimal")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    allow_many_files()
    root = x509.load_pem_x509_certificate(given.root.read_bytes())
    point = MeetingPoint(listen(given.port), given.mesh, root, given.revoked)
    try:
        while not select.select([sys.stdin], [], [], _SECONDS)[0]:
            sys.stdout.write(point.figures.line() + "\n")
            sys.stdout.flush()
    finally:
        point.close()


if __name__ == "__main__":
    main()
